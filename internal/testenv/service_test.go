package testenv

import (
	"strings"
	"testing"
)

// A starter that was written for tests serves a run without one: what it leaves with
// Cleanup is done at Stop, the latest first, and a failure is an error.
func TestServe(t *testing.T) {
	var done []string
	starter := func(fail bool) func(testing.TB) string {
		return func(t testing.TB) string {
			t.Cleanup(func() { done = append(done, "first") })
			t.Cleanup(func() {
				done = append(done, "second")
				if t.Failed() {
					t.Logf("its log")
				}
			})
			if fail {
				t.Fatalf("no luck: %d", 7)
			}
			return "there"
		}
	}
	s, err := Serve("NAME", starter(false))
	if err != nil || s.Env != "NAME" || s.Address != "there" || len(done) != 0 {
		t.Fatalf("%+v, %v, %v", s, err, done)
	}
	if err := s.Stop(); err != nil || strings.Join(done, " ") != "second first" {
		t.Errorf("Stop: %v, %v", err, done)
	}
	done = nil
	if _, err := Serve("NAME", starter(true)); err == nil || !strings.Contains(err.Error(), "no luck: 7") || !strings.Contains(err.Error(), "its log") {
		t.Errorf("a starter that failed: %v", err)
	}
	if strings.Join(done, " ") != "second first" {
		t.Errorf("after the failure: %v", done)
	}
}
