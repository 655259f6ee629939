package server

import (
	"context"
	"errors"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/errandhq/errand/job"
	"github.com/errandhq/errand/ledger"
)

// fake is a ledger for tests of what is in front of the engine: it takes every
// job and forgets it, holds nothing, and can be down, or slow to insert.
type fake struct {
	down    atomic.Bool
	entered chan struct{} // if set, told of each Insert
	release chan struct{} // if set, each Insert waits for it

	slow  time.Duration // of each Counts
	asked atomic.Int32  // so many Counts

	mu     sync.Mutex
	counts []ledger.Count // what it says that it holds
}

var _ ledger.Ledger = (*fake)(nil)

var errDown = errors.New("dial tcp 10.9.8.7:5432: connection refused")

func (f *fake) Now(context.Context) (time.Time, error) {
	if f.down.Load() {
		return time.Time{}, job.Errorf(job.Unavailable, job.ReasonLedgerDown, "clock: %w", errDown)
	}
	return time.Now(), nil
}

func (f *fake) Pulse(ctx context.Context, _ time.Time, _ ledger.Ask) (p ledger.Pulse, err error) {
	p.Now, err = f.Now(ctx)
	return p, err
}

func (f *fake) Insert(_ context.Context, _ time.Time, items []ledger.Item) ([]ledger.Inserted, error) {
	if f.entered != nil {
		f.entered <- struct{}{}
	}
	if f.release != nil {
		<-f.release
	}
	if f.down.Load() {
		return nil, job.Errorf(job.Unavailable, job.ReasonLedgerDown, "insert: %w", errDown)
	}
	out := make([]ledger.Inserted, len(items))
	for i := range items {
		out[i] = ledger.Inserted{Holder: items[i].Job.ID, State: items[i].Job.State}
	}
	return out, nil
}

func (f *fake) Claim(_ context.Context, _ time.Time, reqs []ledger.Claim) ([]ledger.Claimed, error) {
	return make([]ledger.Claimed, len(reqs)), nil
}

func (f *fake) Succeed(_ context.Context, _ time.Time, items []ledger.Success) ([]ledger.Succeeded, error) {
	return make([]ledger.Succeeded, len(items)), nil
}

func (f *fake) Apply(_ context.Context, _ time.Time, p ledger.Pick, _ func(*job.Job) error) ([]ledger.Applied, error) {
	out := make([]ledger.Applied, len(p.IDs))
	for i := range out {
		out[i].Err = job.ErrNotFound
	}
	return out, nil
}

func (f *fake) Listen(ctx context.Context, _ func(string)) error { <-ctx.Done(); return nil }

func (f *fake) Beat(_ context.Context, _ time.Time, ids []job.ID) ([]ledger.Renewed, error) {
	out := make([]ledger.Renewed, len(ids))
	for i := range out {
		out[i].State = ledger.SessionLive
	}
	return out, nil
}

func (f *fake) MoveSession(context.Context, time.Time, job.ID, []ledger.SessionState, ledger.SessionState, int64) (bool, error) {
	return true, nil
}

func (f *fake) Upkeep(context.Context, time.Time, ledger.Keep) (ledger.Upkept, error) {
	return ledger.Upkept{}, nil
}

func (f *fake) Wake(context.Context, []string) error                           { return nil }
func (f *fake) Close() error                                                   { return nil }
func (f *fake) OpenSession(context.Context, ledger.Session) error              { return nil }
func (f *fake) ListSessions(context.Context, bool) ([]ledger.Session, error)   { return nil, nil }
func (f *fake) Held(context.Context, []job.ID) ([]ledger.Lease, error)         { return nil, nil }
func (f *fake) SetPaused(context.Context, time.Time, string, bool) error       { return nil }
func (f *fake) Paused(context.Context) ([]string, error)                       { return nil, nil }
func (f *fake) OldestReady(context.Context) ([]ledger.Oldest, error)           { return nil, nil }
func (f *fake) Get(context.Context, []job.ID) ([]job.Job, error)               { return nil, nil }
func (f *fake) List(context.Context, ledger.Query) ([]job.Job, error)          { return nil, nil }
func (f *fake) CountDead(context.Context, ledger.DeadFilter, int) (int, error) { return 0, nil }

func (f *fake) Heads(_ context.Context, _ time.Time, reqs []ledger.Head) ([]ledger.Headed, error) {
	return make([]ledger.Headed, len(reqs)), nil
}

func (f *fake) HoldRelay(context.Context, time.Time, job.ID, time.Duration) (bool, int64, error) {
	return true, 1, nil
}

func (f *fake) Identity(context.Context) (string, error)                  { return "0123456789abcdef", nil }
func (f *fake) SetRoute(context.Context, time.Time, string, string) error { return nil }
func (f *fake) Routes(context.Context) (map[string]string, error)         { return nil, nil }

func (f *fake) FoldStats(context.Context, ledger.Hour, func(ledger.Sums) (ledger.Sums, error)) error {
	return nil
}

func (f *fake) Counts(context.Context) ([]ledger.Count, error) {
	if f.down.Load() {
		return nil, job.Errorf(job.Unavailable, job.ReasonLedgerDown, "counters: %w", errDown)
	}
	f.asked.Add(1)
	time.Sleep(f.slow)
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Clone(f.counts), nil
}

// holds sets what it says that it holds.
func (f *fake) holds(counts ...ledger.Count) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.counts = counts
}

func (f *fake) ReadStats(context.Context, ledger.Hour, string, func(ledger.Tally) bool, func(ledger.Fault) bool) error {
	return nil
}
