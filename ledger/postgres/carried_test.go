package postgres

import (
	"slices"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/errandhq/errand/internal/testenv"
	"github.com/errandhq/errand/job"
	"github.com/errandhq/errand/ledger"
)

func heads(t testing.TB, l *Ledger, queue string, most int, kinds ...string) []ledger.Ref {
	t.Helper()
	out, err := l.Heads(t.Context(), now(), []ledger.Head{{Queue: queue, Kinds: kinds, Max: most}})
	if err != nil {
		t.Fatal(err)
	}
	return out[0].Refs
}

// A process that only asks for heads moves its marks on behind the jobs that
// another process takes.
func TestMarksMoveWhereOnlyHeadsIsCalled(t *testing.T) {
	dsn := testenv.Postgres(t)
	worker, relay := openAt(t, dsn, Options{}), openAt(t, dsn, Options{})
	s := session(t, worker)
	insert(t, worker, batch(300, "q", "k"))
	lane := laneKey{"q", "k", 5}
	for range 3 {
		heads(t, relay, "q", 10, "k")
		jobs := claim(t, worker, s, "q", 100, "k")
		succeed(t, worker, jobs)
		last := jobs[len(jobs)-1].Seq
		until(t, 10*time.Second, "the mark passes the jobs that are done", func() bool {
			heads(t, relay, "q", 10, "k")
			low, _ := relay.marks.start(lane)
			return low >= last
		})
	}
	insert(t, worker, batch(1, "q", "k"))
	if got := heads(t, relay, "q", 10, "k"); len(got) != 1 {
		t.Errorf("%d refs behind the mark", len(got))
	}
}

// What Heads saw first may not be what is first: a job whose transaction is
// open does not wait for a rescan when it has committed.
func TestHeadsMovesNoMark(t *testing.T) {
	l := open(t)
	late := ready("q", "k")
	commit := holdInsert(t, l, ledger.Item{Job: late})
	insert(t, l, batch(3, "q", "k"))
	for range 5 {
		if got := heads(t, l, "q", 10, "k"); len(got) != 3 {
			t.Fatalf("%d refs", len(got))
		}
	}
	commit()
	if got := heads(t, l, "q", 10, "k"); len(got) != 4 || got[0].ID != late.ID {
		t.Errorf("after the commit: %+v, want %s first", got, late.ID)
	}
}

// Requests by name share a statement, but for those whose answer hangs on one before.
func TestRequestsByNameShareAStatement(t *testing.T) {
	l := open(t)
	named := func(ids ...byte) *request {
		c := &ledger.Claim{Queue: "q", Max: 5}
		for _, id := range ids {
			c.Refs = append(c.Refs, ledger.Ref{ID: job.ID{id}, Token: 1})
		}
		return l.newRequest(c)
	}
	plain := func() *request { return l.newRequest(&ledger.Claim{Queue: "q", Kinds: []string{"k"}, Max: 5}) }
	for _, c := range []struct {
		what string
		work []*request
		want []string
	}{
		{"different jobs", []*request{named(1, 2), named(3), named(4, 4)}, []string{namedSQL}},
		{"one job twice", []*request{named(1), named(2), named(3, 1), named(2)}, []string{namedSQL, namedSQL}},
		{"another claim between", []*request{named(1), plain(), named(2), named(3), plain()}, []string{namedSQL, claimSQL, namedSQL, claimSQL}},
	} {
		var got []string
		for _, s := range l.claimSteps(now(), c.work) {
			got = append(got, s.sql)
		}
		if !slices.Equal(got, c.want) {
			t.Errorf("%s: %d statements, want %d", c.what, len(got), len(c.want))
		}
	}
}

// A claim whose transaction is rolled back leaves the jobs that it named to others.
func TestClaimByNameThatDoesNotCommit(t *testing.T) {
	l := open(t)
	s := session(t, l)
	insert(t, l, batch(3, "q", "k"))
	refs := heads(t, l, "q", 3, "k")
	reqs := []ledger.Claim{{Session: s, Call: 1, Queue: "q", Max: 3, MaxBytes: 4 << 20, Refs: refs}}
	err := l.inTx(t.Context(), "claim", func(tx *tx) error {
		work := []*request{l.newRequest(&reqs[0])}
		if _, err := tx.claimAll(t.Context(), now(), work); err != nil {
			return err
		}
		if len(work[0].jobs) != 3 {
			t.Errorf("%d jobs in the transaction", len(work[0].jobs))
		}
		return job.ErrStale // and so it is rolled back
	})
	if err != job.ErrStale {
		t.Fatal(err)
	}
	out, err := l.Claim(t.Context(), now(), reqs)
	if err != nil || len(out[0].Jobs) != 3 || out[0].Jobs[0].Token != 1 {
		t.Errorf("afterwards: %+v, %v", out, err)
	}
}

// A ledger of the version before carriers keeps its settings, and gets what is new.
func TestMigrateFromBeforeCarriers(t *testing.T) {
	dsn := testenv.Postgres(t)
	c := connect(t, dsn)
	text := ensureHistory + ";"
	for _, m := range migrations()[:2] {
		text += m.text + ";INSERT INTO errand.migration (number, name, checksum) VALUES (" + m.name[:4] + ", '" + m.name + "', '" + m.sum + "');"
	}
	text += "INSERT INTO errand.queue VALUES ('q', true, 1), ('r', false, 1)"
	if _, err := c.Exec(t.Context(), text, pgx.QueryExecModeSimpleProtocol); err != nil {
		t.Fatal(err)
	}
	l := openAt(t, dsn, Options{})
	if paused, err := l.Paused(t.Context()); err != nil || !slices.Equal(paused, []string{"q"}) {
		t.Errorf("paused: %v, %v", paused, err)
	}
	if routes, err := l.Routes(t.Context()); err != nil || len(routes) != 0 {
		t.Errorf("routes: %v, %v", routes, err)
	}
	if name, err := l.Identity(t.Context()); err != nil || len(name) != 16 {
		t.Errorf("identity: %q, %v", name, err)
	}
	if leads, epoch, err := l.HoldRelay(t.Context(), now(), newID(), time.Second); err != nil || !leads || epoch != 1 {
		t.Errorf("the relay: %v, %d, %v", leads, epoch, err)
	}
}
