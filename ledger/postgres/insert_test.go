package postgres

import (
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

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
