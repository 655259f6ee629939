package verify

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	errand "github.com/errandhq/errand"
	"github.com/errandhq/errand/internal/history"
)

// loading is a load on its way: what was promised, and what workers did.
type loading struct {
	b     *bench
	way   *lossy
	began time.Time

	mu   sync.Mutex
	hist history.History
	runs map[history.Run]int // where in hist.Runs: by job and token alone
}

const loaders = 3 // producers, and workers

// underLoad runs producers and workers over a network that loses answers, stops a worker
// and starts another in the middle, and judges what they wrote down.
func underLoad(ctx context.Context, b *bench) (string, error) {
	l := &loading{b: b, way: newLossy(b.svc, b.conf.Seed), began: time.Now(), runs: map[history.Run]int{}}
	l.hist.Accepted = map[errand.ID]history.Promise{}
	working, stop := context.WithCancel(ctx)
	defer stop()
	problems := make(chan error, 2*loaders+1)
	var workers sync.WaitGroup
	for range loaders - 1 {
		workers.Go(func() { problems <- l.work(working) })
	}
	workers.Go(func() { problems <- l.workInTurns(working) })
	var producers sync.WaitGroup
	for n := range loaders {
		producers.Go(func() { problems <- l.produce(ctx, n) })
	}
	producers.Wait()
	watched := l.watch(ctx)
	err := l.ended(ctx)
	stop()
	workers.Wait()
	err = errors.Join(err, <-watched)
	close(problems)
	for p := range problems {
		err = errors.Join(err, p)
	}
	if err != nil {
		return "", err
	}
	return l.judge(ctx)
}

// now is this run's clock.
func (l *loading) now() int64 { return int64(time.Since(l.began)) + 1 }

// produce enqueues a share of the load, over the lossy way, each batch twice.
func (l *loading) produce(ctx context.Context, n int) error {
	client := errand.NewClient(l.way, nil)
	rng := rand.New(rand.NewPCG(l.b.conf.Seed, uint64(10+n)))
	for left := share(l.b.conf.Jobs, n); left > 0; {
		batch := make([]errand.EnqueueParams, min(left, 1+rng.IntN(20)))
		for i := range batch {
			opts := []errand.EnqueueOption{errand.Priority(rng.IntN(10))}
			if rng.IntN(10) == 0 {
				opts = append(opts, errand.In(time.Duration(rng.IntN(1000))*time.Millisecond))
			}
			batch[i] = l.b.params("load", opts...)
		}
		for range 2 {
			if err := l.submit(ctx, client, batch); err != nil {
				return err
			}
		}
		left -= len(batch)
	}
	return nil
}

// share is that of the nth of the loaders.
func share(jobs, n int) int { return (jobs + n) / loaders }

func (l *loading) submit(ctx context.Context, client *errand.Client, batch []errand.EnqueueParams) error {
	results, err := client.EnqueueBatch(ctx, batch)
	if err != nil {
		return refusedOr(err, "an enqueue was refused: %v", err)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	for i, r := range results {
		if r.Err != nil || r.ID != batch[i].ID {
			return broken("the enqueue of %s was answered with %s, %v", batch[i].ID, r.ID, r.Err)
		}
		l.hist.Accepted[r.ID] = history.Promise{Queue: l.b.conf.Queue, Priority: *batch[i].Priority}
	}
	return nil
}

// work runs a worker until ctx ends.
func (l *loading) work(ctx context.Context) error {
	w := &errand.Worker{
		Client: errand.NewClient(l.way, nil), Queues: []string{l.b.conf.Queue}, Concurrency: 10, Grace: 10 * time.Second,
		Name: "errand verify: load", Logger: slog.New(slog.DiscardHandler),
	}
	errand.HandleKind(w, kindOf("load"), l.handle)
	if err := w.Run(ctx); err != nil && ctx.Err() == nil {
		return fmt.Errorf("a worker of the load: %w", err)
	}
	return nil
}

// workInTurns runs one worker after another, each for a moment, as a deploy does again and again.
func (l *loading) workInTurns(ctx context.Context) error {
	for ctx.Err() == nil {
		turn, end := context.WithTimeout(ctx, 500*time.Millisecond)
		err := l.work(turn)
		end()
		if err != nil {
			return err
		}
	}
	return nil
}

// handle is the load's handler: it writes the run down, takes a moment, and fails at first now and
// then.
func (l *loading) handle(ctx context.Context, j *errand.RawJob) error {
	l.begin(j)
	lot := j.ID[15]
	pause := wait(ctx, time.Duration(lot%10)*time.Millisecond)
	err := pause
	if err == nil && lot%16 == 0 && j.Attempt == 1 {
		err = errand.RetryIn(20*time.Millisecond, errors.New("the first attempt fails, as ordered"))
	}
	l.finish(j, err != nil)
	if err != nil {
		return err
	}
	return j.SetResult(history.Mark{Token: j.Token})
}

func (l *loading) begin(j *errand.RawJob) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.hist.Runs = append(l.hist.Runs, history.Run{Job: j.ID, Token: j.Token, Worker: "a worker", Start: l.now()})
	l.runs[history.Run{Job: j.ID, Token: j.Token}] = len(l.hist.Runs) - 1
}

func (l *loading) finish(j *errand.RawJob, failed bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	r := &l.hist.Runs[l.runs[history.Run{Job: j.ID, Token: j.Token}]]
	r.End, r.Failed = l.now(), failed
}

// ids are those of the accepted jobs.
func (l *loading) ids() []errand.ID {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Collect(maps.Keys(l.hist.Accepted))
}

// watch follows the jobs by their ids until all are final.
func (l *loading) watch(ctx context.Context) <-chan error {
	done := make(chan error, 1)
	ids := l.ids()
	ctx, cancel := context.WithTimeout(ctx, l.b.patience())
	go func() {
		defer cancel()
		done <- func() error {
			for e, err := range l.b.client.Watch(ctx, errand.WatchQuery{IDs: ids}) {
				if ctx.Err() != nil {
					return nil // what is missing is found by judge
				}
				if err != nil {
					return fmt.Errorf("watch: %w", err)
				}
				if e.State.Final() && !e.Lagged {
					l.mu.Lock()
					l.hist.Ends = append(l.hist.Ends, history.End{Job: e.ID, State: e.State, Version: e.Version})
					l.mu.Unlock()
				}
			}
			return nil
		}()
	}()
	return done
}

// ended waits until every job is final, or nothing more is to be expected.
func (l *loading) ended(ctx context.Context) error {
	ids := l.ids()
	for deadline := time.Now().Add(l.b.patience()); ; {
		jobs, err := l.b.client.Jobs(ctx, ids...)
		if err != nil {
			return err
		}
		live := slices.ContainsFunc(jobs, func(j *errand.JobInfo) bool { return !j.State.Final() })
		if !live || time.Now().After(deadline) {
			return nil
		}
		if err := wait(ctx, 100*time.Millisecond); err != nil {
			return err
		}
	}
}

func (l *loading) judge(ctx context.Context) (string, error) {
	ids := l.ids()
	jobs, err := l.b.client.Jobs(ctx, ids...)
	if err != nil {
		return "", err
	}
	l.hist.Jobs = jobs
	v := l.hist.Judge()
	if len(v.Violations) > 0 {
		e := &brokenError{}
		for _, found := range v.Violations {
			e.evidence = append(e.evidence, found.String())
		}
		return "", e
	}
	for _, j := range jobs {
		if _, ok := history.MarkOf(j); j.State == errand.Succeeded && !ok {
			return "", broken("job %s succeeded with a result, and the ledger has %q", j.ID, j.Result)
		}
	}
	if seen := len(l.hist.Ends); seen < len(ids) {
		return "", broken("of %d jobs a watch by their ids heard of the end of %d", len(ids), seen)
	}
	lost, doubled := l.way.counts()
	return fmt.Sprintf("%d jobs in %d runs, %d answers lost, %d settles doubled, workers replaced meanwhile: each ended once, under its last token", len(ids), len(l.hist.Runs), lost, doubled), nil
}
