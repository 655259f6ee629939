//go:build unix

package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"

	errand "github.com/errandhq/errand"
)

const (
	sessionTTL = 2 * time.Second // short, so that the rescue is quick to see
	patience   = 60 * time.Second
	attempts   = 3 // of the job that always fails
)

// demo is one run.
type demo struct {
	dir     string // whose files are hashed, absolute
	temp    string
	client  *errand.Client
	server  *process
	url     string // of the server
	workers []*process
	input   listing
	ids     []errand.ID // of the files' jobs, in the order of the listing
	broken  errand.ID
	began   time.Time

	victim string // the worker that was killed
	held   int    // jobs that it held
}

// demonstrate runs it all, and stops and removes everything whatever happens.
func demonstrate(ctx context.Context, o options) (err error) {
	d := &demo{began: time.Now()}
	if d.dir, err = filepath.Abs(o.dir); err != nil {
		return err
	}
	if d.dir, err = filepath.EvalSymlinks(d.dir); err != nil {
		return err
	}
	if d.temp, err = os.MkdirTemp("", "errand-demo-"); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, d.cleanUp(err == nil)) }()
	if d.temp, err = filepath.EvalSymlinks(d.temp); err != nil {
		return err
	}
	if d.input, err = list(ctx, d.dir, d.temp); err != nil {
		return err
	}
	say("%d files, %s, below %s", len(d.input.files), size(d.input.bytes), quoted(d.dir))
	for _, step := range []func(context.Context, options) error{d.startServer, d.enqueue, d.startWorkers, d.watch} {
		if err := step(ctx, o); err != nil {
			return err
		}
	}
	report, err := d.check(ctx)
	if err != nil {
		return err
	}
	report.print()
	return report.verdict()
}

func (d *demo) startServer(ctx context.Context, o options) (err error) {
	if o.errand == "" {
		say("building errand")
		o.errand = filepath.Join(d.temp, "errand")
		build := exec.CommandContext(ctx, "go", "build", "-o", o.errand, "github.com/errandhq/errand/cmd/errand")
		if out, err := build.CombinedOutput(); err != nil {
			return fmt.Errorf("build errand: %w\n%s", err, out)
		}
	}
	if d.server, d.url, err = startServer(o.errand, filepath.Join(d.temp, "data"), d.log()); err != nil {
		return err
	}
	say("server on %s, with the embedded ledger", d.url)
	d.client, err = errand.Dial(d.url)
	return err
}

func (d *demo) log() string { return filepath.Join(d.temp, "log") }

// enqueue hands in a job for each file, and one that always fails.
func (d *demo) enqueue(ctx context.Context, _ options) error {
	began := time.Now()
	jobs := make([]errand.EnqueueParams, 0, batch)
	flush := func() error {
		answers, err := d.client.EnqueueBatch(ctx, jobs)
		for _, a := range answers {
			err = errors.Join(err, a.Err)
			d.ids = append(d.ids, a.ID)
		}
		jobs = jobs[:0]
		return err
	}
	for _, f := range d.input.files {
		jobs = append(jobs, errand.EnqueueParams{
			Kind: kindFile, Queue: queue, Payload: []byte(f.path), ContentType: "application/octet-stream",
		})
		if len(jobs) == batch {
			if err := flush(); err != nil {
				return fmt.Errorf("enqueue: %w", err)
			}
		}
	}
	if err := flush(); err != nil {
		return fmt.Errorf("enqueue: %w", err)
	}
	r, err := d.client.Enqueue(ctx, errand.EnqueueParams{Kind: kindBroken, Queue: queue, MaxAttempts: attempts})
	if err != nil {
		return fmt.Errorf("enqueue: %w", err)
	}
	d.broken = r.ID
	say("%d jobs enqueued in %s, one of which always fails", len(d.ids)+1, time.Since(began).Round(time.Millisecond))
	return nil
}

// batch is how many jobs go into one call: paths are short, so that the bound
// on bytes is far.
const batch = 500

func (d *demo) startWorkers(_ context.Context, o options) error {
	self, err := os.Executable()
	if err != nil {
		return err
	}
	pace := d.pace(o.workers)
	for i := range o.workers {
		name := fmt.Sprintf("worker-%d", i+1)
		p, err := start(name, d.log(), nil, self, "-worker", d.url, "-name", name, "-dir", d.dir, "-pace", pace.String())
		if err != nil {
			return err
		}
		d.workers = append(d.workers, p)
	}
	say("%d worker processes with %d hands each; a job takes at least %s, so that there is a middle", o.workers, hands, pace.Round(time.Millisecond))
	return nil
}

// pace makes the whole last for some seconds: long enough to be killed in.
func (d *demo) pace(workers int) time.Duration {
	const whole = 5 * time.Second
	pace := whole * time.Duration(workers*hands) / time.Duration(len(d.input.files))
	return min(pace, time.Second)
}

// watch shows progress until every job is final, and kills a worker on the way.
func (d *demo) watch(ctx context.Context, _ options) error {
	bar := newBar(len(d.ids) + 1)
	defer bar.finish()
	last, changed := int64(-1), time.Now()
	for {
		q, err := d.counts(ctx)
		if err != nil {
			return err
		}
		done := q.Succeeded + q.Dead + q.Cancelled
		bar.set(done)
		if done != last {
			last, changed = done, time.Now()
		}
		middle := done*3 >= int64(len(d.ids)) || len(d.ids) <= hands*len(d.workers)
		switch {
		case q.Scheduled+q.Ready+q.Running == 0:
			return nil
		case d.server.ended():
			return fmt.Errorf("the server has ended: %w", errors.Join(d.server.err, errors.New(d.logText())))
		case time.Since(changed) > patience:
			return fmt.Errorf("nothing has moved for %s\n%s", patience, d.logText())
		case d.victim == "" && middle && q.Running > 0:
			if err := d.killOne(ctx, bar); err != nil {
				return err
			}
		}
		if err := pause(ctx, 50*time.Millisecond); err != nil {
			return err
		}
	}
}

func (d *demo) counts(ctx context.Context) (errand.QueueInfo, error) {
	queues, err := d.client.Queues(ctx)
	if err != nil {
		return errand.QueueInfo{}, err
	}
	for _, q := range queues {
		if q.Queue == queue {
			return q, nil
		}
	}
	return errand.QueueInfo{}, fmt.Errorf("the server does not know queue %s", queue)
}

// killOne kills a worker that certainly holds jobs: it is stopped first, so that
// what the ledger says it holds cannot end any more, and let go on if it is nothing.
func (d *demo) killOne(ctx context.Context, bar *bar) error {
	for _, p := range d.workers {
		p.signal(syscall.SIGSTOP)
		// What it had sent before it was stopped arrives within this time.
		if err := pause(ctx, 200*time.Millisecond); err != nil {
			return err
		}
		held, err := d.holds(ctx, p.name)
		if err != nil {
			return err
		}
		if held == 0 {
			p.signal(syscall.SIGCONT)
			continue
		}
		p.kill()
		d.victim, d.held = p.name, held
		bar.note("%s is killed with kill -9 while it holds %d jobs", p.name, held)
		return nil
	}
	return nil // the caller tries again
}

// holds is how many jobs the ledger has under a worker's session.
func (d *demo) holds(ctx context.Context, worker string) (int, error) {
	sessions, err := d.client.Sessions(ctx)
	if err != nil {
		return 0, err
	}
	held := 0
	for _, s := range sessions {
		if s.Worker == worker && s.State == "live" {
			held += s.Running
		}
	}
	return held, nil
}

// cleanUp ends every child and removes every file. Where all went well the
// children are expected to end well too.
func (d *demo) cleanUp(well bool) error {
	var errs []error
	for _, p := range d.workers {
		p.signal(syscall.SIGTERM)
	}
	for _, p := range d.workers {
		if p.name == d.victim {
			continue
		}
		if err := p.stop(10 * time.Second); err != nil && well {
			errs = append(errs, fmt.Errorf("%s: %w", p.name, err))
		}
	}
	if d.client != nil {
		errs = append(errs, d.client.Close())
	}
	if d.server != nil {
		if err := d.server.stop(10 * time.Second); err != nil && well {
			errs = append(errs, fmt.Errorf("server: %w", err))
		}
	}
	return errors.Join(append(errs, os.RemoveAll(d.temp))...)
}

// logText is the end of what the children wrote.
func (d *demo) logText() string {
	b, err := os.ReadFile(d.log())
	if err != nil {
		return err.Error()
	}
	return string(b[max(0, len(b)-2000):])
}
