package postgres

import (
	"crypto/rand"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/errandhq/errand/internal/testenv"
	"github.com/errandhq/errand/job"
	"github.com/errandhq/errand/ledger"
)

// open opens a ledger on a fresh database.
func open(t testing.TB) *Ledger {
	t.Helper()
	return openAt(t, testenv.Postgres(t), Options{})
}

func openAt(t testing.TB, dsn string, opts Options) *Ledger {
	t.Helper()
	l, err := Open(t.Context(), dsn, opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	return l
}

func newID() job.ID { return job.ID(uuid.Must(uuid.NewV7())) }

// ready returns a job as the engine would store it.
func ready(queue, kind string) job.Job {
	now := time.Now().UTC().Truncate(time.Microsecond)
	return job.Job{
		ID: newID(), Queue: queue, Kind: kind, Payload: []byte(`{"n":1}`), ContentType: job.DefaultContentType, Priority: 5, Lane: 5,
		State: job.Ready, CreatedAt: now, RunAt: now, MaxAttempts: 25, Version: 1, Digest: 7,
	}
}

func fresh(jobs ...job.Job) []ledger.Item {
	items := make([]ledger.Item, len(jobs))
	for i, j := range jobs {
		items[i] = ledger.Item{Job: j, Fresh: true}
	}
	return items
}

func batch(n int, queue, kind string) []ledger.Item {
	items := make([]ledger.Item, n)
	for i := range items {
		items[i] = ledger.Item{Job: ready(queue, kind), Fresh: true}
	}
	return items
}

func now() time.Time { return time.Now().UTC().Truncate(time.Microsecond) }

// session opens a live session.
func session(t testing.TB, l *Ledger) job.ID {
	t.Helper()
	id := newID()
	err := l.OpenSession(t.Context(), ledger.Session{ID: id, Worker: "w", Concurrency: 10, TTL: 30 * time.Second, OpenedAt: now(), BeatAt: now()})
	if err != nil {
		t.Fatal(err)
	}
	return id
}

func insert(t testing.TB, l *Ledger, items []ledger.Item) []ledger.Inserted {
	t.Helper()
	out, err := l.Insert(t.Context(), now(), items)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func claim(t testing.TB, l *Ledger, s job.ID, queue string, most int, kinds ...string) []job.Job {
	t.Helper()
	out, err := l.Claim(t.Context(), now(), []ledger.Claim{{Session: s, Call: 1, Queue: queue, Kinds: kinds, Max: most, MaxBytes: 4 << 20}})
	if err != nil {
		t.Fatal(err)
	}
	if out[0].Err != nil {
		t.Fatal(out[0].Err)
	}
	return out[0].Jobs
}

func succeed(t testing.TB, l *Ledger, jobs []job.Job) []bool {
	t.Helper()
	items := make([]ledger.Success, len(jobs))
	for i := range jobs {
		items[i] = ledger.Success{ID: jobs[i].ID, Token: jobs[i].Token, Result: []byte(`"ok"`)}
	}
	out, err := l.Succeed(t.Context(), now(), items)
	if err != nil {
		t.Fatal(err)
	}
	ok := make([]bool, len(out))
	for i, s := range out {
		ok[i] = s.OK
	}
	return ok
}

// until polls cond, which must hold within d, or at the first look after that.
func until(t testing.TB, d time.Duration, what string, cond func() bool) {
	t.Helper()
	deadline := time.Now().Add(d)
	for {
		late := time.Now().After(deadline)
		if cond() {
			return
		}
		if late {
			t.Fatalf("not within %s: %s", d, what)
		}
		<-time.After(10 * time.Millisecond)
	}
}

func rules() job.Rules { return job.DefaultRules(func() float64 { return 0.5 }) }

func TestLifeOfAJob(t *testing.T) {
	l := open(t)
	s := session(t, l)
	j := ready("q", "k")
	j.Tags, j.Trace, j.UniqueKey, j.UniqueMode = []string{"a", "b"}, "00-x", "u", job.UntilDone
	if got := insert(t, l, fresh(j))[0]; got.Outcome != ledger.InsertedNew || got.Holder != j.ID {
		t.Fatalf("insert: %+v", got)
	}
	if got := insert(t, l, []ledger.Item{{Job: j}})[0]; got.Outcome != ledger.Duplicate || got.State != job.Ready {
		t.Fatalf("insert again: %+v", got)
	}
	jobs := claim(t, l, s, "q", 10)
	if len(jobs) != 1 || jobs[0].Token != 1 || jobs[0].State != job.Running || fmt.Sprint(jobs[0].Tags) != "[a b]" {
		t.Fatalf("claim: %+v", jobs)
	}
	if ok := succeed(t, l, jobs); !ok[0] {
		t.Fatal("succeed refused")
	}
	if ok := succeed(t, l, jobs); ok[0] {
		t.Fatal("succeed repeated")
	}
	got, err := l.Get(t.Context(), []job.ID{j.ID})
	if err != nil || len(got) != 1 || got[0].State != job.Succeeded || string(got[0].Result) != `"ok"` {
		t.Fatalf("get: %v %+v", err, got)
	}
	counts, err := l.Counts(t.Context())
	if err != nil || len(counts) != 1 || counts[0] != (ledger.Count{Queue: "q", Kind: "k", State: job.Succeeded, N: 1}) {
		t.Fatalf("counts: %v %+v", err, counts)
	}
}

func TestApplyMovesJobs(t *testing.T) {
	l := open(t)
	s := session(t, l)
	j := ready("q", "k")
	insert(t, l, fresh(j))
	claim(t, l, s, "q", 1, "k")
	steps := []job.Move{
		{Event: job.Discard, Failure: job.Failure{Message: "no\x00good"}},
		{Event: job.Redrive},
		{Event: job.Cancel},
		{Event: job.Delete},
	}
	for _, m := range steps {
		m.Now = now()
		out, err := l.Apply(t.Context(), now(), ledger.Pick{IDs: []job.ID{j.ID}}, func(j *job.Job) error { return rules().Step(j, m) })
		if err != nil || out[0].Err != nil {
			t.Fatalf("%s: %v %v", m.Event, err, out)
		}
	}
	out, err := l.Apply(t.Context(), now(), ledger.Pick{IDs: []job.ID{j.ID}}, func(*job.Job) error { return nil })
	if err != nil || out[0].Err != job.ErrNotFound {
		t.Fatalf("after delete: %v %v", err, out)
	}
	if counts, err := l.Counts(t.Context()); err != nil || len(counts) != 0 {
		t.Fatalf("counts: %v %v", err, counts)
	}
}

// The benchmarks count jobs, in batches of 1000 from as many hands as keep a
// small server busy.
const hands = 3

// inHands calls fn n times, shared among the hands.
func inHands(n int, fn func()) {
	var wg sync.WaitGroup
	var left atomic.Int64
	left.Store(int64(n))
	for range hands {
		wg.Go(func() {
			for left.Add(-1) >= 0 {
				fn()
			}
		})
	}
	wg.Wait()
}

func BenchmarkInsert(b *testing.B) {
	l := open(b)
	payload := make([]byte, 100)
	_, _ = rand.Read(payload)
	b.ResetTimer()
	inHands((b.N+999)/1000, func() {
		items := batch(1000, "q", "k")
		for i := range items {
			items[i].Job.Payload = payload
		}
		if _, err := l.Insert(b.Context(), now(), items); err != nil {
			b.Error(err)
		}
	})
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "jobs/s")
}

func BenchmarkClaimSucceed(b *testing.B) {
	l := open(b)
	s := session(b, l)
	n := (b.N + 999) / 1000
	inHands(n, func() {
		if _, err := l.Insert(b.Context(), now(), batch(1000, "q", "k")); err != nil {
			b.Error(err)
		}
	})
	var claiming, settling atomic.Int64
	b.ResetTimer()
	inHands(n, func() {
		start := time.Now()
		out, err := l.Claim(b.Context(), now(), []ledger.Claim{{Session: s, Call: 1, Queue: "q", Kinds: []string{"k"}, Max: 1000, MaxBytes: 4 << 20}})
		if err != nil || out[0].Err != nil {
			b.Errorf("claim: %v %v", err, out)
			return
		}
		claiming.Add(int64(time.Since(start)))
		items := make([]ledger.Success, len(out[0].Jobs))
		for i := range items {
			items[i] = ledger.Success{ID: out[0].Jobs[i].ID, Token: out[0].Jobs[i].Token}
		}
		start = time.Now()
		if _, err := l.Succeed(b.Context(), now(), items); err != nil {
			b.Error(err)
		}
		settling.Add(int64(time.Since(start)))
	})
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "jobs/s")
	b.ReportMetric(float64(claiming.Load())/1e6/float64(n), "ms/claim")
	b.ReportMetric(float64(settling.Load())/1e6/float64(n), "ms/settle")
}
