package config

import (
	"fmt"
	"net/url"
	"strings"
)

// The engines that a ledger address may name.
const (
	SQLite   = "sqlite"
	Postgres = "postgres"
)

// Ledger is a ledger's address, taken apart.
type Ledger struct {
	Engine string // SQLite or Postgres
	Path   string // of SQLite's file
	DSN    string // of PostgreSQL: the whole address, with its password
}

// ParseLedger reads "sqlite:PATH", "postgres://…" or "postgresql://…". Its
// errors never show what may be a password.
func ParseLedger(s string) (Ledger, error) {
	scheme, rest, ok := strings.Cut(s, ":")
	switch {
	case ok && scheme == SQLite && rest != "" && !strings.ContainsRune(rest, 0):
		return Ledger{Engine: SQLite, Path: rest}, nil
	case ok && scheme == SQLite:
		return Ledger{}, fmt.Errorf("ledger %s: names no file: it is of the form sqlite:PATH", redact(s))
	case ok && (scheme == "postgres" || scheme == "postgresql") && strings.HasPrefix(rest, "//"):
		if _, err := url.Parse(s); err != nil {
			return Ledger{}, fmt.Errorf("ledger %s: is not a valid URL", redact(s))
		}
		return Ledger{Engine: Postgres, DSN: s}, nil
	}
	return Ledger{}, fmt.Errorf("ledger %s: is not one of sqlite:PATH, postgres://…, postgresql://…", redact(s))
}

// String shows where the ledger is, and no password.
func (l Ledger) String() string {
	if l.Engine == SQLite {
		return SQLite + ":" + l.Path
	}
	return redact(l.DSN)
}

// GoString implements fmt.GoStringer.
func (l Ledger) GoString() string { return l.String() }

// redact keeps of an address what is surely no secret: scheme, host and path.
// Of one that is no URL it keeps the scheme at most.
func redact(s string) string {
	scheme, rest, ok := strings.Cut(s, ":")
	switch {
	case s == "":
		return `""`
	case ok && scheme == SQLite:
		return s
	case !ok && !strings.ContainsAny(s, "@= "):
		return fmt.Sprintf("%q", s) // a bare word or a path
	}
	u, err := url.Parse(s)
	if err != nil || !strings.HasPrefix(rest, "//") {
		return "(not shown)"
	}
	out := url.URL{Scheme: u.Scheme, Host: u.Host, Path: u.Path}
	if u.User != nil {
		out.User = url.User(u.User.Username())
	}
	return out.String()
}
