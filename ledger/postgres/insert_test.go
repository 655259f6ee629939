package postgres

import (
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/errandhq/errand/internal/testenv"
	"github.com/errandhq/errand/job"
	"github.com/errandhq/errand/ledger"
)

// A field of a job is stored with an untouched one, or makes it touched.
func TestUntouchedColumnsHoldAllOfAnUntouchedJob(t *testing.T) {
	if n := strings.Count(untouchedColumns, ",") + 1; n != untouchedCount {
		t.Errorf("there are %d columns, not %d", n, untouchedCount)
	}
	kept := strings.Fields("ID Queue Kind Payload ContentType Priority Tags Trace Digest State Lane CreatedAt RunAt ExpiresAt MaxAttempts Timeout")
	stored := map[string]bool{}
	for _, name := range kept {
		stored[name] = true
	}
	fields := reflect.TypeFor[job.Job]()
	for i := range fields.NumField() {
		j := job.Job{Version: 1}
		f := reflect.ValueOf(&j).Elem().Field(i)
		switch f.Interface().(type) {
		case time.Time:
			f.Set(reflect.ValueOf(time.Unix(1, 0)))
		case []job.Failure:
			f.Set(reflect.ValueOf([]job.Failure{{}}))
		default:
			setAny(f)
		}
		if name := fields.Field(i).Name; isUntouched(&j) != stored[name] {
			t.Errorf("with %s set a job is untouched: %t", name, !stored[name])
		}
	}
}

// A batch of many ids finds a dead letter that is one of them, and is stored beside one
// that only lies between them.
func TestManyIDsAroundADeadLetter(t *testing.T) {
	l := open(t)
	for name, known := range map[string]bool{"one of them": true, "another": false} {
		items := batch(fewItems+10, "q", "k")
		dead := items[fewItems/2:][:1]
		if !known {
			items = slices.Delete(slices.Clone(items), fewItems/2, fewItems/2+1)
		}
		insert(t, l, dead)
		if _, err := l.Apply(t.Context(), now(), ledger.Pick{IDs: []job.ID{dead[0].Job.ID}}, func(j *job.Job) error {
			j.State, j.DoneAt = job.Dead, now()
			return nil
		}); err != nil {
			t.Fatal(err)
		}
		answers, err := l.Insert(t.Context(), now(), items)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		for i, a := range answers {
			want := ledger.Inserted{Outcome: ledger.InsertedNew, Holder: items[i].Job.ID, State: job.Ready}
			if items[i].Job.ID == dead[0].Job.ID {
				want.Outcome, want.State = ledger.Duplicate, job.Dead
			}
			if a != want {
				t.Errorf("%s: item %d: %+v, want %+v", name, i, a, want)
			}
		}
	}
}

// setAny gives a field another value than zero, and than 1.
func setAny(f reflect.Value) {
	switch f.Kind() {
	case reflect.String:
		f.SetString("x")
	case reflect.Bool:
		f.SetBool(true)
	case reflect.Slice:
		f.Set(reflect.MakeSlice(f.Type(), 2, 2))
	case reflect.Array:
		f.Index(0).SetUint(2)
	default:
		f.Set(reflect.ValueOf(2).Convert(f.Type()))
	}
}

// repeatableRead opens a ledger whose database has another default isolation than Errand's.
func repeatableRead(t *testing.T) *Ledger {
	t.Helper()
	dsn := testenv.Postgres(t)
	if _, err := connect(t, dsn).Exec(t.Context(), `DO $$ BEGIN EXECUTE format(
		'ALTER DATABASE %I SET default_transaction_isolation = ''repeatable read''', current_database()); END $$`); err != nil {
		t.Fatal(err)
	}
	return openAt(t, dsn, Options{MaxConns: 4})
}

// Few jobs are stored in a transaction that the server begins by itself. What it looks at
// behind the insert is what was committed while that waited, whatever the database's default is: here
// the same id as a dead letter.
func TestFewSeeWhoBecameADeadLetterMeanwhile(t *testing.T) {
	l := repeatableRead(t)
	items := batch(1, "q", "k")
	insert(t, l, items)
	tx, err := connect(t, l.listenDSN).Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	id := uuidArg(items[0].Job.ID)
	for _, sql := range []string{
		"UPDATE errand.job_row SET state = 5, done_at = 1 WHERE id = $1",
		"WITH d AS (DELETE FROM errand.job_row WHERE id = $1 RETURNING *) INSERT INTO errand.dead SELECT * FROM d",
	} {
		if _, err := tx.Exec(t.Context(), sql, id); err != nil {
			t.Fatal(err)
		}
	}
	var answers []ledger.Inserted
	done := make(chan error, 1)
	go func() {
		var err error
		answers, err = l.Insert(t.Context(), now(), items)
		done <- err
	}()
	awaitBlocked(t, l)
	if err := tx.Commit(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	if want := (ledger.Inserted{Outcome: ledger.Duplicate, Holder: items[0].Job.ID, State: job.Dead}); answers[0] != want {
		t.Errorf("%+v, want %+v", answers[0], want)
	}
}

// An insert that fails at its commit says so, and has stored nothing.
func TestFewFailAtTheirCommit(t *testing.T) {
	l := open(t)
	if _, err := l.pool.Exec(t.Context(), `CREATE FUNCTION refuse_late() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
			RAISE EXCEPTION 'refused at the commit';
		END $$;
		CREATE CONSTRAINT TRIGGER refuse_late AFTER INSERT ON errand.job_row DEFERRABLE INITIALLY DEFERRED
			FOR EACH ROW WHEN (new.kind = 'refused') EXECUTE FUNCTION refuse_late()`, pgx.QueryExecModeSimpleProtocol); err != nil {
		t.Fatal(err)
	}
	answers, err := l.Insert(t.Context(), now(), batch(3, "q", "refused"))
	if err == nil || !strings.Contains(err.Error(), "refused at the commit") {
		t.Errorf("answers %+v, error %v", answers, err)
	}
	insert(t, l, batch(1, "q", "k")) // on the same connections
	wantCounts(t, l, map[string]int64{"k " + job.Ready.String(): 1})
}

// Each of few jobs keeps what only it has.
func TestFewKeepTheirOptions(t *testing.T) {
	l := open(t)
	items := batch(5, "q", "k")
	at := now().Add(time.Hour)
	items[0].Job.Tags = []string{"a", "b"}
	items[1].Job.Timeout = time.Minute
	items[2].Job.ExpiresAt = at
	items[3].Job.ContentType, items[3].Job.Payload = "text/plain", []byte("text")
	items[4].Job.State, items[4].Job.RunAt = job.Scheduled, at
	insert(t, l, items)
	for i := range items {
		got, err := l.Get(t.Context(), []job.ID{items[i].Job.ID})
		if err != nil || len(got) != 1 {
			t.Fatalf("%d: %+v, %v", i, got, err)
		}
		want := items[i].Job
		want.Seq = got[0].Seq
		if (want.Seq != 0) != (want.State == job.Ready) || !reflect.DeepEqual(got[0], want) {
			t.Errorf("%d:\n%+v, want\n%+v", i, got[0], want)
		}
	}
}
