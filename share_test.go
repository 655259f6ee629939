package errand

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"connectrpc.com/connect"

	errandv1 "github.com/errandhq/errand/gen/errand/v1"
)

// sends is the other end of a sharer: it keeps the kinds of each call, lets calls
// wait for gate if there is one, and refuses those in which kind "bad" is.
type sends struct {
	mu    sync.Mutex
	calls [][]string
	gate  chan struct{}
	ended []error // of calls that were cut short
	known int     // jobs of which the call said that the server may know them
}

func (s *sends) send(ctx context.Context, r *errandv1.EnqueueRequest) (*errandv1.EnqueueResponse, error) {
	var kinds []string
	known := 0
	resp := &errandv1.EnqueueResponse{}
	for _, it := range r.GetItems() {
		kinds = append(kinds, it.GetKind())
		if !it.GetFirstTry() {
			known++
		}
		resp.Results = append(resp.Results, &errandv1.EnqueueResult{Id: "of " + it.GetKind()})
	}
	s.mu.Lock()
	s.calls = append(s.calls, kinds)
	s.known += known
	s.mu.Unlock()
	if s.gate != nil {
		select {
		case <-s.gate:
		case <-ctx.Done():
			s.mu.Lock()
			s.ended = append(s.ended, ctx.Err())
			s.mu.Unlock()
			return nil, ctx.Err()
		}
	}
	if slices.Contains(kinds, "bad") {
		return nil, connect.NewError(connect.CodeInvalidArgument, errors.New("bad kind"))
	}
	return resp, nil
}

// enqueueAll enqueues a job of each kind at once and returns what became of them.
func enqueueAll(ctx context.Context, s *sharer, kinds ...string) func() map[string]string {
	var wg sync.WaitGroup
	var mu sync.Mutex
	out := map[string]string{}
	for _, kind := range kinds {
		wg.Go(func() {
			ctx, cancel := context.WithTimeout(ctx, tryTimeout)
			defer cancel()
			resp, err := s.enqueue(ctx, &errandv1.EnqueueItem{Kind: kind, FirstTry: true})
			mu.Lock()
			defer mu.Unlock()
			if err != nil {
				out[kind] = err.Error()
				return
			}
			out[kind] = resp.GetResults()[0].GetId()
		})
	}
	return func() map[string]string { wg.Wait(); return out }
}

// What comes while calls are under way goes together with the next, and each gets
// its own answer; a lone enqueue is sent at once, and so is what fills a call.
func TestEnqueuesShareCalls(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		far := &sends{gate: make(chan struct{})}
		s := &sharer{send: far.send}
		var waits []func() map[string]string
		for i := range sharedCalls {
			waits = append(waits, enqueueAll(t.Context(), s, fmt.Sprint("lone", i)))
			synctest.Wait()
			if len(far.calls) != i+1 {
				t.Fatalf("%d calls after %d enqueues", len(far.calls), i+1)
			}
		}
		var kinds []string
		for i := range sharedItems + 20 {
			kinds = append(kinds, fmt.Sprint("k", i))
		}
		waits = append(waits, enqueueAll(t.Context(), s, kinds...))
		synctest.Wait()
		if len(far.calls) != sharedCalls+1 || len(far.calls[sharedCalls]) != sharedItems {
			t.Errorf("%d calls under way", len(far.calls))
		}
		close(far.gate)
		for _, wait := range waits {
			for kind, got := range wait() {
				if got != "of "+kind {
					t.Errorf("%s: %s", kind, got)
				}
			}
		}
		if n := len(far.calls); n != sharedCalls+2 || len(far.calls[n-1]) != 20 {
			t.Errorf("%d calls, the last of %d", n, len(far.calls[n-1]))
		}
	})
}

// A job that makes the server refuse a call spoils it for nobody else.
func TestARefusedEnqueueIsAloneWithIt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		far := &sends{gate: make(chan struct{})}
		s := &sharer{send: far.send}
		var held []func() map[string]string
		for i := range sharedCalls { // one at a time, so that each holds a call
			held = append(held, enqueueAll(t.Context(), s, fmt.Sprint("held", i)))
			synctest.Wait()
		}
		rest := enqueueAll(t.Context(), s, "c", "bad", "d")
		synctest.Wait()
		close(far.gate)
		for _, wait := range held {
			wait()
		}
		for kind, got := range rest() {
			if refused := got == "invalid_argument: bad kind"; refused != (kind == "bad") {
				t.Errorf("%s: %s", kind, got)
			}
		}
		if far.known != 3 {
			t.Errorf("%d jobs were sent as known, want those that were sent twice", far.known)
		}
	})
}

// Who stops waiting is not sent any more; a call for which nobody waits ends, and
// one for which somebody does goes on.
func TestEnqueuesThatAreGivenUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		far := &sends{gate: make(chan struct{})}
		s := &sharer{send: far.send}
		lone, leaveLone := context.WithCancel(t.Context())
		first := enqueueAll(lone, s, "a")
		synctest.Wait()
		stay := enqueueAll(t.Context(), s, "b")
		synctest.Wait()
		late, leaveLate := context.WithCancel(t.Context())
		gone := enqueueAll(late, s, "c")
		synctest.Wait()
		leaveLate()
		if got := gone()["c"]; got != context.Canceled.Error() {
			t.Errorf("the one that left the queue: %s", got)
		}
		leaveLone()
		first()
		synctest.Wait()
		if len(far.ended) != 1 {
			t.Errorf("%d calls were cut short", len(far.ended))
		}
		close(far.gate)
		if got := stay()["b"]; got != "of b" {
			t.Errorf("the one that stayed: %s", got)
		}
		if len(far.calls) != 2 {
			t.Errorf("calls: %v", far.calls)
		}
	})
}

// Calls that are not answered do not hold up an enqueue that has little time: it finds
// out for itself, and for the route, whether the server still answers.
func TestEnqueueBehindCallsThatHang(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		far := &sends{gate: make(chan struct{})}
		s := &sharer{send: far.send}
		var first []func() map[string]string
		for _, kind := range []string{"a", "b"} {
			first = append(first, enqueueAll(t.Context(), s, kind))
			synctest.Wait()
		}
		time.Sleep(2 * callPatience)
		hurried, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if got := enqueueAll(hurried, s, "c")()["c"]; got != context.DeadlineExceeded.Error() {
			t.Errorf("behind them: %s", got)
		}
		synctest.Wait()
		if len(far.calls) != 3 || len(far.ended) != 1 {
			t.Errorf("calls %v, ended by %v", far.calls, far.ended)
		}
		close(far.gate)
		for _, wait := range first {
			wait()
		}
	})
}

// What may have to wait for others, and what is large, does not share.
func TestWhatSharesACall(t *testing.T) {
	for name, c := range map[string]struct {
		p    EnqueueParams
		want bool
	}{
		"plain":       {EnqueueParams{Kind: "k", Payload: make([]byte, 1000)}, true},
		"unique":      {EnqueueParams{Kind: "k", UniqueKey: "x"}, false},
		"idempotency": {EnqueueParams{Kind: "k", IdempotencyKey: "x"}, false},
		"large":       {EnqueueParams{Kind: "k", Payload: make([]byte, sharedBytes)}, false},
	} {
		if got := c.p.fits(); got != c.want {
			t.Errorf("%s: %t", name, got)
		}
	}
}
