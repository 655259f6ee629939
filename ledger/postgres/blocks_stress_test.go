package postgres

import (
	"context"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/errandhq/errand/internal/testenv"
	"github.com/errandhq/errand/job"
	"github.com/errandhq/errand/ledger"
)

// Processes that claim by blocks, by rows and by name, settle each other's jobs in every way, and die: each job is held
// by one at a time, each lease is given once, and each job ends once.
func TestBlocksUnderStress(t *testing.T) {
	const total, workers = 5000, 8
	dsn := testenv.Postgres(t)
	w := &stressed{
		T: t, total: total, ls: []*Ledger{blocksAt(t, dsn), blocksAt(t, dsn), openAt(t, dsn, Options{})},
		holder: map[job.ID]int64{}, given: map[lease]bool{}, done: map[job.ID]string{},
	}
	w.ls[2].few = 3
	stop := time.Now().Add(time.Minute)
	var hands, keepers sync.WaitGroup
	for n := range workers {
		hand := &stressHand{
			stressed: w, r: rand.New(rand.NewPCG(uint64(n), uint64(time.Now().UnixNano()))),
			l: w.ls[n%3], s: session(t, w.ls[n%3]), conn: connect(t, dsn),
		}
		hands.Go(func() {
			for w.left() > 0 && time.Now().Before(stop) && !t.Failed() {
				hand.turn()
			}
		})
	}
	ctx, cancel := context.WithCancel(t.Context())
	for i, l := range w.ls {
		keepers.Go(func() {
			for ctx.Err() == nil {
				w.keep(l, i > 0)
				time.Sleep(10 * time.Millisecond)
			}
		})
	}
	for range total / 100 {
		items := append(batch(60, "q", "a"), batch(40, "q", "b")...)
		rand.Shuffle(len(items), func(i, j int) { items[i], items[j] = items[j], items[i] })
		insert(t, w.ls[2], items)
		time.Sleep(15 * time.Millisecond)
	}
	hands.Wait()
	cancel()
	keepers.Wait()
	if n := w.left(); n != 0 {
		t.Errorf("%d of %d jobs have not ended; %d rows and %d blocks are left", n, total,
			number(t, w.ls[0], "SELECT count(*) FROM errand.job_row"), blocksIn(t, w.ls[0]))
	}
	if n := number(t, w.ls[0], "SELECT coalesce(last_value, 0) FROM errand.lease_block_id_seq"); n < total/200 {
		t.Errorf("only %d blocks were made", n)
	}
}

// stressed is what is known of the jobs.
type stressed struct {
	*testing.T
	ls    []*Ledger
	total int

	mu     sync.Mutex
	holder map[job.ID]int64 // token of the lease that runs, as far as its holder knows
	given  map[lease]bool
	done   map[job.ID]string
}

func (w *stressed) left() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.total - len(w.done)
}

func (w *stressed) hold(jobs []job.Job) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, j := range jobs {
		if k := (lease{j.ID, j.Token}); w.given[k] {
			w.Errorf("job %s was given twice under %d", j.ID, j.Token)
		} else {
			w.given[k] = true
		}
		if token, ok := w.holder[j.ID]; ok {
			w.Errorf("job %s is held under %d, and given under %d", j.ID, token, j.Token)
		}
		if how := w.done[j.ID]; how != "" {
			w.Errorf("job %s has ended (%s), and is given", j.ID, how)
		}
		w.holder[j.ID] = j.Token
	}
}

// release is told before the call that ends a lease.
func (w *stressed) release(id job.ID, token int64) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.holder[id] == token {
		delete(w.holder, id)
	}
}

func (w *stressed) final(id job.ID, how string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if was := w.done[id]; was != "" {
		w.Errorf("job %s has ended twice: %s, %s", id, was, how)
	}
	w.done[id] = how
}

// settle ends a lease by Apply, whose holder may.
func (w *stressed) settle(by *Ledger, id job.ID, token int64, m job.Move) {
	w.release(id, token)
	out, err := by.Apply(w.Context(), m.Now, ledger.Pick{IDs: []job.ID{id}, Wait: true}, func(j *job.Job) error {
		_, err := rules().Settle(j, token, m)
		return err
	})
	if err != nil || out[0].Err != nil || out[0].From != job.Running {
		w.Errorf("the holder may not %v %s/%d: %v %+v", m.Event, id, token, err, out)
		return
	}
	switch state := out[0].Job.State; state {
	case job.Succeeded, job.Cancelled, job.Dead:
		w.final(id, state.String())
	}
}

// keep does what servers do besides.
func (w *stressed) keep(l *Ledger, upkeep bool) {
	at := now().Add(time.Second)
	for _, pick := range []struct {
		ledger.Pick
		event job.Event
	}{{ledger.Pick{Due: at, Limit: 100}, job.Due}, {ledger.Pick{Orphans: ledger.SessionDrained, Limit: 40}, job.Release}} {
		if _, err := l.Apply(w.Context(), at, pick.Pick, func(j *job.Job) error { return rules().Step(j, job.Move{Event: pick.event, Now: at}) }); err != nil {
			w.Error(err)
		}
	}
	if upkeep {
		if _, err := l.Upkeep(w.Context(), now().Add(2*blockAge), ledger.Keep{}); err != nil {
			w.Error(err)
		}
	}
	if _, err := l.Pulse(w.Context(), now(), ledger.Ask{Orphans: true, Due: true, Queues: []ledger.Head{{Queue: "q", Kinds: []string{"a", "b"}}}}); err != nil {
		w.Error(err)
	}
}

// stressHand is one worker.
type stressHand struct {
	*stressed
	r    *rand.Rand
	l    *Ledger
	s    job.ID
	conn *pgx.Conn
}

// turn claims jobs, and ends each lease somehow.
func (h *stressHand) turn() {
	req := ledger.Claim{Session: h.s, Call: 1, Queue: "q", Kinds: []string{"a", "b"}[:1+h.r.IntN(2)], Max: 1 + h.r.IntN(100), MaxBytes: 4 << 20}
	if h.r.IntN(6) == 0 {
		heads, err := h.l.Heads(h.Context(), now(), []ledger.Head{{Queue: "q", Kinds: []string{"a", "b"}, Max: 20}})
		if err != nil {
			h.Error(err)
			return
		}
		if len(heads[0].Refs) > 0 {
			req.Refs, req.Kinds = heads[0].Refs, nil
		}
	}
	out, err := h.l.Claim(h.Context(), now(), []ledger.Claim{req})
	if err != nil || out[0].Err != nil {
		h.Error(err, out)
		return
	}
	jobs := out[0].Jobs
	h.hold(jobs)
	if h.r.IntN(150) == 0 && len(jobs) > 0 {
		h.die(jobs)
		return
	}
	by := h.l
	if h.r.IntN(3) == 0 {
		by = h.ls[h.r.IntN(3)]
	}
	var items []ledger.Success
	for _, j := range jobs {
		if h.end(by, j) {
			items = append(items, ledger.Success{ID: j.ID, Token: j.Token})
			h.release(j.ID, j.Token)
		}
	}
	answers, err := by.Succeed(h.Context(), now(), items)
	if err != nil {
		h.Error(err)
		return
	}
	for i, a := range answers {
		if a.OK {
			h.final(items[i].ID, "succeed")
		} else { // its row was locked, or is not as it was: the holder asks again
			h.settle(by, items[i].ID, items[i].Token, job.Move{Event: job.Succeed, Now: now()})
		}
	}
}

// die ends the session with all that it holds.
func (h *stressHand) die(jobs []job.Job) {
	for _, j := range jobs {
		h.release(j.ID, j.Token)
	}
	ok, err := h.l.MoveSession(h.Context(), now(), h.s, []ledger.SessionState{ledger.SessionLive}, ledger.SessionDrained, 0)
	if err != nil || !ok {
		h.Error(ok, err)
	}
	h.s = session(h, h.l)
}

// end does something with a job, and reports whether it is to succeed yet.
func (h *stressHand) end(by *Ledger, j job.Job) bool {
	at := now()
	switch h.r.IntN(20) {
	case 0:
		if h.r.IntN(100) == 0 {
			h.settle(by, j.ID, j.Token, job.Move{Event: job.Release, Now: at})
			return false
		}
	case 1:
		h.settle(by, j.ID, j.Token, job.Move{Event: job.Fail, Now: at, Delay: time.Microsecond})
		return false
	case 2:
		h.settle(by, j.ID, j.Token, job.Move{Event: job.Snooze, Now: at, Delay: time.Microsecond})
		return false
	case 3: // progress, and on
		if _, err := by.Apply(h.Context(), at, ledger.Pick{IDs: []job.ID{j.ID}, Wait: true}, func(x *job.Job) error {
			if x.State != job.Running || x.Token != j.Token {
				h.Errorf("progress of %s/%d meets %v/%d", j.ID, j.Token, x.State, x.Token)
			}
			x.Progress, x.Version = []byte("p"), x.Version+1
			return nil
		}); err != nil {
			h.Error(err)
		}
	case 4:
		return !h.complete(j)
	case 5:
		out, err := by.Apply(h.Context(), at, ledger.Pick{IDs: []job.ID{j.ID}, Wait: true}, func(x *job.Job) error {
			return rules().Step(x, job.Move{Event: job.Cancel, Now: at})
		})
		if err != nil || out[0].Err != nil || out[0].From != job.Running {
			h.Errorf("cancel: %v %+v", err, out)
		}
		h.settle(by, j.ID, j.Token, job.Move{Event: job.Fail, Now: at})
		return false
	}
	return true
}

// complete ends the job in a transaction of its own, which may be rolled back.
func (h *stressHand) complete(j job.Job) (committed bool) {
	begin, verb := "BEGIN", "ROLLBACK"
	if h.r.IntN(2) == 0 {
		begin = "BEGIN ISOLATION LEVEL REPEATABLE READ"
	}
	if committed = h.r.IntN(2) == 0; committed {
		verb = "COMMIT"
		h.release(j.ID, j.Token)
	}
	var ok bool
	_, e1 := h.conn.Exec(h.Context(), begin)
	e2 := h.conn.QueryRow(h.Context(), "SELECT errand.complete_v1($1, $2)", uuidArg(j.ID), j.Token).Scan(&ok)
	_, e3 := h.conn.Exec(h.Context(), verb)
	if e1 != nil || e2 != nil || e3 != nil || !ok {
		h.Errorf("complete %s/%d: %v %v %v %v", j.ID, j.Token, ok, e1, e2, e3)
	}
	if !committed {
		return false
	}
	h.final(j.ID, "complete")
	if out, err := h.l.Succeed(h.Context(), now(), []ledger.Success{{ID: j.ID, Token: j.Token}}); err != nil || out[0].OK {
		h.Error("settled after it was completed", err)
	}
	return true
}
