package auth

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"strings"
)

// tokenPrefix makes a token recognisable to people and to scanners for secrets.
const tokenPrefix = "errand_"

// maxToken bounds what a caller may send as a token, in bytes.
const maxToken = 512

// Token is a bearer token. It prints itself redacted, so that no log or error
// shows it by accident; Reveal returns what the client sends.
type Token struct{ secret string }

// NewToken makes a token of 256 random bits.
func NewToken() Token {
	var b [32]byte
	rand.Read(b[:]) // never fails: see its documentation
	return Token{tokenPrefix + base64.RawURLEncoding.EncodeToString(b[:])}
}

// Reveal returns the token itself.
func (t Token) Reveal() string { return t.secret }

// Hash returns what the token file holds: the SHA-256 of the token, in
// hexadecimal. A slow hash would add nothing: nobody guesses 256 bits.
func (t Token) Hash() string {
	sum := sha256.Sum256([]byte(t.secret))
	return hex.EncodeToString(sum[:])
}

// String implements fmt.Stringer.
func (t Token) String() string { return tokenPrefix + "…" }

// GoString implements fmt.GoStringer.
func (t Token) GoString() string { return t.String() }

// Line returns the line of the token file that admits this token.
func (t Token) Line(name string, role Role) (string, error) {
	line := fmt.Sprintf("%s %s %s", name, role, t.Hash())
	if _, err := parseLine(line); err != nil {
		return "", err
	}
	return line, nil
}

// bearer takes the token out of an Authorization header.
func bearer(header string) (string, bool) {
	scheme, token, ok := strings.Cut(header, " ")
	token = strings.TrimSpace(token)
	if !ok || !strings.EqualFold(scheme, "Bearer") || token == "" || len(token) > maxToken {
		return "", false
	}
	return token, true
}
