package cluster

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	toxiproxy "github.com/Shopify/toxiproxy/v2"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/rs/zerolog"
)

// Line is the network between two parts, which a test can slow down, cut, or make swallow
// all that is sent. Its methods are for one goroutine at a time.
type Line struct {
	t     testing.TB
	name  string
	proxy *toxiproxy.Proxy
	sick  []string // names of the toxics that are on
}

// NewLine makes a line to the server at the address to, which others reach at the
// address from, host:port; port 0 takes a free one. It ends with the test.
func NewLine(t testing.TB, name, from, to string) *Line {
	t.Helper()
	server := toxiproxy.NewServer(toxiproxy.NewMetricsContainer(prometheus.NewRegistry()), zerolog.Nop())
	l := &Line{t: t, name: name, proxy: toxiproxy.NewProxy(server, name, from, to)}
	if err := l.proxy.Start(); err != nil {
		t.Fatalf("line %s: %v", name, err)
	}
	t.Cleanup(l.proxy.Stop)
	return l
}

// Address is where the others connect.
func (l *Line) Address() string { return l.proxy.Listen }

// String names the line.
func (l *Line) String() string { return l.name }

// Delay holds all bytes up for about d, both ways, until Heal.
func (l *Line) Delay(d time.Duration) {
	l.toxic("latency", fmt.Sprintf(`{"latency":%d,"jitter":%d}`, d.Milliseconds(), d.Milliseconds()/2))
}

// Swallow lets nothing through and breaks no connection, until Heal: as a partition does.
func (l *Line) Swallow() { l.toxic("timeout", `{"timeout":0}`) }

// toxic puts a toxic on, both ways.
func (l *Line) toxic(kind, attributes string) {
	l.t.Helper()
	for _, way := range []string{"upstream", "downstream"} {
		name := kind + " " + way
		text := fmt.Sprintf(`{"name":%q,"type":%q,"stream":%q,"attributes":%s}`, name, kind, way, attributes)
		if _, err := l.proxy.Toxics.AddToxicJson(strings.NewReader(text)); err != nil {
			l.t.Errorf("line %s: %s: %v", l.name, kind, err)
			continue
		}
		l.sick = append(l.sick, name)
	}
}

// Heal ends Delay and Swallow. Connections that lost bytes break.
func (l *Line) Heal() {
	for _, name := range l.sick {
		if err := l.proxy.Toxics.RemoveToxic(context.Background(), name); err != nil {
			l.t.Errorf("line %s: heal: %v", l.name, err)
		}
	}
	l.sick = nil
}

// Cut breaks all connections; new ones are refused for as long as gap takes.
func (l *Line) Cut(gap func()) {
	l.t.Helper()
	l.proxy.Stop()
	gap()
	if err := l.proxy.Start(); err != nil {
		l.t.Errorf("line %s: restore: %v", l.name, err)
	}
}
