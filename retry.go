package errand

import (
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"time"

	"connectrpc.com/connect"
)

// The pace of retries: full jitter between zero and a ceiling that doubles
// from retryBase to retryCap, so that the clients of a restarted server do not
// come back as one wave.
const (
	retryBase  = 50 * time.Millisecond
	retryCap   = 5 * time.Second
	tryTimeout = 30 * time.Second // one try, so that a frozen server is left for another
)

// retry calls fn until it succeeds, is refused for good, ctx ends, or the
// client's bound has passed. unknown reports that a failed try may have
// reached a server and been carried out.
func (c *Client) retry(ctx context.Context, fn func(ctx context.Context, try int) error) (unknown bool, err error) {
	started := time.Now()
	for try := 0; ; try++ {
		err := oneTry(ctx, try, fn)
		if err == nil {
			return false, nil
		}
		if !transient(ctx, err) {
			return false, fromWire(err)
		}
		unknown = unknown || !neverDone(err)
		if ctx.Err() != nil {
			return unknown, fromWire(err)
		}
		wait := backoff(try)
		if time.Since(started)+wait > c.retryFor || sleep(ctx, wait) != nil {
			return unknown, fromWire(err)
		}
	}
}

// oneTry is one try, bounded in time.
func oneTry(ctx context.Context, try int, fn func(ctx context.Context, try int) error) error {
	ctx, cancel := context.WithTimeout(ctx, tryTimeout)
	defer cancel()
	return fn(ctx, try)
}

// call is retry for a call that needs nothing special.
func call[Q, R any](ctx context.Context, c *Client, do func(context.Context, *Q) (*R, error), q *Q) (*R, error) {
	var r *R
	_, err := c.retry(ctx, func(ctx context.Context, _ int) (err error) {
		r, err = do(ctx, q)
		return err
	})
	return r, err
}

// backoff draws the pause after the given try (0 is the first).
func backoff(try int) time.Duration {
	ceiling := min(retryBase<<min(try, 10), retryCap)
	return rand.N(ceiling) + time.Millisecond
}

// sleep pauses for d, or until ctx ends, which is its error.
func sleep(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// transient reports whether err speaks of the way to the server, or of its
// state, rather than of the call. A try that was cut short, by its own bound or
// by ctx, is of that sort: it may or may not have been carried out.
func transient(ctx context.Context, err error) bool {
	if ctx.Err() != nil {
		return true
	}
	e := ErrorOf(err)
	switch {
	case e.Code == CodeUnavailable, e.Code == CodeDeadlineExceeded, e.Reason == ReasonUnknownOutcome:
		return true
	case connect.IsWireError(err):
		return false
	}
	var ne net.Error
	return errors.As(err, &ne) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, io.EOF)
}

// neverDone reports whether a transient error proves that nothing was done: no
// connection was made, or a server said so.
func neverDone(err error) bool {
	e := ErrorOf(err)
	if e.Reason == ReasonLedgerDown || e.Reason == ReasonShuttingDown {
		return true
	}
	var op *net.OpError
	return errors.As(err, &op) && op.Op == "dial"
}
