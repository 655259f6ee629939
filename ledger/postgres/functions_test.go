package postgres

import (
	"context"
	"errors"
	"os"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/errandhq/errand/internal/testenv"
	"github.com/errandhq/errand/job"
	"github.com/errandhq/errand/ledger"
)

// connect connects as a program of another language would: with nothing of Errand's.
func connect(t testing.TB, dsn string) *pgx.Conn {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), dsn)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close(context.Background()) })
	return conn
}

type enqueuer interface {
	QueryRow(ctx context.Context, sql string, args ...any) pgx.Row
}

func enqueue(t testing.TB, c enqueuer, kind, options string) (id job.ID, duplicate bool, err error) {
	t.Helper()
	err = c.QueryRow(t.Context(), "SELECT id, duplicate FROM errand.enqueue_v1($1, $2, $3::jsonb)", kind, []byte(`{"a":1}`), options).Scan(&id, &duplicate)
	return id, duplicate, err
}

// promote makes due jobs ready, as the engine's promoter does.
func promote(t testing.TB, l *Ledger) int {
	t.Helper()
	at := now()
	out, err := l.Apply(t.Context(), at, ledger.Pick{Due: at, Limit: 1000}, func(j *job.Job) error {
		return rules().Step(j, job.Move{Event: job.Due, Now: at})
	})
	if err != nil {
		t.Fatal(err)
	}
	return len(out)
}

func TestEnqueueV1StoresWhatItIsTold(t *testing.T) {
	dsn := testenv.Postgres(t)
	l, c := openAt(t, dsn, Options{}), connect(t, dsn)
	want := newID()
	id, dup, err := enqueue(t, c, "mail", `{"id":"`+want.String()+`","queue":"out","priority":2,"max_attempts":3,"timeout":1.5,"expires_in":"1 hour",
		"tags":["a","b c"],"unique_key":"u","unique_mode":"until_done","content_type":"text/plain","trace_parent":"00-aa"}`)
	if err != nil || dup || id != want {
		t.Fatalf("%v %v %v", id, dup, err)
	}
	if promote(t, l) != 1 {
		t.Fatal("not due")
	}
	jobs := claim(t, l, session(t, l), "out", 5, "mail")
	if len(jobs) != 1 {
		t.Fatalf("claimed %d", len(jobs))
	}
	j := jobs[0]
	if j.ID != want || j.Priority != 2 || j.MaxAttempts != 3 || j.Timeout != 1500*time.Millisecond || strings.Join(j.Tags, "|") != "a|b c" ||
		j.UniqueKey != "u" || j.UniqueMode != job.UntilDone || j.ContentType != "text/plain" || j.Trace != "00-aa" || string(j.Payload) != `{"a":1}` ||
		j.ExpiresAt.Sub(j.CreatedAt) != time.Hour {
		t.Errorf("%+v", j)
	}
	if _, dup, err := enqueue(t, c, "mail", `{"unique_key":"u","unique_mode":"until_done"}`); err != nil || !dup {
		t.Errorf("held key: %v %v", dup, err)
	}
}

func TestEnqueueV1Defaults(t *testing.T) {
	dsn := testenv.Postgres(t)
	l, c := openAt(t, dsn, Options{}), connect(t, dsn)
	var id job.ID
	if err := c.QueryRow(t.Context(), "SELECT id FROM errand.enqueue_v1('k', NULL)").Scan(&id); err != nil {
		t.Fatal(err)
	}
	if age := time.Since(id.Time()); age < -time.Minute || age > time.Minute || id[6]>>4 != 7 || id[8]>>6 != 2 {
		t.Errorf("%s is no UUIDv7 of now", id)
	}
	got, err := l.Get(t.Context(), []job.ID{id})
	if err != nil || len(got) != 1 || got[0].Queue != "default" || got[0].Priority != 5 || got[0].MaxAttempts != 25 || got[0].State != job.Scheduled {
		t.Errorf("%v %+v", err, got)
	}
	later, _, err := enqueue(t, c, "k", `{"delay":"90 seconds"}`)
	if err != nil {
		t.Fatal(err)
	}
	got, err = l.Get(t.Context(), []job.ID{later})
	if err != nil || got[0].RunAt.Sub(got[0].CreatedAt) != 90*time.Second {
		t.Errorf("%v %+v", err, got)
	}
}

func TestEnqueueV1Repeats(t *testing.T) {
	dsn := testenv.Postgres(t)
	openAt(t, dsn, Options{})
	c := connect(t, dsn)
	id := newID().String()
	for i, c2 := range []struct {
		options, reason string
		dup             bool
	}{
		{`{"id":"` + id + `"}`, "", false},
		{`{"id":"` + id + `"}`, "", true},
		{`{"id":"` + id + `","priority":1}`, "ID_TAKEN", false},
		{`{"idempotency_key":"i"}`, "", false},
		{`{"idempotency_key":"i"}`, "", true},
		{`{"idempotency_key":"i","priority":1}`, "IDEMPOTENCY_REUSED", false},
		{`{"unique_key":"u","unique_mode":"window","unique_for":60}`, "", false},
		{`{"unique_key":"u","unique_mode":"window","unique_for":60}`, "", true},
		{`{"unique_key":"u","unique_mode":"window","unique_for":60,"on_conflict":"reject"}`, "UNIQUE_KEY_HELD", false},
	} {
		_, dup, err := enqueue(t, c, "k", c2.options)
		if detail(err) != c2.reason || dup != c2.dup {
			t.Errorf("%d: duplicate %v, error %v", i, dup, err)
		}
	}
}

// detail is the reason that a function raised with.
func detail(err error) string {
	var pg *pgconn.PgError
	if errors.As(err, &pg) {
		return pg.Detail
	}
	if err != nil {
		return err.Error()
	}
	return ""
}

func TestEnqueueV1RefusesBadInput(t *testing.T) {
	dsn := testenv.Postgres(t)
	l, c := openAt(t, dsn, Options{}), connect(t, dsn)
	long := strings.Repeat("x", 200)
	for _, options := range []string{
		`[]`, `{"prio":1}`, `{"queue":"` + long + `"}`, `{"queue":" q"}`, `{"queue":"a\u0007"}`, `{"priority":10}`, `{"priority":-1}`,
		`{"priority":"high"}`, `{"priority":1.5}`, `{"max_attempts":0}`, `{"max_attempts":10001}`, `{"timeout":-1}`, `{"timeout":"soon"}`,
		`{"delay":-1}`, `{"delay":1e12}`, `{"delay":1,"run_at":"2030-01-01T00:00:00Z"}`, `{"run_at":"tomorrowish"}`,
		`{"run_at":"2999-01-01T00:00:00Z"}`, `{"expires_in":0}`, `{"expires_at":"2000-01-01T00:00:00Z"}`, `{"tags":"a"}`, `{"tags":[1]}`,
		`{"tags":["` + long + `"]}`, `{"unique_key":"u"}`, `{"unique_mode":"window"}`, `{"unique_key":"u","unique_mode":"window"}`,
		`{"unique_key":"u","unique_mode":"until_done","unique_for":5}`, `{"unique_key":"u","unique_mode":"forever"}`,
		`{"on_conflict":"replace"}`, `{"id":"nonsense"}`, `{"trace_parent":"` + strings.Repeat("x", 600) + `"}`,
	} {
		_, _, err := enqueue(t, c, "k", options)
		if d := detail(err); d != "BAD_FIELD" && d != "BAD_ID" {
			t.Errorf("%.60s: %v", options, err)
		}
	}
	for _, kind := range []string{"", long, " k"} {
		if _, _, err := enqueue(t, c, kind, `{}`); detail(err) != "BAD_FIELD" {
			t.Errorf("kind %.20q: %v", kind, err)
		}
	}
	var id job.ID
	err := c.QueryRow(t.Context(), "SELECT id FROM errand.enqueue_v1('k', $1)", make([]byte, 1<<20+1)).Scan(&id)
	if detail(err) != "TOO_LARGE" {
		t.Errorf("a payload too large: %v", err)
	}
	if counts, err := l.Counts(t.Context()); err != nil || len(counts) != 0 {
		t.Errorf("something was stored: %v %v", counts, err)
	}
}

func TestCompleteV1(t *testing.T) {
	dsn := testenv.Postgres(t)
	l, c := openAt(t, dsn, Options{}), connect(t, dsn)
	j := ready("q", "k")
	j.UniqueKey, j.UniqueMode = "u", job.UntilDone
	insert(t, l, fresh(j))
	held := claim(t, l, session(t, l), "q", 1, "k")[0]
	complete := func(token int64) (bool, error) {
		var first bool
		err := c.QueryRow(t.Context(), "SELECT errand.complete_v1($1, $2, $3)", j.ID.String(), token, []byte("r")).Scan(&first)
		return first, err
	}
	if _, err := complete(held.Token + 1); detail(err) != "STALE_TOKEN" {
		t.Errorf("a foreign token: %v", err)
	}
	if first, err := complete(held.Token); err != nil || !first {
		t.Fatalf("complete: %v %v", first, err)
	}
	if first, err := complete(held.Token); err != nil || first {
		t.Errorf("repeated: %v %v", first, err)
	}
	want := held
	if err := rules().Step(&want, job.Move{Event: job.Succeed, Now: now(), Result: []byte("r")}); err != nil {
		t.Fatal(err)
	}
	got, err := l.Get(t.Context(), []job.ID{j.ID})
	if err != nil || len(got) != 1 || got[0].State != job.Succeeded || got[0].Version != want.Version || got[0].SettledToken != held.Token ||
		got[0].SettledAs != job.Succeed || !got[0].Session.IsZero() || string(got[0].Result) != "r" || got[0].Call != job.CallUntold {
		t.Errorf("%v %+v", err, got)
	}
	_, err = l.Apply(t.Context(), now(), ledger.Pick{IDs: []job.ID{j.ID}}, func(j *job.Job) error { j.Call = 0; return nil })
	if err != nil {
		t.Fatal(err)
	}
	got[0].Call = 0
	if told, err := l.Get(t.Context(), []job.ID{j.ID}); err != nil || !reflect.DeepEqual(told, got) {
		t.Errorf("when a server has taken the mark: %v %+v, want %+v", err, told, got)
	}
	again := ready("q", "k")
	again.UniqueKey, again.UniqueMode = "u", job.UntilDone
	if out := insert(t, l, fresh(again)); out[0].Outcome != ledger.InsertedNew {
		t.Errorf("the key was not freed: %+v", out[0])
	}
	counts, err := l.Counts(t.Context())
	if err != nil || len(counts) != 2 || counts[0].N != 1 || counts[1].N != 1 {
		t.Errorf("counts %v %v", counts, err)
	}
}

// passVar sets how many jobs pass by an open transaction: 5,000 by default.
const passVar = "ERRAND_PASSING_JOBS"

// pass has n jobs inserted, claimed and settled, and returns the time of the
// quickest of the first and of the last rounds.
func pass(t *testing.T, l *Ledger, s job.ID, n int) (first, last time.Duration) {
	t.Helper()
	rounds := 50
	took := make([]time.Duration, rounds)
	for r := range rounds {
		for left := n / rounds; left > 0; left -= 1000 {
			start, size := time.Now(), min(left, 1000)
			insert(t, l, batch(size, "q", "k"))
			jobs := claim(t, l, s, "q", size, "k")
			if len(jobs) != size {
				t.Fatalf("claimed %d of %d", len(jobs), size)
			}
			for _, ok := range succeed(t, l, jobs) {
				if !ok {
					t.Fatal("a settle was refused")
				}
			}
			if d := time.Since(start); took[r] == 0 || d < took[r] {
				took[r] = d
			}
		}
		if _, err := l.Upkeep(t.Context(), now(), ledger.DefaultKeep); err != nil {
			t.Fatal(err)
		}
	}
	return slices.Min(took[:5]), slices.Min(took[rounds-5:])
}

// An EnqueueTx that stays open slows nobody but another holder of its unique
// key, who is told after about a second; its job is found after the commit.
func TestHeldEnqueueTx(t *testing.T) {
	passing := 5000
	if n, err := strconv.Atoi(os.Getenv(passVar)); err == nil {
		passing = n
	}
	dsn := testenv.Postgres(t)
	l, c := openAt(t, dsn, Options{}), connect(t, dsn)
	s := session(t, l)
	tx, err := c.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	id, _, err := enqueue(t, tx, "k", `{"queue":"q","unique_key":"u","unique_mode":"until_done"}`)
	if err != nil {
		t.Fatal(err)
	}
	first, last := pass(t, l, s, passing)
	t.Logf("a round took %s at first and %s after %d jobs beside an open transaction", first, last, passing)
	if last > 3*first+20*time.Millisecond {
		t.Errorf("rounds became slower: %s at first, %s after %d jobs", first, last, passing)
	}
	rival, free := ready("q", "k"), ready("q", "k")
	rival.UniqueKey, rival.UniqueMode = "u", job.UntilDone
	free.UniqueKey, free.UniqueMode = "v", job.UntilDone
	start := time.Now()
	out := insert(t, l, fresh(rival, free))
	if d := time.Since(start); out[0].Outcome != ledger.KeyBusy || out[1].Outcome != ledger.InsertedNew || d < 900*time.Millisecond || d > 5*time.Second {
		t.Errorf("after %s: %+v", d, out)
	}
	if err := tx.Commit(t.Context()); err != nil {
		t.Fatal(err)
	}
	promote(t, l)
	until(t, 10*time.Second, "the job of the transaction is claimed", func() bool {
		for _, j := range claim(t, l, s, "q", 10, "k") {
			if j.ID == id {
				return true
			}
		}
		return false
	})
}
