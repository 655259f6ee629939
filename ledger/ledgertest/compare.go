package ledgertest

import (
	"errors"
	"fmt"
	"time"

	"github.com/google/uuid"

	"github.com/errandhq/errand/job"
	"github.com/errandhq/errand/ledger"
)

// wantJob compares a job field by field. Seq is compared where want has one;
// Lane where it means something.
func (w *world) wantJob(what string, got, want job.Job) {
	w.Helper()
	if d := diff(got, want); d != "" {
		w.Errorf("%s: %s", what, d)
	}
}

func diff(got, want job.Job) string {
	if want.State == job.Ready && want.Seq == 0 {
		if got.Seq <= 0 {
			return fmt.Sprintf("Seq is %d, none was drawn", got.Seq)
		}
		want.Seq = got.Seq
	}
	if want.State != job.Ready {
		want.Lane = got.Lane
	}
	g, x := flat(got), flat(want)
	var out error
	for i := range g {
		if g[i] != x[i] {
			out = errors.Join(out, fmt.Errorf("%s, want %s", g[i], x[i]))
		}
	}
	if out == nil {
		return ""
	}
	return out.Error()
}

// flat writes each field as text, so that empty and nil, and one moment in two
// time zones, are the same.
func flat(j job.Job) []string {
	out := []string{
		fmt.Sprint("ID ", j.ID), fmt.Sprintf("Queue %q", j.Queue), fmt.Sprintf("Kind %q", j.Kind),
		fmt.Sprintf("Payload %q", clipTo(j.Payload)), fmt.Sprintf("ContentType %q", j.ContentType), fmt.Sprint("Priority ", j.Priority),
		fmt.Sprintf("Tags %q", j.Tags), fmt.Sprintf("Trace %q", j.Trace), fmt.Sprint("Digest ", j.Digest),
		fmt.Sprint("State ", j.State), fmt.Sprint("Lane ", j.Lane), fmt.Sprint("Seq ", j.Seq),
		"CreatedAt " + stamp(j.CreatedAt), "RunAt " + stamp(j.RunAt), "ExpiresAt " + stamp(j.ExpiresAt),
		"LeasedAt " + stamp(j.LeasedAt), "DoneAt " + stamp(j.DoneAt),
		fmt.Sprint("Attempt ", j.Attempt), fmt.Sprint("MaxAttempts ", j.MaxAttempts), fmt.Sprint("Crashes ", j.Crashes),
		fmt.Sprint("Redrives ", j.Redrives), fmt.Sprint("Timeout ", j.Timeout), fmt.Sprintf("UniqueKey %q", j.UniqueKey),
		fmt.Sprint("UniqueMode ", j.UniqueMode), fmt.Sprint("UniqueFor ", j.UniqueFor), fmt.Sprint("Session ", j.Session),
		fmt.Sprint("Call ", j.Call), fmt.Sprint("Token ", j.Token), fmt.Sprint("Version ", j.Version),
		fmt.Sprint("SettledToken ", j.SettledToken), fmt.Sprint("SettledAs ", j.SettledAs), fmt.Sprint("CancelRequested ", j.CancelRequested),
		fmt.Sprintf("Reason %q", j.Reason), fmt.Sprintf("Result %q", clipTo(j.Result)), fmt.Sprintf("Progress %q", j.Progress),
		fmt.Sprint("errors ", len(j.Errors)),
	}
	for _, f := range j.Errors {
		out = append(out, fmt.Sprintf("error %d %q %q %s %q %v", f.Attempt, f.Message, f.Stack, stamp(f.At), f.Worker, f.Crash))
	}
	return out
}

// clipTo keeps messages readable: large contents are compared by length and hash.
func clipTo(b []byte) string {
	if len(b) <= 600 {
		return string(b)
	}
	return fmt.Sprintf("%d bytes, %s", len(b), uuid.NewSHA1(uuid.Nil, b))
}

func stamp(t time.Time) string {
	if t.IsZero() {
		return "never"
	}
	return t.UTC().Format(time.RFC3339Nano)
}

// sameSucceeded compares answers of Succeed.
func sameSucceeded(a, b ledger.Succeeded) bool {
	text := func(s ledger.Succeeded) string {
		return fmt.Sprintf("%v %q %q %d %d/%d %d %d %s %s %s", s.OK, s.Queue, s.Kind, s.Priority, s.Attempt, s.MaxAttempts, s.Crashes, s.Version,
			stamp(s.CreatedAt), stamp(s.RunAt), stamp(s.LeasedAt))
	}
	return text(a) == text(b)
}
