package postgres

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/errandhq/errand/job"
)

// The SQLSTATEs that decide something here.
const (
	stateDivisionByZero  = "22012" // raised on purpose: see knownElsewhere
	stateUniqueViolation = "23505"
	stateNoPartition     = "23514" // no partition of relation "archive" found for row
	stateSerialization   = "40001"
	stateDeadlock        = "40P01"
	stateLockTimeout     = "55P03"
)

// sqlState returns the SQLSTATE of the server's error in err's chain, or "".
func sqlState(err error) string {
	var pg *pgconn.PgError
	if errors.As(err, &pg) {
		return pg.Code
	}
	return ""
}

// transient reports whether the same transaction may well succeed when it is
// run again: the server has rolled it back and said so.
func transient(err error) bool {
	switch sqlState(err) {
	case stateSerialization, stateDeadlock:
		return true
	}
	return false
}

// ended reports whether the server as a whole refused or went away, rather
// than the statement: connection exceptions, shutdown, too many connections,
// no space, a standby that takes no writes.
func ended(code string) bool {
	return strings.HasPrefix(code, "08") || strings.HasPrefix(code, "57P") ||
		strings.HasPrefix(code, "53") || code == "25006" || code == "25P03"
}

// wrap turns an error of the driver into the caller's, for an operation that
// has changed nothing.
func wrap(op string, err error) error {
	var own *job.Error
	switch {
	case err == nil:
		return nil
	case errors.As(err, &own):
		return err
	case errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
		return fmt.Errorf("%s: %w", op, err)
	}
	// A server that cannot even start a connection is away, whatever its code
	// (a full disk gives XX000).
	var unreached *pgconn.ConnectError
	if code := sqlState(err); code != "" && !ended(code) && !errors.As(err, &unreached) {
		return fmt.Errorf("%s: %w", op, err)
	}
	return job.Errorf(job.Unavailable, job.ReasonLedgerDown, "%s: the ledger's database is not available: %w", op, err)
}

// wrapCommit is wrap for an error that came after a commit was sent. Only an
// error of the server's own says that it did not happen.
func wrapCommit(op string, err error) error {
	var pg *pgconn.PgError
	if errors.As(err, &pg) && !strings.HasPrefix(pg.Code, "57P") && !strings.HasPrefix(pg.Code, "08") {
		return wrap(op, err)
	}
	e := *job.ErrUnknown
	e.Err = err
	e.Message = op + ": " + e.Message
	return &e
}
