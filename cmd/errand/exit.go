package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"syscall"

	"connectrpc.com/connect"
	"github.com/spf13/cobra"

	errand "github.com/errandhq/errand"
	"github.com/errandhq/errand/job"
)

// The exit statuses. Scripts branch on them; they never change.
const (
	exitDone        = 0
	exitFailed      = 1   // the job, or some lines of the input, or the command failed
	exitUsage       = 2   // unknown flag, bad argument: nothing was changed
	exitNotFound    = 3   // no such job
	exitRefused     = 4   // not allowed, or not in this state
	exitUnreachable = 5   // the server, or the ledger, cannot be reached
	exitInterrupted = 130 // by Ctrl-C or SIGTERM
)

const exitHelp = `Exit status:
  0    done
  1    failed
  2    wrong usage: unknown flag, bad argument
  3    not found
  4    refused: not allowed, or not in this state
  5    server not reachable
  130  interrupted`

// exitError is an error with the exit status that it stands for.
type exitError struct {
	code int
	err  error
	hint string // what to do, on a line of its own
}

func (e *exitError) Error() string { return e.err.Error() }
func (e *exitError) Unwrap() error { return e.err }

// usageError says that the command line is wrong.
func usageError(format string, args ...any) error {
	return &exitError{code: exitUsage, err: fmt.Errorf(format, args...)}
}

// refused says that what was asked is not to be had in the present state.
func refused(format string, args ...any) error {
	return &exitError{code: exitRefused, err: fmt.Errorf(format, args...)}
}

// errSilent ends the command with status 1 when all has been said.
var errSilent = &exitError{code: exitFailed}

// report prints err, if any, with a hint, and returns the exit status.
func (a *app) report(ctx context.Context, cmd *cobra.Command, err error) int {
	a.flush()
	if err == nil {
		return exitDone
	}
	var e *exitError
	if errors.As(err, &e) && e.err == nil {
		return e.code
	}
	code := exitCode(ctx, err)
	if code == exitInterrupted {
		a.warnf("interrupted")
		return code
	}
	a.warnf("%s", message(err))
	var ledger *job.Error // the SDK's errors are of its own type
	switch {
	case e != nil && e.hint != "":
		fmt.Fprintln(a.stderr, e.hint)
	case code == exitUsage && cmd != nil:
		fmt.Fprintf(a.stderr, "Run '%s --help' for usage.\n", cmd.CommandPath())
	case code == exitUnreachable && errors.As(err, &ledger):
		fmt.Fprintf(a.stderr, "Is the database running? It is named by --ledger or ERRAND_LEDGER.\n")
	case code == exitUnreachable && a.server != "":
		fmt.Fprintf(a.stderr, "Is the server running? Start one with 'errand serve', or name another with --server or ERRAND_SERVER.\n")
	}
	return code
}

// exitCode classifies err. What a signal ended is interrupted, whatever error
// the interruption surfaced as.
func exitCode(ctx context.Context, err error) int {
	var sig interrupted
	if errors.As(err, &sig) {
		return exitInterrupted
	}
	var e *exitError
	if errors.As(err, &e) {
		return e.code
	}
	if ctx.Err() != nil {
		return exitInterrupted
	}
	var refusal *errand.Error
	if errors.As(err, &refusal) {
		return codeStatus(job.Code(refusal.Code))
	}
	var own *job.Error
	if errors.As(err, &own) {
		return codeStatus(own.Code)
	}
	if errors.Is(err, syscall.ECONNREFUSED) {
		return exitUnreachable
	}
	return exitFailed
}

func codeStatus(c job.Code) int {
	switch c {
	case job.InvalidArgument, job.OutOfRange:
		return exitUsage
	case job.NotFound:
		return exitNotFound
	case job.AlreadyExists, job.PermissionDenied, job.Unauthenticated,
		job.ResourceExhausted, job.FailedPrecondition, job.Aborted:
		return exitRefused
	case job.Unavailable:
		return exitUnreachable
	default:
		return exitFailed
	}
}

// message is err for people, on lines that no control character can spoil.
func message(err error) string {
	text := strings.TrimPrefix(err.Error(), "errand: ") // the SDK says so, and so does warnf
	var refusal *errand.Error
	if errors.As(err, &refusal) {
		if !refusal.Holder.IsZero() && !strings.Contains(text, refusal.Holder.String()) {
			text += " (held by job " + refusal.Holder.String() + ")"
		}
		if refusal.Code == connect.CodeUnimplemented {
			text += " (is this the address of an Errand server?)"
		}
	}
	return printable(text)
}
