package sqlite

import (
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/errandhq/errand/job"
)

// fileLock is the mark of the one owning process: a lock of the operating
// system on a file beside the database, which ends with the process however it
// ends. The file stays, and holds the process id of its last owner for people.
type fileLock struct{ f *os.File }

// errHeld is what lockFile returns when another open file has the lock.
var errHeld = errors.New("held by another")

func takeLock(path string) (*fileLock, error) {
	name := path + ".lock"
	f, err := os.OpenFile(name, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fileError(path, err)
	}
	if err := lockFile(f); err != nil {
		owner, _ := os.ReadFile(name) // best effort: the message is useful without it
		_ = f.Close()
		if !errors.Is(err, errHeld) {
			return nil, fileError(path, err)
		}
		return nil, job.Errorf(job.FailedPrecondition, job.ReasonLedgerLocked,
			"ledger %s is in use by %s: an SQLite ledger has one owning process; stop it, connect to it as a server, or use PostgreSQL",
			path, ownerName(owner))
	}
	err = f.Truncate(0)
	if err == nil {
		_, err = f.WriteAt(fmt.Appendf(nil, "%d\n", os.Getpid()), 0)
	}
	if err != nil {
		_ = f.Close()
		return nil, fileError(path, err)
	}
	return &fileLock{f: f}, nil
}

func ownerName(content []byte) string {
	pid := strings.TrimSpace(string(content))
	switch pid {
	case "":
		return "another process"
	case fmt.Sprint(os.Getpid()):
		return "this very process (" + pid + ")"
	default:
		return "process " + pid
	}
}

func (l *fileLock) release() error { return l.f.Close() }
