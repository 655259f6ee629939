package observe

import (
	"encoding/json"
	"fmt"
	"io"
	"math"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/errandhq/errand/internal/testenv"
	"github.com/errandhq/errand/test/cluster"
)

func TestMain(m *testing.M) { cluster.Main(m) }

// program finds one of Prometheus' programs, or fails the test.
func program(t testing.TB, name string) string {
	t.Helper()
	path, err := exec.LookPath(name)
	if err != nil {
		t.Fatalf(`%s is not installed (Debian: prometheus). Run "make test", which installs it`, name)
	}
	return path
}

// prometheus is a Prometheus server of one test.
type prometheus struct {
	t    testing.TB
	c    *cluster.Cluster
	base string
}

// startPrometheus scrapes the targets, by scrape job, every second.
func startPrometheus(t testing.TB, c *cluster.Cluster, rules string, targets map[string][]string, flags ...string) *prometheus {
	t.Helper()
	conf := "global: {scrape_interval: 1s, evaluation_interval: 1s, scrape_timeout: 1s}\n"
	if rules != "" {
		conf += fmt.Sprintf("rule_files: [%q]\n", rules)
	}
	conf += "scrape_configs:\n"
	for job, addresses := range targets {
		conf += fmt.Sprintf("- job_name: %s\n  static_configs: [{targets: [%s]}]\n", job, quoted(addresses))
	}
	file := filepath.Join(c.Dir, "prometheus.yml")
	if err := os.WriteFile(file, []byte(conf), 0o644); err != nil {
		t.Fatal(err)
	}
	address := "127.0.0.1:" + strconv.Itoa(testenv.FreePort(t))
	args := append([]string{"--config.file=" + file, "--storage.tsdb.path=" + filepath.Join(c.Dir, "tsdb"),
		"--web.listen-address=" + address, "--log.level=warn"}, flags...)
	c.Run("prometheus", program(t, "prometheus"), args...)
	p := &prometheus{t: t, c: c, base: "http://" + address}
	c.Eventually("Prometheus is ready", func() (bool, string) {
		return cluster.Status(p.base+"/-/ready") == http.StatusOK, "not ready"
	})
	return p
}

func quoted(in []string) string {
	out := make([]string, len(in))
	for i, s := range in {
		out[i] = strconv.Quote(strings.TrimPrefix(s, "http://"))
	}
	return strings.Join(out, ", ")
}

// sample is one value of an answer.
type sample struct {
	labels map[string]string
	value  float64
}

// get asks the HTTP API.
func (p *prometheus) get(path string, into any) error {
	client := http.Client{Timeout: 10 * time.Second}
	resp, err := client.Get(p.base + path)
	if err != nil {
		return err
	}
	defer func() { _ = resp.Body.Close() }()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		return err
	}
	var answer struct {
		Status, Error string
		Data          json.RawMessage
	}
	if err := json.Unmarshal(b, &answer); err != nil {
		return err
	}
	if answer.Status != "success" {
		return fmt.Errorf("%s", answer.Error)
	}
	return json.Unmarshal(answer.Data, into)
}

// query evaluates an expression now.
func (p *prometheus) query(expr string) ([]sample, error) {
	var data struct {
		Result []struct {
			Metric map[string]string
			Value  [2]any
		}
	}
	if err := p.get("/api/v1/query?query="+url.QueryEscape(expr), &data); err != nil {
		return nil, fmt.Errorf("%s: %w", expr, err)
	}
	var out []sample
	for _, r := range data.Result {
		text, _ := r.Value[1].(string)
		v, err := strconv.ParseFloat(text, 64)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", expr, err)
		}
		out = append(out, sample{r.Metric, v})
	}
	return out, nil
}

// hasValue reports whether an expression has a value that is a number.
func (p *prometheus) hasValue(expr string) (bool, error) {
	got, err := p.query(expr)
	return slices.ContainsFunc(got, func(s sample) bool { return !math.IsNaN(s.value) }), err
}

// firing returns the names of the alerts that fire.
func (p *prometheus) firing() map[string]bool {
	var data struct {
		Alerts []struct {
			Labels map[string]string
			State  string
		}
	}
	if err := p.get("/api/v1/alerts", &data); err != nil {
		p.t.Errorf("ask for alerts: %v", err)
	}
	out := map[string]bool{}
	for _, a := range data.Alerts {
		if a.State == "firing" {
			out[a.Labels["alertname"]] = true
		}
	}
	return out
}
