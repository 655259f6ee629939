package postgres

import (
	"errors"
	"fmt"
	"maps"
	"net/url"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/errandhq/errand/internal/testenv"
	"github.com/errandhq/errand/job"
	"github.com/errandhq/errand/ledger"
)

// ask is a request of few jobs of kind k.
func ask(s job.ID, most int) ledger.Claim {
	return ledger.Claim{Session: s, Call: 1, Queue: "q", Kinds: []string{"k"}, Max: most, MaxBytes: 4 << 20}
}

// oneTrip makes a claim in one round trip, and returns which requests it left.
func oneTrip(t *testing.T, l *Ledger, reqs ...ledger.Claim) (answers []ledger.Claimed, left []int) {
	t.Helper()
	if !l.fewExpected(reqs) {
		t.Fatal("the requests would not share a round trip")
	}
	err := l.inTx(t.Context(), "claim", func(x *tx) (err error) {
		answers, left, err = x.claimFew(t.Context(), now(), reqs)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return answers, left
}

func countsOf(t *testing.T, l *Ledger) map[string]int64 {
	t.Helper()
	list, err := l.Counts(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	counts := map[string]int64{}
	for _, c := range list {
		counts[fmt.Sprint(c.Kind, " ", c.State)] = c.N
	}
	return counts
}

func wantCounts(t *testing.T, l *Ledger, want map[string]int64) {
	t.Helper()
	if got := countsOf(t, l); !maps.Equal(got, want) {
		t.Errorf("counters %v, want %v", got, want)
	}
}

// What a claim in one round trip answers, counts and frees is what one in two does.
func TestFewAreCountedAndFreed(t *testing.T) {
	for _, few := range []bool{true, false} {
		l := open(t)
		s := session(t, l)
		var jobs []job.Job
		for i, mode := range []job.UniqueMode{job.NotUnique, job.WhileQueued, job.UntilDone, job.WhileQueued} {
			j := ready("q", fmt.Sprint("k", i%2))
			if j.UniqueMode = mode; mode != job.NotUnique {
				j.UniqueKey = fmt.Sprint("u", i)
			}
			jobs = append(jobs, j)
		}
		insert(t, l, fresh(jobs...))
		req := ledger.Claim{Session: s, Call: 3, Queue: "q", Kinds: []string{"k0", "k1"}, Max: 10, MaxBytes: 4 << 20}
		serve := l.claimFew
		if !few {
			serve = l.claimMany
		}
		out, err := serve(t.Context(), now(), []ledger.Claim{req})
		if err != nil || len(out[0].Jobs) != 4 || out[0].More {
			t.Fatalf("few %v: %+v, %v", few, out, err)
		}
		for i, j := range out[0].Jobs {
			if j.ID != jobs[i].ID || j.State != job.Running || j.Session != s || j.Call != 3 || j.Token != 1 || j.Attempt != 1 || j.UniqueKey != jobs[i].UniqueKey {
				t.Errorf("few %v, job %d: %+v", few, i, j)
			}
		}
		wantCounts(t, l, map[string]int64{"k0 " + job.Running.String(): 2, "k1 " + job.Running.String(): 2})
		var keys string
		if err := l.pool.QueryRow(t.Context(), "SELECT string_agg(key, ' ') FROM errand.unique_key").Scan(&keys); err != nil || keys != "u2" {
			t.Errorf("few %v: keys held: %q, %v", few, keys, err)
		}
	}
}

// One request shows that there is nothing for those like it, unless it was full or could
// not be served itself: then they have a claim of their own.
func TestFewAlike(t *testing.T) {
	l := open(t)
	a, b := session(t, l), session(t, l)
	insert(t, l, batch(1, "q", "k"))
	if out, left := oneTrip(t, l, ask(a, 5), ask(b, 5)); len(out[0].Jobs) != 1 || len(out[1].Jobs) != 0 || out[1].More || len(left) != 0 {
		t.Errorf("enough for one: %+v, left %v", out, left)
	}
	insert(t, l, batch(7, "q", "k"))
	out, err := l.Claim(t.Context(), now(), []ledger.Claim{ask(a, 5), ask(b, 5)})
	if err != nil || len(out[0].Jobs) != 5 || len(out[1].Jobs) != 2 {
		t.Errorf("more than the first may have: %+v, %v", out, err)
	}
	insert(t, l, batch(1, "q", "k"))
	out, err = l.Claim(t.Context(), now(), []ledger.Claim{ask(newID(), 5), ask(b, 5)})
	if err != nil || !errors.Is(out[0].Err, job.ErrSessionLost) || out[1].Err != nil || len(out[1].Jobs) != 1 {
		t.Errorf("behind a session that is lost: %+v, %v", out, err)
	}
	out, err = l.Claim(t.Context(), now(), []ledger.Claim{ask(a, 5), ask(newID(), 5)})
	if err != nil || out[0].Err != nil || !errors.Is(out[1].Err, job.ErrSessionLost) {
		t.Errorf("a session that is lost, not asked for: %+v, %v", out, err)
	}
	wantCounts(t, l, map[string]int64{"k " + job.Running.String(): 9})
}

// A worker of several kinds that finds nothing has its answer in one round trip.
func TestFewFindNothing(t *testing.T) {
	l := open(t)
	req := ask(session(t, l), 5)
	req.Kinds = []string{"k", "other"}
	if out, left := oneTrip(t, l, req); len(left) != 0 || out[0].More || len(out[0].Jobs) != 0 {
		t.Errorf("%+v, left %v", out, left)
	}
}

// Where there are suspects the round trip takes nothing, and each session gets one of them.
func TestFewLeaveSuspects(t *testing.T) {
	l := open(t)
	a, b := session(t, l), session(t, l)
	insert(t, l, batch(4, "q", "k"))
	if _, err := l.pool.Exec(t.Context(), "UPDATE errand.job_row SET lane = -2, crashes = 1 WHERE seq IN (SELECT seq FROM errand.job_row ORDER BY seq LIMIT 2)"); err != nil {
		t.Fatal(err)
	}
	if out, left := oneTrip(t, l, ask(a, 5), ask(b, 5)); len(left) != 2 || len(out[0].Jobs)+len(out[1].Jobs) != 0 {
		t.Fatalf("%+v, left %v", out, left)
	}
	out, err := l.Claim(t.Context(), now(), []ledger.Claim{ask(a, 5), ask(b, 5)})
	if err != nil || len(out[0].Jobs) != 3 || len(out[1].Jobs) != 1 || out[0].Jobs[0].Crashes != 1 || out[1].Jobs[0].Crashes != 1 {
		t.Errorf("%+v, %v", out, err)
	}
}

// What changes while a claim in one round trip waits for it is seen: the end of the
// session, and a pause.
func TestFewSeeWhatTheyWaitedFor(t *testing.T) {
	for name, change := range map[string]string{
		"session": "UPDATE errand.session SET state = 3 WHERE id = $1",
		"pause":   "INSERT INTO errand.queue (name, paused, changed_at) SELECT 'q', true, 0 WHERE $1::uuid IS NOT NULL",
	} {
		t.Run(name, func(t *testing.T) {
			l := open(t)
			s := session(t, l)
			insert(t, l, batch(1, "q", "k"))
			c := connect(t, l.listenDSN)
			x, err := c.Begin(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			if name == "pause" {
				_, err = x.Exec(t.Context(), "SELECT pg_advisory_xact_lock($1, $2)", lockClass, lockPausing)
			} else {
				_, err = x.Exec(t.Context(), "SELECT FROM errand.session WHERE id = $1 FOR UPDATE", uuidArg(s))
			}
			if _, err2 := x.Exec(t.Context(), change, uuidArg(s)); err != nil || err2 != nil {
				t.Fatal(err, err2)
			}
			answer := make(chan ledger.Claimed, 1)
			go func() {
				out, err := l.claimFew(t.Context(), now(), []ledger.Claim{ask(s, 5)})
				if err != nil {
					out = []ledger.Claimed{{Err: err}}
				}
				answer <- out[0]
			}()
			awaitBlocked(t, l)
			if err := x.Commit(t.Context()); err != nil {
				t.Fatal(err)
			}
			a := <-answer
			if len(a.Jobs) != 0 || name == "session" && !errors.Is(a.Err, job.ErrSessionLost) || name == "pause" && a.Err != nil {
				t.Errorf("%+v", a)
			}
			wantCounts(t, l, map[string]int64{"k " + job.Ready.String(): 1})
		})
	}
}

// awaitBlocked returns once a statement of the database waits for a lock.
func awaitBlocked(t *testing.T, l *Ledger) {
	t.Helper()
	until(t, 10*time.Second, "the claim waits", func() bool {
		n := 0
		err := l.pool.QueryRow(t.Context(), "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'").Scan(&n)
		return err == nil && n > 0
	})
}

// A connection that breaks after a claim was sent leaves its outcome unknown, and
// it is as it is: the jobs are held under the call's number, or another claim gets them.
func TestClaimOnABrokenConnection(t *testing.T) {
	for _, c := range []struct{ arrives, blocks bool }{{true, false}, {false, false}, {true, true}} {
		arrives := c.arrives
		t.Run(fmt.Sprintf("%+v", c), func(t *testing.T) {
			dsn := testenv.Postgres(t)
			u, err := url.Parse(dsn)
			if err != nil {
				t.Fatal(err)
			}
			direct := openAt(t, dsn, Options{})
			proxy := testenv.StartProxy(t, u.Host)
			u.Host = proxy.Address()
			l := openAt(t, u.String(), Options{MaxConns: 1})
			if c.blocks {
				l.few = -1
			}
			s := session(t, direct)
			// The statements are known to the connection, so that the claim is one message.
			if got := claim(t, l, s, "q", 5, "k"); len(got) != 0 {
				t.Fatal(got)
			}
			insert(t, direct, batch(2, "q", "k"))
			if arrives {
				proxy.Slow(500 * time.Millisecond) // so that the answer is on its way when the connection breaks
			} else {
				proxy.Freeze()
			}
			failed := make(chan error, 1)
			go func() {
				_, err := l.claim(t.Context(), now(), []ledger.Claim{{Session: s, Call: 7, Queue: "q", Kinds: []string{"k"}, Max: 5, MaxBytes: 4 << 20}})
				failed <- err
			}()
			if arrives {
				until(t, 10*time.Second, "the jobs are held under the call", func() bool {
					held, err := direct.Held(t.Context(), []job.ID{s})
					return err == nil && len(held) == 2 && held[0].Call == 7 && held[1].Call == 7
				})
			} else {
				<-time.After(100 * time.Millisecond) // for it to be sent
			}
			proxy.Cut()
			if err := <-failed; !errors.Is(err, job.ErrUnknown) {
				t.Errorf("the claim failed with %v", err)
			}
			proxy.Slow(0)
			proxy.Thaw()
			if arrives {
				wantCounts(t, direct, map[string]int64{"k " + job.Running.String(): 2})
				if want := map[bool]int{true: 1}[c.blocks]; blocksIn(t, direct) != want {
					t.Errorf("%d blocks", blocksIn(t, direct))
				}
			} else if got := claim(t, l, s, "q", 5, "k"); len(got) != 2 {
				t.Errorf("%d jobs for the next claim", len(got))
			}
			insert(t, direct, batch(1, "q", "k"))
			if got := claim(t, l, s, "q", 5, "k"); len(got) != 1 {
				t.Errorf("%d jobs of what came later", len(got))
			}
		})
	}
}

// A claim that the server rolled back leaves nothing, marks included.
func TestFewRolledBack(t *testing.T) {
	l := open(t)
	s := session(t, l)
	insert(t, l, batch(2, "q", "k"))
	if _, err := l.pool.Exec(t.Context(), "ALTER TABLE errand.counter_delta ADD CONSTRAINT never CHECK (state <> 3) NOT VALID"); err != nil {
		t.Fatal(err)
	}
	if _, err := l.claimFew(t.Context(), now(), []ledger.Claim{ask(s, 5)}); err == nil || errors.Is(err, job.ErrUnknown) {
		t.Fatalf("a claim that cannot be counted: %v", err)
	}
	if _, err := l.pool.Exec(t.Context(), "ALTER TABLE errand.counter_delta DROP CONSTRAINT never"); err != nil {
		t.Fatal(err)
	}
	if got := claim(t, l, s, "q", 5, "k"); len(got) != 2 {
		t.Errorf("%d jobs afterwards", len(got))
	}
	wantCounts(t, l, map[string]int64{"k " + job.Running.String(): 2})
}

// Claims go in one round trip while few jobs come, and in two when many do.
func TestFewExpected(t *testing.T) {
	l := open(t)
	s := session(t, l)
	expected := func(change func(*ledger.Claim)) bool {
		req := ask(s, 1000)
		change(&req)
		return l.fewExpected([]ledger.Claim{req})
	}
	same := func(*ledger.Claim) {}
	for _, step := range []struct {
		jobs int
		few  bool
	}{{1, true}, {fewClaimed, true}, {fewClaimed + 1, false}, {1, true}} {
		insert(t, l, batch(step.jobs, "q", "k"))
		if got := claim(t, l, s, "q", 1000, "k"); len(got) != step.jobs {
			t.Fatalf("%d jobs of %d", len(got), step.jobs)
		}
		if few := expected(same); few != step.few {
			t.Errorf("after %d jobs: few %v", step.jobs, few)
		}
	}
	for name, change := range map[string]func(*ledger.Claim){
		"by name": func(r *ledger.Claim) { r.Refs = []ledger.Ref{{}} }, "suspects": func(r *ledger.Claim) { r.SuspectsOnly = true },
		"every kind": func(r *ledger.Claim) { r.Kinds = nil }, "none": func(r *ledger.Claim) { r.Max = 0 },
	} {
		if expected(change) {
			t.Errorf("%s: in one round trip", name)
		}
	}
}

// A claim of which a part may have been committed is not made again under the call's number,
// even if a mark was too high for the other part.
func TestFewUnknownIsNotClaimedAgain(t *testing.T) {
	l := open(t)
	s := session(t, l)
	insert(t, l, batch(1, "q", "k"))
	insert(t, l, batch(2, "r", "k"))
	// The commit of a lease of a suspect ends its connection, once.
	if _, err := l.pool.Exec(t.Context(), `UPDATE errand.job_row SET lane = -2, crashes = 1 WHERE queue = 'r';
		CREATE SEQUENCE once;
		CREATE FUNCTION break_off() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
			IF nextval('once') = 1 THEN PERFORM pg_terminate_backend(pg_backend_pid()); END IF;
			RETURN NULL;
		END $$;
		CREATE CONSTRAINT TRIGGER break_off AFTER UPDATE ON errand.job_row DEFERRABLE INITIALLY DEFERRED
			FOR EACH ROW WHEN (new.crashes > 0 AND new.state = 3) EXECUTE FUNCTION break_off()`, pgx.QueryExecModeSimpleProtocol); err != nil {
		t.Fatal(err)
	}
	for lane := job.Lane(0); lane <= job.LaneLast; lane++ {
		k := laneKey{"q", "k", lane}
		_, gen := l.marks.start(k)
		l.marks.advance(k, gen, 1<<40)
	}
	other := ask(s, 5)
	other.Queue = "r"
	out, err := l.Claim(t.Context(), now(), []ledger.Claim{ask(s, 5), other})
	if err != nil || out[0].Err != nil || !errors.Is(out[1].Err, job.ErrUnknown) {
		t.Errorf("%+v, %v", out, err)
	}
	if len(out[0].Jobs) == 1 {
		return // the rescan beside the claim had pulled the mark back before it looked
	}
	until(t, 10*time.Second, "the mark is pulled back", func() bool { return len(claim(t, l, s, "q", 5, "k")) == 1 })
}
