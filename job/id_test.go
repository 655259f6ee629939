package job_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/errandhq/errand/job"
)

const someID = "019a6f0c-1c2d-7abc-8def-0123456789ab"

func TestParseID(t *testing.T) {
	id, err := job.ParseID(someID)
	if err != nil || id.String() != someID || id.IsZero() {
		t.Fatalf("%s, %v", id, err)
	}
	if upper, err := job.ParseID(strings.ToUpper(someID)); err != nil || upper != id {
		t.Errorf("upper case: %s, %v", upper, err)
	}
	for _, bad := range []string{"", "x", someID[:35], someID + "0", strings.ReplaceAll(someID, "-", ""),
		"{" + someID[:34] + "}", strings.Replace(someID, "0", "g", 1), "019a6f0c_1c2d-7abc-8def-0123456789ab",
		strings.Repeat("a", 1<<20), "\x00" + someID[1:], "019a6f0c-1c2d-7abc-8def-0123456789é"} {
		id, err := job.ParseID(bad)
		if job.ReasonOf(err) != job.ReasonBadID || job.CodeOf(err) != job.InvalidArgument || !id.IsZero() {
			t.Errorf("%.50q: %s, %v", bad, id, err)
		}
		if len(err.Error()) > 400 {
			t.Errorf("the message repeats %d bytes of input", len(err.Error()))
		}
	}
}

func TestIDTime(t *testing.T) {
	id, _ := job.ParseID("018cc251-f400-7000-8000-000000000000")
	if want := time.Date(2024, 1, 1, 0, 0, 0, 0, time.UTC); !id.Time().Equal(want) {
		t.Errorf("%s", id.Time().UTC())
	}
}

func TestIDScan(t *testing.T) {
	want, _ := job.ParseID(someID)
	for _, src := range []any{someID, []byte(someID), want[:], [16]byte(want)} {
		var id job.ID
		if err := id.Scan(src); err != nil || id != want {
			t.Errorf("%T: %s, %v", src, id, err)
		}
	}
	for _, src := range []any{nil, []byte{}} {
		id := want
		if err := id.Scan(src); err != nil || !id.IsZero() {
			t.Errorf("%T: %s, %v", src, id, err)
		}
	}
	for _, src := range []any{42, "x", []byte("abc"), 1.5} {
		var id job.ID
		if err := id.Scan(src); err == nil || !id.IsZero() {
			t.Errorf("%v (%T) was accepted", src, src)
		}
	}
}

func FuzzParseID(f *testing.F) {
	for _, s := range []string{someID, "", "00000000-0000-0000-0000-000000000000", strings.ToUpper(someID)} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		id, err := job.ParseID(s)
		if err != nil {
			if job.ReasonOf(err) != job.ReasonBadID || !id.IsZero() {
				t.Errorf("%q: %s, %v", s, id, err)
			}
			return
		}
		if id.String() != strings.ToLower(s) {
			t.Errorf("%q came back as %s", s, id)
		}
		var again job.ID
		text, _ := id.MarshalText()
		if err := again.UnmarshalText(text); err != nil || again != id {
			t.Errorf("%q: %v", s, err)
		}
	})
}

func FuzzParseState(f *testing.F) {
	for _, s := range allStates {
		f.Add(s.String())
	}
	f.Add("deleted")
	f.Fuzz(func(t *testing.T, name string) {
		s, err := job.ParseState(name)
		if err != nil {
			if job.CodeOf(err) != job.InvalidArgument || s != 0 {
				t.Errorf("%q: %s, %v", name, s, err)
			}
			return
		}
		if s.String() != name || s < job.Scheduled || s > job.Cancelled {
			t.Errorf("%q became %d", name, s)
		}
	})
}

func TestNames(t *testing.T) {
	for _, s := range allStates {
		if got, err := job.ParseState(s.String()); err != nil || got != s {
			t.Errorf("%s: %v, %v", s, got, err)
		}
		if want := s == job.Succeeded || s == job.Dead || s == job.Cancelled; s.Final() != want {
			t.Errorf("%s: final %v", s, s.Final())
		}
	}
	for _, name := range []string{"", "deleted", "READY", "ready ", strings.Repeat("x", 10000)} {
		if _, err := job.ParseState(name); job.ReasonOf(err) != job.ReasonBadField || len(err.Error()) > 400 {
			t.Errorf("%.20q: %v", name, err)
		}
	}
	seen := map[string]bool{}
	for _, e := range allEvents {
		if seen[e.String()] || e.String() == "" {
			t.Errorf("event %d has the name %q", e, e)
		}
		seen[e.String()] = true
	}
	if job.State(99).String() != "state(99)" || job.Event(99).String() != "event(99)" {
		t.Error("unknown numbers")
	}
}

// The numbers are stored in every ledger: changing one corrupts the jobs kept.
func TestStoredNumbersNeverChange(t *testing.T) {
	for i, s := range allStates {
		if int(s) != i+1 {
			t.Errorf("%s is %d", s, s)
		}
	}
	for i, e := range allEvents {
		if int(e) != i+1 {
			t.Errorf("%s is %d", e, e)
		}
	}
	if job.NotUnique != 0 || job.WhileQueued != 1 || job.UntilDone != 2 || job.ForWindow != 3 {
		t.Error("unique modes")
	}
	if job.LaneSuspect != -2 || job.LaneFront != -1 || job.LaneLast != 9 {
		t.Error("lanes")
	}
}

func TestErrors(t *testing.T) {
	cause := errors.New("disk full")
	err := job.Errorf(job.Unavailable, job.ReasonLedgerDown, "insert: %w", cause)
	wrapped := fmt.Errorf("enqueue: %w", err)
	if err.Error() != "insert: disk full" || !errors.Is(wrapped, cause) || job.CodeOf(wrapped) != job.Unavailable || job.ReasonOf(wrapped) != job.ReasonLedgerDown {
		t.Errorf("%v: code %d, reason %s", wrapped, job.CodeOf(wrapped), job.ReasonOf(wrapped))
	}
	stale := job.Errorf(job.FailedPrecondition, job.ReasonStaleToken, "other words")
	if !errors.Is(fmt.Errorf("x: %w", stale), job.ErrStale) || errors.Is(stale, job.ErrSessionLost) || errors.Is(cause, job.ErrStale) {
		t.Error("Is")
	}
	if job.CodeOf(cause) != job.Internal || job.ReasonOf(cause) != "" || job.ReasonOf(nil) != "" {
		t.Error("errors of others")
	}
}
