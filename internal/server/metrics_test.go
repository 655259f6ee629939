package server

import (
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/errandhq/errand/internal/auth"
)

// page is a handler that says that it was reached.
var page = http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "metrics here") })

func scrapeAs(t *testing.T, url, authorization, host string) (int, string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url+"/metrics", nil)
	if err != nil {
		t.Fatal(err)
	}
	if authorization != "" {
		req.Header.Set("Authorization", authorization)
	}
	req.Host = host
	return answerTo(t, req)
}

// TestWhoMayScrape: without tokens this machine; with them a monitor, a viewer
// or the operator.
func TestWhoMayScrape(t *testing.T) {
	open := serve(t, &fake{}, Config{Metrics: page})
	if status, text := scrapeAs(t, open.URL(), "", ""); status != http.StatusOK || text != "metrics here" {
		t.Errorf("without tokens: %d %s", status, text)
	}
	if status, _ := scrapeAs(t, open.URL(), "", "evil.example"); status != http.StatusForbidden {
		t.Errorf("by a page's name: %d", status)
	}
	var lines []string
	tokens := map[auth.Role]auth.Token{}
	for _, role := range []auth.Role{auth.Producer, auth.Worker, auth.Viewer, auth.Operator, auth.Monitor} {
		tokens[role] = auth.NewToken()
		line, err := tokens[role].Line(role.String(), role)
		if err != nil {
			t.Fatal(err)
		}
		lines = append(lines, line)
	}
	closed := serve(t, &fake{}, Config{Metrics: page, TokenFile: write(t, "tokens", strings.Join(lines, "\n"))})
	for role, want := range map[auth.Role]int{
		auth.Producer: http.StatusForbidden, auth.Worker: http.StatusForbidden,
		auth.Viewer: http.StatusOK, auth.Operator: http.StatusOK, auth.Monitor: http.StatusOK,
	} {
		if status, text := scrapeAs(t, closed.URL(), "Bearer "+tokens[role].Reveal(), ""); status != want || (text == "metrics here") != (want == http.StatusOK) {
			t.Errorf("%s: %d %s", role, status, text)
		}
	}
	for _, header := range []string{"", "Bearer wrong", "Basic x"} {
		if status, text := scrapeAs(t, closed.URL(), header, ""); status != http.StatusUnauthorized || strings.Contains(text, "metrics here") {
			t.Errorf("%q: %d %s", header, status, text)
		}
	}
}

// TestMetricsOfTheirOwnAddress: there they need no token, and are nowhere else.
func TestMetricsOfTheirOwnAddress(t *testing.T) {
	line, err := auth.NewToken().Line("one", auth.Producer)
	if err != nil {
		t.Fatal(err)
	}
	r := serve(t, &fake{}, Config{Metrics: page, MetricsListen: "127.0.0.1:0", TokenFile: write(t, "tokens", line)})
	own := "http://" + r.MetricsAddr().String()
	if status, text := scrapeAs(t, own, "", ""); status != http.StatusOK || text != "metrics here" {
		t.Errorf("there: %d %s", status, text)
	}
	if status, _ := scrapeAs(t, r.URL(), "", ""); status != http.StatusNotFound {
		t.Errorf("beside the calls: %d", status)
	}
	resp, err := transport(t, false).Post(own+"/errand.v1.QueueService/GetServerInfo", "application/json", strings.NewReader("{}"))
	if err != nil {
		t.Fatal(err)
	}
	_ = resp.Body.Close()
	if resp.StatusCode != http.StatusNotFound {
		t.Errorf("a call at the metrics' address: %d", resp.StatusCode)
	}
	if status, _ := scrapeAs(t, own, "", "evil.example"); status != http.StatusForbidden {
		t.Errorf("by a page's name: %d", status)
	}
}
