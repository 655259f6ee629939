package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"

	errand "github.com/errandhq/errand"
	"github.com/errandhq/errand/internal/config"
	"github.com/errandhq/errand/internal/drivers"
)

// finding is what one check of the doctor found. Status is ok, warning or wrong.
type finding struct {
	Check  string `json:"check"`
	Status string `json:"status"`
	Found  string `json:"found"`
	Advice string `json:"advice"` // what to do; empty if ok
}

// The bounds at which the doctor speaks up.
const (
	clockTolerance = 2 * time.Second // an HTTP date has whole seconds
	brokerPatience = 10 * time.Second
	scarceSpace    = 1 << 30 // bytes
	noSpace        = 100 << 20
)

func newDoctor(a *app) *cobra.Command {
	var dataDir, ledgerURL, cacheURL string
	var brokers []string
	cmd := &cobra.Command{
		Use: "doctor", Short: "Check the server, the ledger and this machine, and say what to do", Args: noArgs,
		Long: `Check whether the server can be reached and what it runs on, its version, its
clock, what the token allows; with --data the data directory's permissions and
free space; with --ledger the database and its schema; with --broker each carrier:
whether it can be reached, its version, permissions, and settings that endanger
jobs or speed; with --cache its Redis.

With -o json: {"ok","checks":[{"check","status","found","advice"}]}, where status
is ok, warning or wrong. The exit status is 1 if something is wrong.`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			findings := a.examineServer(cmd.Context())
			findings = append(findings, a.examineFiles()...)
			if dataDir != "" {
				findings = append(findings, examineData(dataDir)...)
			}
			if ledgerURL != "" {
				findings = append(findings, examineLedger(cmd.Context(), ledgerURL))
			}
			for _, address := range brokers {
				findings = append(findings, examineBroker(cmd.Context(), address)...)
			}
			if cacheURL != "" {
				findings = append(findings, examineRedis(cmd.Context(), cacheURL)...)
			}
			if cmd.Context().Err() != nil {
				return context.Cause(cmd.Context())
			}
			return a.diagnose(findings)
		},
	}
	cmd.Flags().StringVar(&dataDir, "data", "", "the server's data directory, if it is on this machine")
	cmd.Flags().StringVar(&ledgerURL, "ledger", "", "the server's ledger: sqlite:PATH or postgres://…")
	cmd.Flags().StringArrayVar(&brokers, "broker", nil, "a carrier of the server's: amqp://… or kafka://HOST,HOST…")
	cmd.Flags().StringVar(&cacheURL, "cache", "", "the server's cache: redis://… or rediss://…")
	return cmd
}

func (a *app) diagnose(findings []finding) error {
	healthy := true
	for _, f := range findings {
		healthy = healthy && f.Status != "wrong"
	}
	answer := struct {
		OK     bool      `json:"ok"`
		Checks []finding `json:"checks"`
	}{healthy, findings}
	err := a.out.value(answer, func() {
		rows := make([][]string, len(findings))
		for i, f := range findings {
			rows[i] = []string{stateText(f.Status), f.Check, oneLine(f.Found, 120)}
		}
		a.out.table([]string{"STATUS", "CHECK", "FOUND"}, rows)
		for _, f := range findings {
			if f.Advice != "" {
				a.out.linef("\n%s: %s", headStyle.Render(f.Check), printable(f.Advice))
			}
		}
	})
	if err == nil && !healthy {
		return errSilent
	}
	return err
}

// examineServer asks the server about itself.
func (a *app) examineServer(ctx context.Context) []finding {
	var info errand.ServerInfo
	began := time.Now()
	err := a.withClient(func(c *errand.Client) (err error) {
		info, err = c.ServerInfo(ctx)
		return err
	})
	took := time.Since(began)
	if err != nil {
		return []finding{serverProblem(a.server, err)}
	}
	findings := []finding{
		{Check: "server", Status: "ok", Found: fmt.Sprintf("%s answered in %s", a.server, took.Round(100*time.Microsecond))},
		versionFinding(info.Version),
		{Check: "ledger", Status: "ok", Found: fmt.Sprintf("%s; payloads up to %d bytes", info.Ledger, info.MaxPayload)},
		{Check: "token", Status: "ok", Found: "role " + orNone(info.Role)},
		a.clockFinding(ctx), cacheFinding(info),
	}
	if info.Ledger == "sqlite" {
		findings[2].Found += "; one server process, on one machine"
	}
	if info.Brake {
		findings = append(findings, finding{Check: "brake", Status: "warning", Found: "over half of all workers vanished at once: rescue of their jobs is paced",
			Advice: "Look for a broken network or a bad deploy of the workers. The brake lets go by itself."})
	}
	if info.StaleResults > 0 {
		findings = append(findings, finding{Check: "stale results", Status: "warning",
			Found:  fmt.Sprintf("%d results came after their lease had gone, since the server started", info.StaleResults),
			Advice: "Workers were frozen, or cut off, for longer than the session's time-to-live: look at their load and network."})
	}
	return findings
}

func serverProblem(server string, err error) finding {
	f := finding{Check: "server", Status: "wrong", Found: message(err)}
	var refusal *errand.Error
	switch {
	case errors.As(err, &refusal) && refusal.Code == errand.CodeUnauthenticated:
		f.Check, f.Advice = "token", "Name a file with a token by --token-file or ERRAND_TOKEN_FILE; 'errand token new' makes one."
	case errors.As(err, &refusal) && refusal.Code == errand.CodePermissionDenied:
		f.Check, f.Advice = "token", "This token's role does not allow it: ask the operator for another."
	default:
		f.Advice = fmt.Sprintf("Start one with 'errand serve', or correct --server or ERRAND_SERVER (now %s).", server)
	}
	return f
}

func versionFinding(server string) finding {
	mine := thisVersion().Version
	f := finding{Check: "version", Status: "ok", Found: fmt.Sprintf("server %s, this command %s", server, mine)}
	if server != mine {
		f.Status, f.Advice = "warning", "Use the same version on both sides, or at most one apart."
	}
	return f
}

// clockFinding compares the clocks by the date of an HTTP answer.
func (a *app) clockFinding(ctx context.Context) finding {
	f := finding{Check: "clock", Status: "ok"}
	addr, _, _ := strings.Cut(a.server, ",")
	if !strings.HasPrefix(addr, "http://") && strings.Contains(addr, "://") {
		f.Found = "not compared: the server is behind TLS"
		return f
	}
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+strings.TrimPrefix(addr, "http://")+"/healthz", nil)
	if err != nil {
		f.Found = "not compared: " + err.Error()
		return f
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return finding{Check: "clock", Status: "warning", Found: "not compared: " + err.Error(), Advice: "Run the doctor again."}
	}
	_ = resp.Body.Close()
	date, err := http.ParseTime(resp.Header.Get("Date"))
	if err != nil {
		f.Found = "not compared: the server sends no date"
		return f
	}
	apart := time.Since(date)
	f.Found = fmt.Sprintf("%s apart, to the second", max(0, apart.Abs()-time.Second).Round(time.Second))
	if apart.Abs() > clockTolerance {
		f.Status, f.Advice = "warning", "Set both clocks by NTP. Leases do not depend on it; times that you give with --at do."
	}
	return f
}

// examineBroker looks at a carrier from this machine.
func examineBroker(ctx context.Context, address string) []finding {
	a, err := config.ParseBroker(address)
	if err != nil {
		return []finding{{Check: "broker", Status: "wrong", Found: err.Error(), Advice: "Correct --broker."}}
	}
	ctx, cancel := context.WithTimeout(ctx, brokerPatience)
	defer cancel()
	b, err := drivers.Broker(ctx, a, slog.New(slog.DiscardHandler))
	if err != nil {
		return []finding{{Check: a.Carrier, Status: "wrong", Found: err.Error(), Advice: "Correct --broker."}}
	}
	defer func() { _ = b.Close() }()
	found, err := b.Check(ctx)
	if err != nil {
		return []finding{{Check: a.Carrier, Status: "wrong", Found: fmt.Sprintf("%s: %v", a, err),
			Advice: "See that it runs and can be reached from here. Jobs go on without it: servers lease directly."}}
	}
	findings := make([]finding, len(found))
	for i, f := range found {
		findings[i] = finding{Check: a.Carrier + ": " + f.Name, Status: "ok", Found: f.Detail}
		if !f.OK {
			findings[i].Status, findings[i].Advice = "warning", f.Detail
		}
	}
	return findings
}

// examineFiles looks at the files that the flags name.
func (a *app) examineFiles() []finding {
	if a.tokenFile == "" {
		return nil
	}
	st, err := os.Stat(a.tokenFile)
	switch {
	case err != nil:
		return []finding{{Check: "token file", Status: "wrong", Found: err.Error(), Advice: "Correct --token-file or ERRAND_TOKEN_FILE."}}
	case st.Mode().Perm()&0o077 != 0:
		return []finding{{Check: "token file", Status: "warning", Found: fmt.Sprintf("%s may be read by others (mode %04o)", a.tokenFile, st.Mode().Perm()),
			Advice: "chmod 600 " + a.tokenFile}}
	}
	return []finding{{Check: "token file", Status: "ok", Found: a.tokenFile}}
}

// examineData looks at a server's data directory.
func examineData(dir string) []finding {
	probe, err := os.CreateTemp(dir, ".errand-doctor-*")
	if err != nil {
		return []finding{{Check: "data directory", Status: "wrong", Found: err.Error(),
			Advice: "The server's user must be able to write " + dir + "."}}
	}
	_ = probe.Close()
	_ = os.Remove(probe.Name())
	findings := []finding{{Check: "data directory", Status: "ok", Found: dir + " is writable"}}
	if st, err := os.Stat(filepath.Join(dir, "errand.db")); err == nil && st.Mode().Perm()&0o077 != 0 {
		findings = append(findings, finding{Check: "ledger file", Status: "warning",
			Found: fmt.Sprintf("errand.db may be read by others (mode %04o)", st.Mode().Perm()), Advice: "chmod 600 it: payloads are in it."})
	}
	free, err := freeSpace(dir)
	if err != nil {
		return findings
	}
	f := finding{Check: "free space", Status: "ok", Found: fmt.Sprintf("%d MiB", free>>20)}
	if free < scarceSpace {
		f.Status, f.Advice = "warning", "Make room: a full disk makes every enqueue fail (nothing accepted is lost)."
	}
	if free < noSpace {
		f.Status = "wrong"
	}
	return append(findings, f)
}

func orNone(s string) string {
	if s == "" {
		return "none needed"
	}
	return s
}
