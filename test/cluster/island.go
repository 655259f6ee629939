package cluster

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
)

// Island is a network namespace of its own, joined to this one by a bridge that a test can
// cut: what crosses it then is gone, and nobody is told. There the name localhost leads to this
// side, for a server without tokens answers to no other name. Its methods are for one goroutine
// at a time.
type Island struct {
	t    testing.TB
	name string // of the namespace, and of the bridge's near end
	net  string // the first three numbers of its addresses
}

var islands atomic.Int64

// NewIsland makes an island. It returns an error where the machine does not allow it.
func NewIsland(t testing.TB) (*Island, error) {
	t.Helper()
	n := islands.Add(1)
	i := &Island{
		t: t, name: fmt.Sprintf("errand%d-%d", os.Getpid()%100_000, n%100),
		net: fmt.Sprintf("10.213.%d", (int64(os.Getpid())+n)%250),
	}
	far := i.name + "f"
	hosts := filepath.Join("/etc/netns", i.name)
	t.Cleanup(func() {
		_ = ip("link", "del", i.name) // may never have been made
		_ = ip("netns", "del", i.name)
		if err := os.RemoveAll(hosts); err != nil {
			t.Error(err)
		}
	})
	if err := os.MkdirAll(hosts, 0o755); err != nil {
		return nil, err
	}
	if err := os.WriteFile(filepath.Join(hosts, "hosts"), []byte(i.net+".1 localhost\n"), 0o644); err != nil {
		return nil, err
	}
	for _, args := range [][]string{
		{"netns", "add", i.name},
		{"link", "add", i.name, "type", "veth", "peer", "name", far},
		{"link", "set", far, "netns", i.name},
		{"addr", "add", i.net + ".1/30", "dev", i.name},
		{"link", "set", i.name, "up"},
		{"-n", i.name, "addr", "add", i.net + ".2/30", "dev", far},
		{"-n", i.name, "link", "set", far, "up"},
		{"-n", i.name, "link", "set", "lo", "up"},
	} {
		if err := ip(args...); err != nil {
			return nil, err
		}
	}
	return i, nil
}

// Address is that of this side of the bridge, where lines for the island begin.
func (i *Island) Address() string { return i.net + ".1" }

// Cut lets nothing cross the bridge until Join.
func (i *Island) Cut() { i.must("link", "set", i.name, "down") }

// Join ends what Cut began.
func (i *Island) Join() { i.must("link", "set", i.name, "up") }

func (i *Island) must(args ...string) {
	i.t.Helper()
	if err := ip(args...); err != nil {
		i.t.Error(err)
	}
}

func ip(args ...string) error {
	out, err := exec.Command("ip", args...).CombinedOutput()
	if err != nil {
		return fmt.Errorf("ip %s: %w: %s", strings.Join(args, " "), err, out)
	}
	return nil
}
