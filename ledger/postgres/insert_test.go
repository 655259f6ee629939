package postgres

import (
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/errandhq/errand/job"
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
