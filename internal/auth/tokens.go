package auth

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"fmt"
	"log/slog"
	"os"
	"sync/atomic"
	"time"

	"github.com/errandhq/errand/job"
)

// reloadEvery is how often Watch looks at the token file.
const reloadEvery = 2 * time.Second

// Tokens are the callers that a token file admits. Its methods are safe for
// concurrent use.
type Tokens struct {
	path    string
	log     *slog.Logger
	content []byte // last accepted or refused; Watch's own after Load
	trouble string // last logged, so that a missing file is not logged every two seconds
	entries atomic.Pointer[[]entry]
}

// Load reads the token file at path. It refuses a file that is malformed, empty
// or writable by others, and warns of one that others may read.
func Load(path string, log *slog.Logger) (*Tokens, error) {
	t := &Tokens{path: path, log: log}
	content, mode, err := readFile(path)
	if err != nil {
		return nil, fmt.Errorf("token file: %w", err)
	}
	if mode&0o044 != 0 {
		log.Warn("the token file may be read by others", "file", path, "mode", fmt.Sprintf("%04o", mode))
	}
	entries, err := parseFile(path, content)
	if err != nil {
		return nil, fmt.Errorf("token file: %w", err)
	}
	t.content = content
	t.entries.Store(&entries)
	return t, nil
}

// Authenticate returns the caller whose token an Authorization header carries,
// or an *job.Error with code Unauthenticated. How long it takes does not depend
// on how much of a hash was right.
func (t *Tokens) Authenticate(header string) (Caller, error) {
	if header == "" {
		return Caller{}, job.Errorf(job.Unauthenticated, job.ReasonUnauthenticated,
			"a token is needed: send Authorization: Bearer TOKEN")
	}
	token, ok := bearer(header)
	if !ok {
		return Caller{}, job.Errorf(job.Unauthenticated, job.ReasonUnauthenticated,
			"the Authorization header is not of the form: Bearer TOKEN")
	}
	sum := sha256.Sum256([]byte(token))
	var found Caller
	for _, e := range *t.entries.Load() {
		if subtle.ConstantTimeCompare(sum[:], e.hash[:]) == 1 {
			found = e.Caller
		}
	}
	if found.Role == 0 {
		return Caller{}, job.Errorf(job.Unauthenticated, job.ReasonUnauthenticated, "the token is not known here")
	}
	return found, nil
}

// Watch takes up changes of the file until ctx ends: within two seconds, and
// at once for each value on now (SIGHUP, by custom). A changed file that is not
// acceptable is logged, and the tokens before it stay valid.
func (t *Tokens) Watch(ctx context.Context, now <-chan os.Signal) {
	tick := time.NewTicker(reloadEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-now:
		case <-tick.C:
		}
		t.reload()
	}
}

// reload compares contents rather than times: a file may change twice within
// the resolution of its clock.
func (t *Tokens) reload() {
	content, _, err := readFile(t.path)
	if err == nil && bytes.Equal(content, t.content) {
		t.trouble = ""
		return
	}
	var entries []entry
	if err == nil {
		t.content = content
		entries, err = parseFile(t.path, content)
	}
	if err != nil {
		if err.Error() != t.trouble {
			t.log.Error("the token file was not taken up; the tokens before it stay valid", "error", err)
		}
		t.trouble = err.Error()
		return
	}
	t.trouble = ""
	t.entries.Store(&entries)
	t.log.Info("the token file was taken up", "file", t.path, "tokens", len(entries))
}
