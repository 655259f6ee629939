package auth

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	errandv1 "github.com/errandhq/errand/gen/errand/v1"
	"github.com/errandhq/errand/gen/errand/v1/errandv1connect"
	"github.com/errandhq/errand/gen/keda/externalscaler/externalscalerconnect"
	"github.com/errandhq/errand/job"
)

// write makes a token file and returns its path.
func write(t *testing.T, mode os.FileMode, lines ...string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "tokens")
	if err := os.WriteFile(path, []byte(strings.Join(lines, "\n")+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(path, mode); err != nil {
		t.Fatal(err)
	}
	return path
}

func line(t *testing.T, tok Token, name string, r Role) string {
	t.Helper()
	l, err := tok.Line(name, r)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func TestTokenRoundTrip(t *testing.T) {
	app, ops := NewToken(), NewToken()
	path := write(t, 0o600, "# who may call", "", line(t, app, "app", Producer|Worker), "  "+line(t, ops, "ops", Operator))
	toks, err := Load(path, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		header string
		want   Caller
	}{
		{"Bearer " + app.Reveal(), Caller{"app", Producer | Worker}},
		{"bearer  " + ops.Reveal(), Caller{"ops", Operator}},
	} {
		got, err := toks.Authenticate(c.header)
		if err != nil || got != c.want {
			t.Errorf("Authenticate: %v, %v; want %v", got, err, c.want)
		}
	}
}

func TestAuthenticateRefuses(t *testing.T) {
	tok := NewToken()
	toks, err := Load(write(t, 0o600, line(t, tok, "app", Producer)), slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	for _, header := range []string{
		"", "Bearer", "Bearer ", "Basic " + tok.Reveal(), tok.Reveal(), "Bearer " + tok.Reveal() + "x",
		"Bearer " + NewToken().Reveal(), "Bearer " + tok.Hash(), "Bearer " + strings.Repeat("x", 10_000), "Bearer \x00",
	} {
		_, err := toks.Authenticate(header)
		if job.CodeOf(err) != job.Unauthenticated || job.ReasonOf(err) != job.ReasonUnauthenticated {
			t.Errorf("Authenticate(%.20q): %v", header, err)
		}
		if err != nil && strings.Contains(err.Error(), tok.Reveal()) {
			t.Errorf("the error shows the token: %v", err)
		}
	}
}

func TestTokensDoNotPrint(t *testing.T) {
	tok := NewToken()
	var log bytes.Buffer
	slog.New(slog.NewTextHandler(&log, nil)).Info("x", "token", tok)
	for _, s := range []string{tok.String(), fmt.Sprintf("%v %+v %#v %s", tok, tok, tok, tok), log.String()} {
		if strings.Contains(s, tok.Reveal()) {
			t.Errorf("shows the token: %s", s)
		}
	}
	if tok == NewToken() {
		t.Error("two tokens are the same")
	}
}

func TestBadFiles(t *testing.T) {
	good := line(t, NewToken(), "app", Producer)
	for _, c := range []struct{ want, line string }{
		{"line 2: has 2 fields", "app producer"},
		{"line 2: has 4 fields", good + " more"},
		{`line 2: role "king" is not one of producer, worker, viewer, operator, monitor`, "app king " + strings.Repeat("0", 64)},
		{`line 2: role "" is not one of`, "app producer, " + strings.Repeat("0", 64)},
		{"line 2: the hash of app has 10 characters", "app viewer 0123456789"},
		{"line 2: the hash of app is not hexadecimal", "app viewer " + strings.Repeat("g", 64)},
		{"line 2: the token of line 1 again", good},
		{"line 2: name is not valid UTF-8", "a\xff viewer " + strings.Repeat("0", 64)},
		{"line 2: name has 129 bytes", strings.Repeat("n", 129) + " viewer " + strings.Repeat("0", 64)},
	} {
		_, err := Load(write(t, 0o600, good, c.line), slog.New(slog.DiscardHandler))
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%q: %v; want %q", c.line, err, c.want)
		}
	}
}

func TestUnusableFiles(t *testing.T) {
	good := line(t, NewToken(), "app", Producer)
	log := slog.New(slog.DiscardHandler)
	for name, path := range map[string]string{
		"missing":            filepath.Join(t.TempDir(), "none"),
		"a directory":        t.TempDir(),
		"holds no token":     write(t, 0o600, "# nothing"),
		"written by others":  write(t, 0o622, good),
		"more than":          write(t, 0o600, good, strings.Repeat("#", maxFile)),
		"token too long for": write(t, 0o600, good, "#"+strings.Repeat("x", 70_000)),
	} {
		if _, err := Load(path, log); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
	var warned bytes.Buffer
	if _, err := Load(write(t, 0o644, good), slog.New(slog.NewTextHandler(&warned, nil))); err != nil {
		t.Error(err)
	}
	if !strings.Contains(warned.String(), "may be read by others") {
		t.Error("no warning of a file that others may read")
	}
}

// TestReload follows a file through a change, a broken change and a removal;
// SIGHUP stands for "look now".
func TestReload(t *testing.T) {
	first, second := NewToken(), NewToken()
	path := write(t, 0o600, line(t, first, "app", Producer))
	var log bytes.Buffer
	toks, err := Load(path, slog.New(slog.NewTextHandler(&log, nil)))
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	hup, done := make(chan os.Signal), make(chan struct{})
	go func() { defer close(done); toks.Watch(ctx, hup) }()
	knows := func(tok Token) bool { _, err := toks.Authenticate("Bearer " + tok.Reveal()); return err == nil }
	await := func(what string, ok func() bool) {
		t.Helper()
		hup <- os.Interrupt
		hup <- os.Interrupt // taken only after the look before it has ended
		for end := time.Now().Add(10 * time.Second); !ok(); {
			if time.Now().After(end) {
				t.Fatalf("not taken up: %s", what)
			}
			hup <- os.Interrupt
		}
	}
	// The file is renamed into place: a look in the middle of a write would
	// find a third bad state.
	replace := func(text string) {
		t.Helper()
		if err := os.WriteFile(path+".new", []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(path+".new", path); err != nil {
			t.Fatal(err)
		}
	}

	replace(line(t, second, "app", Producer))
	await("a new token", func() bool { return knows(second) && !knows(first) })
	replace("nonsense")
	await("nothing", func() bool { return knows(second) })
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	await("nothing", func() bool { return knows(second) })
	replace(line(t, first, "app", Producer))
	await("a token again", func() bool { return knows(first) })
	stop()
	<-done
	if n := strings.Count(log.String(), "was not taken up"); n != 2 {
		t.Errorf("%d complaints about two bad states:\n%s", n, &log)
	}
}

// TestEveryCallHasARole holds the table against the contract: no call of the
// service is missing, none is left over, and the operator may do all.
func TestEveryCallHasARole(t *testing.T) {
	services, n := errandv1.File_errand_v1_errand_proto.Services(), 0
	for s := range services.Len() {
		svc := services.Get(s)
		n += svc.Methods().Len()
		for i := range svc.Methods().Len() {
			p := fmt.Sprintf("/%s/%s", svc.FullName(), svc.Methods().Get(i).Name())
			if _, ok := grants[p]; !ok {
				t.Errorf("no role for %s", p)
			}
			if !Operator.Allows(p) {
				t.Errorf("the operator may not call %s", p)
			}
			if Role(0).Allows(p) {
				t.Errorf("nobody may call %s", p)
			}
		}
	}
	if len(grants) != n {
		t.Errorf("%d calls in the table, %d in the contract", len(grants), n)
	}
}

func TestUnknownCallsAreTheOperators(t *testing.T) {
	for _, r := range []Role{Producer, Worker, Viewer} {
		if r.Allows("/errand.v1.QueueService/Shutdown") {
			t.Errorf("%s may make a call that is not in the table", r)
		}
		if !r.Allows("/grpc.reflection.v1.ServerReflection/ServerReflectionInfo") {
			t.Errorf("%s may not read the contract", r)
		}
	}
}

// A token that lies in a monitoring system's configuration, or an
// autoscaler's, opens the metrics and the scaling signal, and no other call.
func TestTheMonitorSeesMetricsOnly(t *testing.T) {
	signals := []string{Scaling, errandv1connect.QueueServiceGetScalingProcedure, externalscalerconnect.ExternalScalerGetMetricsProcedure}
	for _, p := range append(signals, Metrics) {
		for _, r := range []Role{Monitor, Viewer, Operator} {
			if !r.Allows(p) {
				t.Errorf("%s may not ask %s", r, p)
			}
		}
		for _, r := range []Role{0, Producer, Worker, Producer | Worker} {
			if r.Allows(p) {
				t.Errorf("%s may ask %s", r, p)
			}
		}
	}
	for p, who := range grants {
		if who != all && Monitor.Allows(p) && !slices.Contains(signals, p) {
			t.Errorf("the monitor may call %s", p)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add("# c\n\napp producer,worker " + strings.Repeat("ab", 32) + "\n")
	f.Add("a b c")
	f.Add("\xff\x00")
	f.Fuzz(func(t *testing.T, s string) {
		entries, err := parse(strings.NewReader(s))
		if err != nil {
			return
		}
		for _, e := range entries {
			if e.Role == 0 || job.CheckName("name", e.Name) != nil {
				t.Fatalf("accepted %+v", e)
			}
			if r, err := ParseRole(e.Role.String()); err != nil || r != e.Role {
				t.Fatalf("role %s does not read back: %v", e.Role, err)
			}
		}
	})
}
