package testenv

import (
	"fmt"
	"net"
	"strings"
	"syscall"
	"testing"
)

// A node of the test's own bears kill -9 and a freeze, takes lines of configuration, and
// leaves no process behind, nor the daemon by which nodes find each other.
func TestRabbitMQNode(t *testing.T) {
	var address, epmd string
	var base string
	t.Run("use", func(t *testing.T) {
		r := StartRabbitMQ(t, RabbitMQOptions{Config: []string{"consumer_timeout = 54321"}})
		address, epmd, base = r.Address(), local(r.group.epmdPort), r.base
		if out := r.Ctl("environment"); !strings.Contains(out, "54321") {
			t.Error("the node does not know of its line of configuration")
		}
		r.Kill()
		if r.ping() == nil {
			t.Error("the node answers after kill -9")
		}
		r.Start()
		r.Signal(syscall.SIGSTOP)
		r.Signal(syscall.SIGCONT)
		if err := r.ping(); err != nil {
			t.Errorf("after a freeze: %v", err)
		}
	})
	for what, a := range map[string]string{"node": address, "epmd": epmd} {
		if conn, err := net.Dial("tcp", a); err == nil {
			_ = conn.Close()
			t.Errorf("the %s still listens", what)
		}
	}
	if left := processesWith(t, base); len(left) > 0 {
		t.Errorf("processes are left: %v", left)
	}
}

// Three nodes are one cluster: each knows of a queue that was made at another.
func TestRabbitMQCluster(t *testing.T) {
	nodes := StartRabbitMQCluster(t, 3, RabbitMQOptions{})
	for _, n := range nodes {
		if out := n.Ctl("eval", "length(rabbit_nodes:all_running())."); strings.TrimSpace(out) != fmt.Sprint(len(nodes)) {
			t.Errorf("%s knows of %s running nodes", n.name, strings.TrimSpace(out))
		}
	}
}
