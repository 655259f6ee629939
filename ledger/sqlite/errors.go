package sqlite

import (
	"errors"
	"fmt"
	"io/fs"
	"syscall"

	driver "modernc.org/sqlite"
	lib "modernc.org/sqlite/lib"

	"github.com/errandhq/errand/job"
)

// primaryCode returns SQLite's primary result code of err, or 0.
func primaryCode(err error) int {
	var e *driver.Error
	if errors.As(err, &e) {
		return e.Code() & 0xff
	}
	return 0
}

// fatal reports whether err is of the database and not of the operation: SQLite
// may have rolled the whole transaction back.
func fatal(err error) bool {
	switch primaryCode(err) {
	case lib.SQLITE_FULL, lib.SQLITE_IOERR, lib.SQLITE_NOMEM, lib.SQLITE_BUSY, lib.SQLITE_CORRUPT,
		lib.SQLITE_NOTADB, lib.SQLITE_READONLY, lib.SQLITE_CANTOPEN, lib.SQLITE_INTERRUPT, lib.SQLITE_PROTOCOL:
		return true
	}
	return false
}

// wrapError gives an error of SQLite, of an operation that changed nothing, its
// code and says what to do. Errors that already are the caller's pass.
func wrapError(op string, err error) error {
	var own *job.Error
	if errors.As(err, &own) {
		return err
	}
	what := ""
	code := job.Unavailable
	switch primaryCode(err) {
	case lib.SQLITE_FULL:
		what = "the disk is full; make room and try again"
	case lib.SQLITE_IOERR:
		what = "the disk failed to read or write"
	case lib.SQLITE_BUSY, lib.SQLITE_LOCKED, lib.SQLITE_PROTOCOL:
		what = "another program keeps the database locked"
	case lib.SQLITE_NOMEM:
		what = "memory ran out"
	case lib.SQLITE_READONLY, lib.SQLITE_CANTOPEN, lib.SQLITE_PERM, lib.SQLITE_AUTH:
		code, what = job.FailedPrecondition, "the file or its directory cannot be written; check owner and mode"
	case lib.SQLITE_CORRUPT, lib.SQLITE_NOTADB:
		code, what = job.FailedPrecondition, "the file is damaged or not an SQLite database; restore it from a backup"
	default:
		return fmt.Errorf("ledger: %s: %w", op, err)
	}
	return job.Errorf(code, job.ReasonLedgerDown, "ledger: %s: %s: %w", op, what, err)
}

// commitError is wrapError for a COMMIT: where the disk failed while writing the
// outcome cannot be known.
func commitError(err error) error {
	if primaryCode(err) == lib.SQLITE_IOERR {
		return job.Errorf(job.Unknown, job.ReasonUnknownOutcome,
			"ledger: the disk failed during a commit, the outcome is unknown: repeat with the same ids: %w", err)
	}
	return wrapError("commit", err)
}

// fileError is for what the operating system says about the path.
func fileError(path string, err error) error {
	switch {
	case errors.Is(err, fs.ErrPermission), errors.Is(err, syscall.EROFS):
		return job.Errorf(job.FailedPrecondition, job.ReasonLedgerDown,
			"ledger %s: the file or its directory cannot be written; check owner and mode: %w", path, err)
	case errors.Is(err, fs.ErrNotExist):
		return job.Errorf(job.FailedPrecondition, job.ReasonLedgerDown,
			"ledger %s: the directory does not exist; make it first: %w", path, err)
	default:
		return job.Errorf(job.Unavailable, job.ReasonLedgerDown, "ledger %s: %w", path, err)
	}
}
