package errand

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"time"

	errandv1 "github.com/errandhq/errand/gen/errand/v1"
)

// watchSilence is how long a watch waits for a sign of life: servers give one every
// ten seconds.
const watchSilence = 35 * time.Second

// WatchQuery chooses jobs: by ids, or else by queue, kind, both or neither.
type WatchQuery struct {
	IDs   []ID // at most 1000; nil: by queue and kind
	Queue string
	Kind  string
}

// Event is what became of a job.
type Event struct {
	ID       ID
	Queue    string
	Kind     string
	State    State
	Attempt  int
	Version  int64
	At       time.Time // the ledger's, just before the change; of a state that was read, before that
	Progress []byte
	Reason   string // why dead or cancelled
	Deleted  bool   // there is no such job, or not any more

	// Lagged, alone: events were left out, because this program or a server was
	// too slow or a line broke. Jobs watched by id are told again where they stand.
	Lagged bool
}

// final reports whether nothing more is to be expected.
func (e *Event) final() bool { return e.Deleted || e.State.Final() }

// errEnough ends a stream whose reader has heard enough.
var errEnough = errors.New("enough")

// Watch tells what becomes of jobs, as it happens. It goes on through outages and
// from server to server as calls do, and ends after an error, or when ctx ends.
//
// By ids it begins with the state that each job has, tells each state of a job once and in order,
// misses no final one, and ends when every job was final or gone. By queue or
// kind it tells what happens from now on and may miss events, which Lagged tells; servers on
// one ledger tell each other by Redis, and without one each tells its own.
func (c *Client) Watch(ctx context.Context, q WatchQuery) iter.Seq2[Event, error] {
	return func(yield func(Event, error) bool) {
		if q.IDs != nil && len(q.IDs) == 0 {
			return // a list that came out empty chooses no job, not every job
		}
		w := &watch{client: c, query: q, open: map[ID]int64{}, yield: yield}
		for _, id := range q.IDs {
			w.open[id] = -1
		}
		if err := w.run(ctx); err != nil {
			yield(Event{}, err)
		}
	}
}

// watch is a Watch under way.
type watch struct {
	client *Client
	query  WatchQuery
	open   map[ID]int64 // jobs watched by id that are not final, and the version that was told
	yield  func(Event, error) bool
	well   time.Time // the last sign of life
}

// run watches through one stream after another. It returns nil when the reader has heard enough.
func (w *watch) run(ctx context.Context) error {
	w.well = time.Now()
	for try := 0; ; try++ {
		began := w.well
		err := w.stream(ctx)
		switch {
		case errors.Is(err, errEnough):
			return nil
		case ctx.Err() != nil:
			return fromWire(context.Cause(ctx))
		case err != nil && !transient(ctx, err):
			return fromWire(err)
		}
		if w.well.After(began) {
			try = 0
		}
		wait := backoff(try)
		if time.Since(w.well)+wait > w.client.retryFor {
			return fromWire(err)
		}
		if sleep(ctx, wait) != nil {
			return fromWire(context.Cause(ctx))
		}
		if len(w.query.IDs) == 0 && !w.yield(Event{Lagged: true}, nil) {
			return nil
		}
	}
}

// errSilent is a line on which nothing comes.
var errSilent = &Error{Code: CodeUnavailable, Message: fmt.Sprintf("the server said nothing for %s", watchSilence)}

// stream is one call. Its watchSilence ends it: the line, or the server, is dead.
func (w *watch) stream(ctx context.Context) error {
	at := w.client.here()
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	silent := time.AfterFunc(watchSilence, func() { cancel(errSilent) })
	defer silent.Stop()
	r := &errandv1.WatchJobsRequest{Queue: w.query.Queue, Kind: w.query.Kind}
	for id := range w.open {
		r.Ids = append(r.Ids, id.String())
	}
	err := w.client.svc.WatchJobs(ctx, r, func(m *errandv1.WatchJobsResponse) error {
		silent.Stop() // the reader takes the time it takes
		defer silent.Reset(watchSilence)
		w.well = time.Now()
		return w.tell(m)
	})
	if errors.Is(context.Cause(ctx), errSilent) {
		w.client.leave(at)
		return errSilent
	}
	if err == nil {
		err = &Error{Code: CodeUnavailable, Message: "the server ended the watch"}
	}
	return err
}

// tell passes a message on to the reader, who by ids hears of each version once.
func (w *watch) tell(m *errandv1.WatchJobsResponse) error {
	if m.GetLagged() && !w.yield(Event{Lagged: true}, nil) {
		return errEnough
	}
	if m.GetEvent() == nil {
		return nil
	}
	e := eventOf(m.GetEvent())
	if len(w.query.IDs) > 0 {
		told, open := w.open[e.ID]
		if !open || e.Version <= told && !e.Deleted {
			return nil
		}
		if w.open[e.ID] = e.Version; e.final() {
			delete(w.open, e.ID)
		}
	}
	if !w.yield(e, nil) || len(w.query.IDs) > 0 && len(w.open) == 0 {
		return errEnough
	}
	return nil
}

func eventOf(e *errandv1.JobEvent) Event {
	return Event{
		ID: wireID(e.GetId()), Queue: e.GetQueue(), Kind: e.GetKind(), State: wireState(e.GetState()),
		Attempt: int(e.GetAttempt()), Version: e.GetVersion(), At: timeOf(e.GetAt()),
		Progress: e.GetProgress(), Reason: e.GetReason(), Deleted: e.GetDeleted(),
	}
}

// JobState is what servers know of a job without asking the ledger.
type JobState struct {
	ID          ID
	Queue       string
	Kind        string
	State       State
	Reason      string
	Priority    int
	Attempt     int
	MaxAttempts int
	Crashes     int
	RunAt       time.Time
	Progress    []byte // not of a job that succeeded
	Version     int64
	Token       int64
	Age         time.Duration // since when the ledger was known to say so
}

// States returns the states of those of the jobs that exist, in the order of
// the ids, fast: from the servers' cache, where it has them. A state that may still change is at
// most a second old; a final one may have been deleted since. Jobs and Job ask the ledger.
func (c *Client) States(ctx context.Context, ids ...ID) ([]JobState, error) {
	r, err := call(ctx, c, c.svc.GetJobs, &errandv1.GetJobsRequest{Ids: wireIDs(ids), View: errandv1.JobView_JOB_VIEW_STATE})
	if err != nil {
		return nil, err
	}
	out := make([]JobState, len(r.GetJobs()))
	for i, j := range r.GetJobs() {
		out[i] = infoOf(j).Status()
		out[i].Age = durationOf(j.GetAge())
	}
	return out, nil
}

// Status is the part of a job that States tells.
func (j *JobInfo) Status() JobState {
	return JobState{
		ID: j.ID, Queue: j.Queue, Kind: j.Kind, State: j.State, Reason: j.Reason, Priority: j.Priority,
		Attempt: j.Attempt, MaxAttempts: j.MaxAttempts, Crashes: j.Crashes, RunAt: j.RunAt,
		Progress: j.Progress, Version: j.Version, Token: j.Token,
	}
}
