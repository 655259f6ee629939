package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"time"

	"github.com/schollz/progressbar/v3"
	"golang.org/x/sync/errgroup"

	errand "github.com/errandhq/errand"
)

// tally is the answer of enqueue --from.
type tally struct {
	Accepted   int `json:"accepted"`
	Duplicates int `json:"duplicates"`
	Rejected   int `json:"rejected"`
}

// importer sends the jobs of a source in batches.
type importer struct {
	app     *app
	client  *errand.Client
	skipBad bool
	ordered bool                     // one batch at a time
	bar     *progressbar.ProgressBar // nil: none

	mu       sync.Mutex
	tally    tally
	reported int
}

// maxReports bounds how many bad lines are described one by one.
const maxReports = 100

func (a *app) enqueueMany(ctx context.Context, e *enqueueFlags, args []string) error {
	base, err := e.params()
	if err != nil {
		return err
	}
	if len(args) == 1 {
		base.Kind = args[0]
	}
	input, size, closeInput, err := a.openInput(ctx, e.from)
	if err != nil {
		return err
	}
	defer closeInput()
	c, info, err := a.patientClient(ctx)
	if err != nil {
		return err
	}
	defer func() { _ = c.Close() }()
	maxPayload := int(info.MaxPayload)
	if file, regular := input.(*os.File); regular && size >= 0 && !e.skipBad {
		if err := a.checkFirst(ctx, file, e, base, maxPayload); err != nil {
			return err
		}
	}
	im := &importer{app: a, client: c, skipBad: e.skipBad, ordered: e.parallel == 1}
	if isTerminal(a.stderr) && !e.quiet {
		im.bar = newBar(a.stderr, size)
		r := progressbar.NewReader(input, im.bar)
		input = &r
	}
	err = im.run(ctx, newSource(input, e, base, maxPayload), e.parallel)
	return im.finish(err)
}

// openInput opens what --from names. size is that of a regular file, else -1.
func (a *app) openInput(ctx context.Context, from string) (r io.Reader, size int64, closeInput func(), err error) {
	if from == "-" {
		return interruptible(ctx, a.stdin), -1, func() {}, nil
	}
	f, err := os.Open(from)
	if err != nil {
		return nil, 0, nil, &exitError{code: exitUsage, err: fmt.Errorf("--from: %w", err)}
	}
	st, err := f.Stat()
	switch {
	case err != nil:
		_ = f.Close()
		return nil, 0, nil, fmt.Errorf("--from: %w", err)
	case st.IsDir():
		_ = f.Close()
		return nil, 0, nil, usageError("--from: %s is a directory", from)
	case !st.Mode().IsRegular():
		return interruptible(ctx, f), -1, func() { _ = f.Close() }, nil
	}
	return f, st.Size(), func() { _ = f.Close() }, nil
}

// checkFirst reads a regular file once before anything of it is sent: nothing
// half done.
func (a *app) checkFirst(ctx context.Context, f *os.File, e *enqueueFlags, base errand.EnqueueParams, maxPayload int) error {
	err := newSource(f, e, base, maxPayload).checkAll(ctx)
	var bad *lineError
	if errors.As(err, &bad) {
		a.warnf("%s", printable(bad.Error()))
		a.warnf("nothing was stored; --skip-bad stores the good lines")
		_ = a.out.value(tally{Rejected: 1}, func() {})
		return errSilent
	}
	if err != nil {
		return fmt.Errorf("read %s: %w", f.Name(), err)
	}
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		return fmt.Errorf("read %s again: %w", f.Name(), err)
	}
	return nil
}

func newBar(w io.Writer, size int64) *progressbar.ProgressBar {
	return progressbar.NewOptions64(size,
		progressbar.OptionSetWriter(w), progressbar.OptionSetDescription("enqueue"),
		progressbar.OptionShowBytes(true), progressbar.OptionShowCount(), progressbar.OptionClearOnFinish(),
		progressbar.OptionThrottle(100e6), progressbar.OptionSetPredictTime(size > 0), progressbar.OptionSpinnerType(14))
}

// run reads ahead while batches are sent. When it returns, what was read
// before the error has been sent, and nothing behind it.
func (im *importer) run(ctx context.Context, src *source, parallel int) error {
	sending, ctx := errgroup.WithContext(ctx)
	batches := make(chan batch, 1)
	for range parallel {
		sending.Go(func() error {
			for b := range batches {
				if err := im.send(ctx, b); err != nil {
					return err
				}
			}
			return nil
		})
	}
	readErr := im.read(ctx, src, batches)
	close(batches)
	if err := sending.Wait(); err != nil {
		return err // the first cause: reading ends only because of it
	}
	return readErr
}

// read cuts the source into batches until its end, or the first bad line that
// is not to be skipped.
func (im *importer) read(ctx context.Context, src *source, batches chan<- batch) error {
	var b batch
	flush := func() error {
		if len(b.jobs) == 0 {
			return nil
		}
		select {
		case batches <- b:
			b = batch{}
			return nil
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	for {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		p, line, err := src.next()
		var bad *lineError
		switch {
		case errors.Is(err, io.EOF):
			return flush()
		case errors.As(err, &bad) && im.skipBad:
			im.reject(bad)
			continue
		case err != nil:
			if ferr := flush(); ferr != nil {
				return ferr
			}
			return err
		}
		if b.full(len(p.Payload)) {
			if err := flush(); err != nil {
				return err
			}
		}
		b.add(p, line)
	}
}

// send stores a batch. What makes the server refuse it whole is looked for by
// halves, so that only the line at fault is named.
func (im *importer) send(ctx context.Context, b batch) error {
	rs, err := im.enqueue(ctx, b.jobs)
	var refusal *errand.Error
	if errors.As(err, &refusal) && refusal.Code == errand.CodeInvalidArgument {
		if len(b.jobs) > 1 {
			first, second := b.half()
			if err := im.send(ctx, first); err != nil {
				return err
			}
			return im.send(ctx, second)
		}
		bad := &lineError{b.lines[0], err}
		if !im.skipBad {
			return bad
		}
		im.reject(bad)
		return nil
	}
	if err != nil {
		return fmt.Errorf("lines %d to %d: %w", b.lines[0], b.lines[len(b.lines)-1], err)
	}
	for i, r := range rs {
		switch {
		case r.Err != nil:
			im.reject(&lineError{b.lines[i], r.Err})
		case r.Duplicate:
			im.count(func(t *tally) { t.Duplicates++ })
		default:
			im.count(func(t *tally) { t.Accepted++ })
		}
	}
	return nil
}

// enqueue is one call. When ctx ends it may still come to its own end for a
// while, so that an interrupted import knows what is stored.
func (im *importer) enqueue(ctx context.Context, jobs []errand.EnqueueParams) ([]errand.EnqueueResult, error) {
	calling, cancel := context.WithCancel(context.WithoutCancel(ctx))
	defer cancel()
	stop := context.AfterFunc(ctx, func() {
		_ = pause(calling, callGrace)
		cancel()
	})
	defer stop()
	return im.client.EnqueueBatch(calling, jobs)
}

// callGrace is how long a call under way at an interruption is waited for.
const callGrace = 3 * time.Second

func (im *importer) count(f func(*tally)) {
	im.mu.Lock()
	defer im.mu.Unlock()
	f(&im.tally)
}

// reject counts a line that was not stored, and says why.
func (im *importer) reject(bad *lineError) {
	im.mu.Lock()
	defer im.mu.Unlock()
	im.tally.Rejected++
	if im.reported++; im.reported > maxReports {
		return
	}
	if im.bar != nil {
		_ = im.bar.Clear()
	}
	im.app.warnf("%s", printable(bad.Error()))
	if im.reported == maxReports {
		im.app.warnf("further lines are counted without being shown")
	}
}

// finish prints the summary, which is true after an error as well.
func (im *importer) finish(err error) error {
	if im.bar != nil {
		_ = im.bar.Finish()
	}
	var bad *lineError
	if errors.As(err, &bad) {
		im.reject(bad)
	}
	t := im.tally
	printed := im.app.out.value(t, func() {
		im.app.out.linef("%d accepted, %d duplicates, %d rejected", t.Accepted, t.Duplicates, t.Rejected)
	})
	switch {
	case bad != nil && !im.ordered:
		im.app.warnf("stopped at line %d: what is counted as accepted is stored", bad.line)
		return errSilent
	case bad != nil:
		im.app.warnf("stopped at line %d: the lines before it are stored, it and the lines after it are not", bad.line)
		return errSilent
	case err != nil:
		im.app.warnf("stopped: what is counted as accepted is stored")
		return err
	case printed != nil:
		return printed
	case t.Rejected > 0:
		return errSilent
	}
	return nil
}
