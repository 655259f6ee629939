package sqlite

import (
	"database/sql/driver"
	"fmt"
	"reflect"
	"slices"
	"testing"
	"time"

	"github.com/errandhq/errand/job"
	"github.com/errandhq/errand/ledger"
	"github.com/errandhq/errand/ledger/coldsql"
)

// TestPlainFields looks at each field of a job, those to come too: it is stored for plain
// jobs, or makes a job other than plain.
func TestPlainFields(t *testing.T) {
	stored := []string{"ID", "Queue", "Kind", "Payload", "Priority", "Digest", "Lane", "Seq", "CreatedAt", "RunAt", "MaxAttempts", "Version"}
	for _, f := range reflect.VisibleFields(reflect.TypeFor[job.Job]()) {
		j := newItem(1).Job
		if !isPlain(&j) {
			t.Fatal("a new job is not plain")
		}
		v := reflect.ValueOf(&j).Elem().FieldByIndex(f.Index)
		switch f.Name {
		case "State":
			j.State = job.Running
		case "Progress", "Result", "Tags", "Errors":
			v.Set(reflect.MakeSlice(f.Type, 1, 1))
		default:
			setOther(t, v)
		}
		if got, want := isPlain(&j), slices.Contains(stored, f.Name); got != want {
			t.Errorf("with another %s: plain %t, want %t", f.Name, got, want)
		}
	}
}

func setOther(t *testing.T, v reflect.Value) {
	t.Helper()
	switch x := v.Addr().Interface().(type) {
	case *time.Time:
		*x = time.Unix(1, 0)
	case *job.ID:
		*x = newID()
	case *[]byte:
		*x = []byte("x")
	default:
		switch {
		case v.CanInt():
			v.SetInt(v.Int() + 1)
		case v.CanUint():
			v.SetUint(v.Uint() + 1)
		case v.Kind() == reflect.String:
			v.SetString("other")
		case v.Kind() == reflect.Bool:
			v.SetBool(true)
		default:
			t.Fatalf("what is another %s?", v.Type())
		}
	}
}

func mustSession(t *testing.T, l *Ledger) job.ID {
	t.Helper()
	id := newID()
	if err := l.OpenSession(t.Context(), ledger.Session{ID: id, OpenedAt: time.Now(), BeatAt: time.Now()}); err != nil {
		t.Fatal(err)
	}
	return id
}

// rowOf returns all columns of a job in a table but those that differ anyway.
func rowOf(t *testing.T, l *Ledger, table string, id job.ID) (row string, call any) {
	t.Helper()
	err := l.w.do(t.Context(), "look", 1, func(tx *tx) error {
		return tx.query("SELECT "+coldsql.ColumnList+" FROM "+table+" WHERE id = ?", []any{blobID(id)}, func(vals []driver.Value) error {
			row = ""
			for i, c := range coldsql.Columns {
				if c == "call" {
					call = vals[i]
				} else if c != "id" && c != "seq" {
					row += fmt.Sprintf("%s=%v ", c, vals[i])
				}
			}
			return nil
		})
	})
	if err != nil || row == "" {
		t.Fatalf("%s of %s: %q, %v", id, table, row, err)
	}
	return row, call
}

// TestPlainRows stores, leases and settles the same jobs by the plain statements and by those for all.
func TestPlainRows(t *testing.T) {
	l := testOpen(t, testPath(t))
	now := time.Now().UTC().Truncate(time.Microsecond)
	items := make([]ledger.Item, 4*shortestRun)
	for i := range items {
		items[i] = newItem(10)
		items[i].Job.CreatedAt, items[i].Job.RunAt = now, now
	}
	half := len(items) / 2
	items[half].Job.Tags = []string{"tag"} // its neighbours are stored by its statement
	mustInsert(t, l, items[:half]...)
	mustInsert(t, l, items[half:]...)
	plain, other := items[0].Job.ID, items[half+1].Job.ID
	if _, call := rowOf(t, l, liveTable, other); call != int64(0) {
		t.Errorf("beside another: call %v", call)
	}
	err := l.w.do(t.Context(), "unmark", 1, func(tx *tx) error {
		for _, it := range items[half:] {
			if _, err := tx.exec("UPDATE job_row SET call = NULL WHERE id = ?", blobID(it.Job.ID)); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	a, call := rowOf(t, l, liveTable, plain)
	if b, _ := rowOf(t, l, liveTable, other); a != b || call != int64(0) {
		t.Errorf("stored, call %v:\n%s\n%s", call, a, b)
	}
	s := mustSession(t, l)
	got, err := l.Claim(t.Context(), now, []ledger.Claim{{Session: s, Call: 7, Queue: "q", Max: len(items), MaxBytes: 1 << 20}})
	if err != nil || len(got[0].Jobs) != len(items) {
		t.Fatal(got, err)
	}
	first, second := got[0].Jobs[0], got[0].Jobs[half+1]
	if first.ID != plain || second.ID != other {
		t.Fatal("leased in another order")
	}
	first.ID, first.Seq, second.ID, second.Seq = job.ID{}, 0, job.ID{}, 0
	if !reflect.DeepEqual(first, second) {
		t.Errorf("leased:\n%+v\n%+v", first, second)
	}
	done := make([]ledger.Success, len(items))
	for i, j := range got[0].Jobs {
		done[i] = ledger.Success{ID: j.ID, Token: j.Token}
	}
	if ok, err := l.Succeed(t.Context(), now, done); err != nil || !ok[0].OK || !ok[len(ok)-1].OK {
		t.Fatal(ok, err)
	}
	a, call = rowOf(t, l, "archive", plain)
	if b, _ := rowOf(t, l, "archive", other); a != b || call != nil {
		t.Errorf("archived, call %v:\n%s\n%s", call, a, b)
	}
}

// TestPlainMarks follows the mark through what changes a row.
func TestPlainMarks(t *testing.T) {
	l := testOpen(t, testPath(t))
	now := time.Now()
	due, named := newItem(1), newItem(1)
	due.Job.State, due.Job.RunAt = job.Scheduled, now.Add(-time.Second)
	mustInsert(t, l, due, named)
	marked := func(what string, id job.ID, want any) {
		t.Helper()
		if _, call := rowOf(t, l, liveTable, id); call != want {
			t.Errorf("%s: call %v, want %v", what, call, want)
		}
	}
	marked("scheduled", due.Job.ID, int64(0))
	if _, err := l.Apply(t.Context(), now, ledger.Pick{Due: now, Limit: 10}, func(j *job.Job) error {
		return job.Rules{}.Step(j, job.Move{Event: job.Due, Now: now})
	}); err != nil {
		t.Fatal(err)
	}
	marked("due", due.Job.ID, int64(0))
	s := mustSession(t, l)
	claim := ledger.Claim{Session: s, Call: 7, Queue: "q", Max: 1, MaxBytes: 1 << 20, Refs: []ledger.Ref{{ID: named.Job.ID}}}
	if got, err := l.Claim(t.Context(), now, []ledger.Claim{claim}); err != nil || len(got[0].Jobs) != 1 {
		t.Fatal(got, err)
	}
	marked("leased by name", named.Job.ID, int64(7))
	if _, err := l.Fence(t.Context()); err != nil {
		t.Fatal(err)
	}
	claim.Refs = nil
	got, err := l.Claim(t.Context(), now, []ledger.Claim{claim})
	if err != nil || len(got[0].Jobs) != 1 {
		t.Fatal(got, err)
	}
	if j := got[0].Jobs[0]; j.Token != 1<<32+1 || j.Version < 1<<32 {
		t.Errorf("after the fence: token %d, version %d", j.Token, j.Version)
	}
}
