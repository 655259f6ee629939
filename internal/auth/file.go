package auth

import (
	"bufio"
	"bytes"
	"encoding/hex"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strings"

	"github.com/errandhq/errand/job"
)

// The bounds of a token file.
const (
	maxFile    = 1 << 20 // bytes
	maxEntries = 1000
)

// Caller is who makes a call. Name is what idempotency keys are scoped to.
type Caller struct {
	Name string
	Role Role
}

type entry struct {
	Caller
	hash [32]byte
}

// parse reads a token file: one "name role hash" a line, separated by white
// space, where role may join several by commas and hash is the SHA-256 of the
// token in hexadecimal. Blank lines and lines that begin with # say nothing.
// Names may repeat (a token is replaced by adding the new one first); hashes may
// not. An error names the line and never shows the hash.
func parse(r io.Reader) ([]entry, error) {
	var entries []entry
	seen := map[[32]byte]int{}
	lines := bufio.NewScanner(r)
	for n := 1; lines.Scan(); n++ {
		text := strings.TrimSpace(lines.Text())
		if text == "" || strings.HasPrefix(text, "#") {
			continue
		}
		e, err := parseLine(text)
		if err != nil {
			return nil, fmt.Errorf("line %d: %w", n, err)
		}
		if first, ok := seen[e.hash]; ok {
			return nil, fmt.Errorf("line %d: the token of line %d again", n, first)
		}
		if len(entries) == maxEntries {
			return nil, fmt.Errorf("line %d: more than %d tokens", n, maxEntries)
		}
		seen[e.hash] = n
		entries = append(entries, e)
	}
	return entries, lines.Err()
}

func parseLine(text string) (entry, error) {
	var e entry
	fields := strings.Fields(text)
	if len(fields) != 3 {
		return e, fmt.Errorf("has %d fields; a line is: name role hash", len(fields))
	}
	if err := job.CheckName("name", fields[0]); err != nil {
		return e, err
	}
	role, err := ParseRole(fields[1])
	if err != nil {
		return e, err
	}
	e.Name, e.Role = fields[0], role
	if len(fields[2]) != 2*len(e.hash) {
		return e, fmt.Errorf("the hash of %s has %d characters; a SHA-256 has %d hexadecimal digits",
			e.Name, len(fields[2]), 2*len(e.hash))
	}
	if _, err := hex.Decode(e.hash[:], []byte(fields[2])); err != nil {
		return e, fmt.Errorf("the hash of %s is not hexadecimal", e.Name)
	}
	return e, nil
}

// readFile reads a token file whole, and its mode. A file that others may
// write is refused: whoever can add a line is an operator.
func readFile(path string) ([]byte, fs.FileMode, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, 0, err
	}
	defer func() { _ = f.Close() }()
	st, err := f.Stat()
	if err != nil {
		return nil, 0, err
	}
	if !st.Mode().IsRegular() {
		return nil, 0, fmt.Errorf("%s is not a regular file", path)
	}
	if st.Mode().Perm()&0o022 != 0 {
		return nil, 0, fmt.Errorf("%s may be written by others (mode %04o): chmod 600 it", path, st.Mode().Perm())
	}
	b, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err == nil && len(b) > maxFile {
		err = fmt.Errorf("%s has more than %d bytes", path, maxFile)
	}
	return b, st.Mode().Perm(), err
}

func parseFile(path string, content []byte) ([]entry, error) {
	entries, err := parse(bytes.NewReader(content))
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	if len(entries) == 0 {
		return nil, fmt.Errorf("%s holds no token: nobody could call (errand token new makes one)", path)
	}
	return entries, nil
}
