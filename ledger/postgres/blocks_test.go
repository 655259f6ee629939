package postgres

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/errandhq/errand/internal/testenv"
	"github.com/errandhq/errand/job"
	"github.com/errandhq/errand/ledger"
)

// openBlocks opens a ledger that leases in blocks wherever it may, on a fresh database.
func openBlocks(t testing.TB) *Ledger {
	t.Helper()
	return blocksAt(t, testenv.Postgres(t))
}

func blocksAt(t testing.TB, dsn string) *Ledger {
	t.Helper()
	l := openAt(t, dsn, Options{})
	l.few = -1
	return l
}

// number runs a statement that answers one number.
func number(t testing.TB, l *Ledger, sql string, args ...any) (n int) {
	t.Helper()
	if err := l.pool.QueryRow(t.Context(), sql, args...).Scan(&n); err != nil {
		t.Fatal(err)
	}
	return n
}

func blocksIn(t testing.TB, l *Ledger) int {
	t.Helper()
	return number(t, l, "SELECT count(*) FROM errand.lease_block")
}

func rowsIn(t testing.TB, l *Ledger, state job.State) int {
	t.Helper()
	return number(t, l, "SELECT count(*) FROM errand.job_row WHERE state = $1", int16(state))
}

func apply(t testing.TB, l *Ledger, e job.Event, ids ...job.ID) []ledger.Applied {
	t.Helper()
	at := now()
	out, err := l.Apply(t.Context(), at, ledger.Pick{IDs: ids}, func(j *job.Job) error {
		return rules().Step(j, job.Move{Event: e, Now: at, Failure: job.Failure{Message: "no"}, Delay: time.Hour})
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// A queue whose last claim got many jobs is claimed by blocks: nothing is written to the rows,
// and everybody sees the jobs run.
func TestManyAreLeasedInBlocks(t *testing.T) {
	l := open(t)
	s := session(t, l)
	insert(t, l, batch(4*fewClaimed, "q", "k"))
	first := claim(t, l, s, "q", 2*fewClaimed, "k")
	if n := blocksIn(t, l); n != 0 {
		t.Fatalf("the first claim made %d blocks", n)
	}
	second := claim(t, l, s, "q", 2*fewClaimed, "k")
	if n := blocksIn(t, l); n != 1 || len(second) != 2*fewClaimed {
		t.Fatalf("%d blocks, %d jobs", n, len(second))
	}
	if n := rowsIn(t, l, job.Ready); n != len(second) {
		t.Errorf("%d rows are ready, want those of the block: %d", n, len(second))
	}
	got, err := l.Get(t.Context(), []job.ID{first[0].ID, second[0].ID})
	if err != nil || len(got) != 2 {
		t.Fatal(err, len(got))
	}
	for i, j := range got {
		if j.State != job.Running || j.Token != 1 || j.Attempt != 1 || j.Version != 2 || j.Session != s || j.Call != 1 || j.LeasedAt.IsZero() {
			t.Errorf("job %d: %+v", i, j)
		}
	}
	running, err := l.List(t.Context(), ledger.Query{State: job.Running, Limit: 1000})
	if err != nil || len(running) != len(first)+len(second) {
		t.Errorf("%d jobs run, %v", len(running), err)
	}
	idle, err := l.List(t.Context(), ledger.Query{State: job.Ready, Limit: 1000})
	if err != nil || len(idle) != 0 {
		t.Errorf("%d jobs are ready, %v", len(idle), err)
	}
	if held, err := l.Held(t.Context(), []job.ID{s}); err != nil || len(held) != len(running) {
		t.Errorf("%d are held, %v", len(held), err)
	}
	if list, err := l.ListSessions(t.Context(), true); err != nil || list[0].Running != len(running) {
		t.Errorf("sessions: %+v, %v", list, err)
	}
	wantCounts(t, l, map[string]int64{"k running": int64(len(running))})
	// Those without a result are settled alike, but for a few that are not: one twice, one under another token.
	items := make([]ledger.Success, len(second), len(second)+2)
	for i := range second {
		items[i] = ledger.Success{ID: second[i].ID, Token: second[i].Token}
	}
	items[1].Result = []byte("r")
	items = append(items, items[2], ledger.Success{ID: second[3].ID, Token: 2})
	answers, err := l.Succeed(t.Context(), now(), items)
	if err != nil {
		t.Fatal(err)
	}
	settled := map[job.ID]int{}
	for i, a := range answers {
		if a.OK {
			settled[items[i].ID]++
			if want := (ledger.Succeeded{
				OK: true, Queue: "q", Kind: "k", Priority: 5, Attempt: 1, MaxAttempts: 25, Version: 3,
				CreatedAt: a.CreatedAt, RunAt: a.RunAt, LeasedAt: second[0].LeasedAt,
			}); a != want {
				t.Errorf("answer %d: %+v", i, a)
			}
		}
	}
	if len(settled) != len(second) || settled[items[2].ID] != 1 || answers[len(answers)-1].OK {
		t.Fatalf("%d jobs settled", len(settled))
	}
	for i, ok := range succeed(t, l, first) {
		if !ok {
			t.Fatalf("job %d was not settled", i)
		}
	}
	if r, err := l.Get(t.Context(), []job.ID{second[1].ID}); err != nil || string(r[0].Result) != "r" {
		t.Errorf("the one with a result: %+v, %v", r, err)
	}
	done, err := l.Get(t.Context(), []job.ID{second[0].ID})
	if err != nil || len(done) != 1 || done[0].State != job.Succeeded || done[0].Token != 1 || done[0].SettledToken != 1 ||
		done[0].Version != 3 || done[0].Attempt != 1 || !done[0].LeasedAt.Equal(second[0].LeasedAt) || done[0].Result != nil {
		t.Fatalf("archived: %+v, %v", done, err)
	}
	if _, err := l.Upkeep(t.Context(), now().Add(2*blockAge), ledger.Keep{}); err != nil || blocksIn(t, l) != 0 {
		t.Errorf("%d blocks are left, %v", blocksIn(t, l), err)
	}
	if n := len(l.leases.jobs); n != 0 {
		t.Errorf("%d leases are remembered", n)
	}
}

// What another process has leased in a block is settled all the same, and is stale when it should be.
func TestBlocksOfOthers(t *testing.T) {
	dsn := testenv.Postgres(t)
	a, b := blocksAt(t, dsn), blocksAt(t, dsn)
	s := session(t, a)
	insert(t, a, batch(6, "q", "k"))
	jobs := claim(t, a, s, "q", 4, "k")
	if blocksIn(t, a) != 1 {
		t.Fatal("no block")
	}
	if more := claim(t, b, session(t, b), "q", 10, "k"); len(more) != 2 {
		t.Fatalf("another process got %d jobs, want the two that are free", len(more))
	}
	stale := slices.Clone(jobs[:1])
	stale[0].Token++
	if ok := succeed(t, b, slices.Concat(jobs[:2], stale)); !ok[0] || !ok[1] || ok[2] {
		t.Fatalf("settled by another process: %v", ok)
	}
	if ok := succeed(t, b, jobs[:2]); ok[0] || ok[1] {
		t.Fatal("settled twice")
	}
	out := apply(t, b, job.Release, jobs[2].ID)
	if out[0].Err != nil || out[0].From != job.Running || out[0].Job.Token != 1 || out[0].Job.Attempt != 0 {
		t.Fatalf("released: %+v", out[0])
	}
	again := claim(t, a, s, "q", 10, "k")
	if len(again) != 1 || again[0].ID != jobs[2].ID || again[0].Token != 2 {
		t.Fatalf("leased again: %+v", again)
	}
	if ok := succeed(t, a, jobs[2:3]); ok[0] {
		t.Fatal("a token from before the release was taken")
	}
	if ok := succeed(t, a, append(again, jobs[3])); !ok[0] || !ok[1] {
		t.Fatalf("the last two: %v", ok)
	}
	// The process that made the block does not know that it is empty: whoever comes finds out.
	if _, err := b.Upkeep(t.Context(), now().Add(2*blockAge), ledger.Keep{}); err != nil {
		t.Fatal(err)
	}
	if n := number(t, a, "SELECT count(*) FROM errand.lease_block WHERE session = $1", uuidArg(s)); n != 0 {
		t.Errorf("%d blocks are left", n)
	}
}

// Nothing but the end of its last job ends a block.
func TestBlocksLastAsLongAsTheirJobs(t *testing.T) {
	l := openBlocks(t)
	s := session(t, l)
	insert(t, l, batch(5, "q", "k"))
	jobs := claim(t, l, s, "q", 5, "k")
	ends := []func(j job.Job){
		func(j job.Job) { succeed(t, l, []job.Job{j}) },
		func(j job.Job) { apply(t, l, job.Fail, j.ID) },
		func(j job.Job) { apply(t, l, job.Discard, j.ID) },
		func(j job.Job) { apply(t, l, job.Release, j.ID) },
		func(j job.Job) { apply(t, l, job.Succeed, j.ID) },
	}
	for i, end := range ends {
		if n := blocksIn(t, l); n != 1 {
			t.Fatalf("%d blocks before job %d ended", n, i)
		}
		if held, err := l.Held(t.Context(), []job.ID{s}); err != nil || len(held) != len(jobs)-i {
			t.Fatalf("%d are held after %d ends, %v", len(held), i, err)
		}
		end(jobs[i])
		if _, err := l.Upkeep(t.Context(), now().Add(2*blockAge), ledger.Keep{}); err != nil {
			t.Fatal(err)
		}
	}
	if n := blocksIn(t, l); n != 0 {
		t.Errorf("%d blocks are left", n)
	}
	wantCounts(t, l, map[string]int64{"k succeeded": 2, "k scheduled": 1, "k dead": 1, "k ready": 1})
}

// The jobs of a session that died are rescued from its blocks, page by page, and its session is kept until then.
func TestBlocksOfDeadSessions(t *testing.T) {
	for _, end := range []ledger.SessionState{ledger.SessionDead, ledger.SessionDrained, ledger.SessionAbsent} {
		t.Run(end.String(), func(t *testing.T) {
			l := openBlocks(t)
			s, other := session(t, l), session(t, l)
			insert(t, l, batch(10, "q", "k"))
			jobs := claim(t, l, s, "q", 7, "k")
			apply(t, l, job.Cancel, jobs[0].ID) // its row is written
			kept := claim(t, l, other, "q", 10, "k")
			of := ledger.SessionDrained
			if end == ledger.SessionDead {
				of = end
			}
			if moved, err := l.MoveSession(t.Context(), now(), s, []ledger.SessionState{ledger.SessionLive}, end, 0); err != nil || !moved {
				t.Fatal(moved, err)
			}
			if p, err := l.Pulse(t.Context(), now(), ledger.Ask{Orphans: true}); err != nil || !p.Orphans {
				t.Fatalf("the pulse sees no orphans: %+v, %v", p, err)
			}
			if _, err := l.Upkeep(t.Context(), now().Add(2*sessionKept), ledger.Keep{}); err != nil {
				t.Fatal(err)
			}
			rescued := map[job.ID]bool{}
			for range 4 {
				out, err := l.Apply(t.Context(), now(), ledger.Pick{Orphans: of, Limit: 3}, func(j *job.Job) error {
					if j.State != job.Running || j.Token != 1 || j.Attempt != 1 || j.Session != s {
						return fmt.Errorf("picked as %+v", j)
					}
					return rules().Step(j, job.Move{Event: job.Crash, Now: now()})
				})
				if err != nil || len(out) > 3 {
					t.Fatal(len(out), err)
				}
				for _, a := range out {
					if a.Err != nil || rescued[a.Job.ID] {
						t.Fatalf("%+v", a)
					}
					rescued[a.Job.ID] = true
				}
			}
			if len(rescued) != len(jobs) {
				t.Errorf("%d of %d rescued", len(rescued), len(jobs))
			}
			if ok := succeed(t, l, jobs); slices.Contains(ok, true) {
				t.Error("a stale token was taken")
			}
			if ok := succeed(t, l, kept); slices.Contains(ok, false) {
				t.Error("the other session lost its jobs")
			}
			if p, err := l.Pulse(t.Context(), now(), ledger.Ask{Orphans: true}); err != nil || p.Orphans {
				t.Errorf("the pulse sees orphans: %+v, %v", p, err)
			}
		})
	}
}

// A job that ends with the worker's own transaction ends in its block too, by the token of the lease alone.
func TestCompleteInABlock(t *testing.T) {
	l := openBlocks(t)
	c := connect(t, l.listenDSN)
	insert(t, l, batch(3, "q", "k"))
	jobs := claim(t, l, session(t, l), "q", 2, "k")
	complete := func(id job.ID, token int64) (ended bool, err error) {
		err = c.QueryRow(t.Context(), "SELECT errand.complete_v1($1, $2, 'r')", uuidArg(id), token).Scan(&ended)
		return ended, err
	}
	if _, err := complete(jobs[0].ID, 2); err == nil {
		t.Error("a token that was never given out was taken")
	}
	if _, err := complete(jobs[0].ID, 0); err == nil {
		t.Error("the token from before the lease was taken")
	}
	free, err := l.List(t.Context(), ledger.Query{State: job.Ready, Limit: 10})
	if err != nil || len(free) != 1 {
		t.Fatal(len(free), err)
	}
	if _, err := complete(free[0].ID, 1); err == nil {
		t.Error("a job that is not leased was completed")
	}
	if ended, err := complete(jobs[0].ID, 1); err != nil || !ended {
		t.Fatal(ended, err)
	}
	if ended, err := complete(jobs[0].ID, 1); err != nil || ended {
		t.Errorf("repeated: %v, %v", ended, err)
	}
	got, err := l.Get(t.Context(), []job.ID{jobs[0].ID})
	if err != nil || len(got) != 1 || got[0].State != job.Succeeded || got[0].Token != 1 || got[0].SettledToken != 1 || got[0].Attempt != 1 ||
		got[0].Version != 3 || !got[0].LeasedAt.Equal(jobs[0].LeasedAt) || string(got[0].Result) != "r" {
		t.Errorf("%+v, %v", got, err)
	}
	if ok := succeed(t, l, jobs); ok[0] || !ok[1] {
		t.Errorf("settled after it: %v", ok)
	}
	wantCounts(t, l, map[string]int64{"k succeeded": 2, "k ready": 1})
}

// Jobs that are not plain are leased in their rows, and in their place in the order.
func TestOnlyPlainJobsGoIntoBlocks(t *testing.T) {
	expiring, once, held := ready("q", "k"), ready("q", "k"), ready("q", "k")
	expiring.ExpiresAt = expiring.RunAt.Add(time.Hour)
	once.UniqueKey, once.UniqueMode = "a", job.WhileQueued
	held.UniqueKey, held.UniqueMode = "b", job.UntilDone
	large, largest := ready("q", "k"), ready("q", "k")
	large.Payload, largest.Payload = make([]byte, plainPayload+1), make([]byte, plainPayload)
	for name, c := range map[string]struct {
		job   job.Job
		plain bool
	}{"expires": {expiring, false}, "unique while queued": {once, false}, "unique until done": {held, true},
		"large": {large, false}, "not too large": {largest, true}} {
		t.Run(name, func(t *testing.T) {
			l := openBlocks(t)
			s := session(t, l)
			items := slices.Concat(batch(3, "q", "k"), fresh(c.job), batch(3, "q", "k"))
			for i := range items {
				insert(t, l, items[i:i+1])
			}
			var got []job.Job
			sizes := ""
			for len(got) < len(items) {
				some := claim(t, l, s, "q", 10, "k")
				if len(some) == 0 {
					t.Fatalf("%d of %d jobs", len(got), len(items))
				}
				got, sizes = append(got, some...), sizes+fmt.Sprint(" ", len(some))
			}
			for i := range items {
				if got[i].ID != items[i].Job.ID || len(got[i].Payload) != len(items[i].Job.Payload) {
					t.Fatalf("job %d is not the next one, or has another payload: claims of%s", i, sizes)
				}
			}
			if c.plain != (rowsIn(t, l, job.Running) == 0) {
				t.Errorf("%d rows are running after claims of%s", rowsIn(t, l, job.Running), sizes)
			}
			if ok := succeed(t, l, got); slices.Contains(ok, false) {
				t.Errorf("settled: %v", ok)
			}
			if n := number(t, l, "SELECT count(*) FROM errand.unique_key"); n != 0 {
				t.Errorf("%d keys are held", n)
			}
		})
	}
}

// Two requests in one call share what is there, each up to its bounds; one whose session has gone gets nothing.
func TestBlocksAreDealt(t *testing.T) {
	l := openBlocks(t)
	a, b := session(t, l), session(t, l)
	items := batch(10, "q", "k")
	for i := range items {
		items[i].Job.Payload = []byte(strings.Repeat("x", 100))
	}
	insert(t, l, items)
	out, err := l.Claim(t.Context(), now(), []ledger.Claim{
		{Session: newID(), Call: 1, Queue: "q", Kinds: []string{"k"}, Max: 5, MaxBytes: 1 << 20},
		{Session: a, Call: 2, Queue: "q", Kinds: []string{"k"}, Max: 5, MaxBytes: 250},
		{Session: b, Call: 3, Queue: "q", Kinds: []string{"k"}, Max: 3, MaxBytes: 50},
		{Session: b, Call: 4, Queue: "q", Kinds: []string{"k"}, Max: 20, MaxBytes: 1 << 20},
	})
	if err != nil {
		t.Fatal(err)
	}
	if out[0].Err == nil || len(out[0].Jobs) != 0 {
		t.Errorf("an unknown session: %+v", out[0])
	}
	next := 0
	for i, want := range []struct {
		n    int
		more bool
	}{{2, true}, {1, true}, {7, false}} {
		got := out[i+1]
		if got.Err != nil || len(got.Jobs) != want.n || got.More != want.more {
			t.Errorf("request %d: %d jobs, more %v, %v; want %+v", i+1, len(got.Jobs), got.More, got.Err, want)
		}
		for _, j := range got.Jobs {
			if j.ID != items[next].Job.ID || j.Call != int64(i+2) {
				t.Errorf("request %d got %s by call %d out of turn", i+1, j.ID, j.Call)
			}
			next++
		}
	}
	if blocksIn(t, l) != 3 {
		t.Errorf("%d blocks", blocksIn(t, l))
	}
}

// Claims by blocks and by rows, settles, releases and failures, from three processes at once: each lease is given
// to one, with a token of its own, and each job ends once.
func TestBlocksAndRowsSideBySide(t *testing.T) {
	dsn := testenv.Postgres(t)
	const jobs = 3000
	rows := openAt(t, dsn, Options{MaxConns: 5})
	rows.few = 1 << 30
	ledgers := []*Ledger{blocksAt(t, dsn), blocksAt(t, dsn), rows}
	type lease struct {
		id    job.ID
		token int64
	}
	var mu sync.Mutex
	given, done := map[lease]job.ID{}, map[job.ID]int{}
	var ended atomic.Int64
	var wg sync.WaitGroup
	for n, l := range slices.Concat(ledgers, ledgers) {
		s := session(t, l)
		settler := ledgers[(n+1)%len(ledgers)] // by another process than that of the lease, now and then
		wg.Go(func() {
			r := rand.New(rand.NewPCG(uint64(n), 1))
			for start := time.Now(); ended.Load() < jobs; {
				if time.Since(start) > time.Minute || t.Failed() {
					t.Errorf("%d of %d jobs ended", ended.Load(), jobs)
					return
				}
				out, err := l.Claim(t.Context(), now(), []ledger.Claim{{Session: s, Call: 1, Queue: "q", Kinds: []string{"a", "b"}[:1+r.IntN(2)], Max: 1 + r.IntN(200), MaxBytes: 4 << 20}})
				if err != nil {
					t.Error(err)
					return
				}
				got := out[0].Jobs
				mu.Lock()
				for _, j := range got {
					if was, twice := given[lease{j.ID, j.Token}]; twice {
						t.Errorf("job %s was leased under token %d to %s and %s", j.ID, j.Token, was, s)
					}
					given[lease{j.ID, j.Token}] = s
				}
				mu.Unlock()
				var items []ledger.Success
				for _, j := range got {
					if r.IntN(10) > 0 {
						items = append(items, ledger.Success{ID: j.ID, Token: j.Token})
						continue
					}
					at := now()
					back, err := l.Apply(t.Context(), at, ledger.Pick{IDs: []job.ID{j.ID}, Wait: true}, func(j *job.Job) error {
						return rules().Step(j, job.Move{Event: job.Release, Now: at})
					})
					if err != nil || back[0].Err != nil || back[0].From != job.Running || back[0].Job.Token != j.Token {
						t.Errorf("release: %+v, %v", back, err)
					}
				}
				by := l
				if r.IntN(4) == 0 {
					by = settler
				}
				answers, err := by.Succeed(t.Context(), now(), items)
				if err != nil {
					t.Error(err)
					return
				}
				for i, a := range answers {
					if !a.OK { // a claim that came too late may have it locked for a moment
						at := now()
						late, err := by.Apply(t.Context(), at, ledger.Pick{IDs: []job.ID{items[i].ID}, Wait: true}, func(j *job.Job) error {
							_, err := rules().Settle(j, items[i].Token, job.Move{Event: job.Succeed, Now: at})
							return err
						})
						if err != nil || late[0].Err != nil || late[0].From != job.Running {
							t.Errorf("the holder of job %s under token %d was refused: %+v, %v", items[i].ID, items[i].Token, late, err)
						}
					}
					mu.Lock()
					done[items[i].ID]++
					mu.Unlock()
				}
				ended.Add(int64(len(items)))
				if r.IntN(5) == 0 {
					if _, err := by.Upkeep(t.Context(), now().Add(2*blockAge), ledger.Keep{}); err != nil {
						t.Error(err)
					}
				}
			}
		})
	}
	for range jobs / 100 {
		items := slices.Concat(batch(60, "q", "a"), batch(40, "q", "b"))
		rand.Shuffle(len(items), func(i, j int) { items[i], items[j] = items[j], items[i] })
		insert(t, rows, items)
	}
	wg.Wait()
	for id, n := range done {
		if n != 1 {
			t.Errorf("job %s ended %d times", id, n)
		}
	}
	if len(done) != jobs || rowsIn(t, rows, job.Ready)+rowsIn(t, rows, job.Running) != 0 {
		t.Errorf("%d of %d jobs ended, %d and %d rows are left", len(done), jobs, rowsIn(t, rows, job.Ready), rowsIn(t, rows, job.Running))
	}
	wantCounts(t, rows, map[string]int64{"a succeeded": jobs * 6 / 10, "b succeeded": jobs * 4 / 10})
}

// A claim by blocks waits for whoever decides by a job's being ready, and sees what became of it.
func TestBlocksWaitForChangesOfReadyJobs(t *testing.T) {
	l := openBlocks(t)
	s := session(t, l)
	items := batch(3, "q", "k")
	insert(t, l, items)
	inside, let := make(chan struct{}), make(chan struct{})
	cancelled := make(chan error, 1)
	go func() {
		cancelled <- l.inTx(t.Context(), "cancel", func(x *tx) error {
			rows, err := x.pick(t.Context(), &ledger.Pick{IDs: []job.ID{items[1].Job.ID}})
			if err != nil {
				return err
			}
			close(inside)
			<-let
			rows[0].after = rows[0].before
			if err := rules().Step(&rows[0].after, job.Move{Event: job.Cancel, Now: now()}); err != nil {
				return err
			}
			if _, err := l.ensureSlice(t.Context(), sliceOf(rows[0].after.DoneAt)); err != nil {
				return err
			}
			return x.writeBack(t.Context(), rows)
		})
	}()
	<-inside
	claimed := make(chan []job.Job, 1)
	go func() { claimed <- claim(t, l, s, "q", 10, "k") }()
	awaitBlocked(t, l)
	close(let)
	if err := <-cancelled; err != nil {
		t.Fatal(err)
	}
	got := <-claimed
	if len(got) != 2 || slices.ContainsFunc(got, func(j job.Job) bool { return j.ID == items[1].Job.ID }) {
		t.Errorf("claimed beside a cancelled job: %d", len(got))
	}
}

// A claim by blocks that the server broke off in its commit has taken nothing, and remembers nothing.
func TestBlockThatDidNotCommit(t *testing.T) {
	l := openBlocks(t)
	s := session(t, l)
	insert(t, l, batch(5, "q", "k"))
	if _, err := l.pool.Exec(t.Context(), `CREATE FUNCTION errand.break_off() RETURNS trigger LANGUAGE plpgsql AS $$
			BEGIN PERFORM pg_terminate_backend(pg_backend_pid()); RETURN NULL; END $$;
		CREATE CONSTRAINT TRIGGER break_off AFTER INSERT ON errand.lease_block DEFERRABLE INITIALLY DEFERRED
			FOR EACH ROW EXECUTE FUNCTION errand.break_off()`, pgx.QueryExecModeSimpleProtocol); err != nil {
		t.Fatal(err)
	}
	_, err := l.Claim(t.Context(), now(), []ledger.Claim{{Session: s, Call: 9, Queue: "q", Kinds: []string{"k"}, Max: 3, MaxBytes: 1 << 20}})
	if job.CodeOf(err) != job.CodeOf(job.ErrUnknown) {
		t.Fatalf("the claim answers %v", err)
	}
	if _, err := l.pool.Exec(t.Context(), "DROP TRIGGER break_off ON errand.lease_block"); err != nil {
		t.Fatal(err)
	}
	if got := claim(t, l, s, "q", 10, "k"); len(got) != 5 || len(l.leases.jobs) != 5 {
		t.Errorf("%d jobs, %d remembered", len(got), len(l.leases.jobs))
	}
}

// A server of before the blocks cannot take a job, for it would take those in blocks too; it can read.
func TestOlderServersAreShutOut(t *testing.T) {
	l := openBlocks(t)
	insert(t, l, batch(2, "q", "k"))
	claim(t, l, session(t, l), "q", 1, "k")
	for _, sql := range []string{
		"UPDATE errand.job SET state = 3 WHERE state = 2",
		"DELETE FROM errand.job",
		"INSERT INTO errand.job SELECT * FROM errand.job",
	} {
		if _, err := l.pool.Exec(t.Context(), sql); err == nil {
			t.Errorf("it may: %s", sql)
		}
	}
	if n := number(t, l, "SELECT count(*) FROM errand.job WHERE state = 2"); n != 1 {
		t.Errorf("%d jobs are ready", n)
	}
}

// The fence raises the tokens of jobs in blocks too.
func TestFenceInBlocks(t *testing.T) {
	l := openBlocks(t)
	insert(t, l, batch(2, "q", "k"))
	held := claim(t, l, session(t, l), "q", 2, "k")
	if _, err := l.Fence(t.Context()); err != nil {
		t.Fatal(err)
	}
	if ok := succeed(t, l, held); ok[0] || ok[1] {
		t.Error("a token from before the fence was taken")
	}
}
