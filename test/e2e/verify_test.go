package e2e

import (
	"encoding/json"
	"testing"

	"github.com/errandhq/errand/internal/testenv"
	"github.com/errandhq/errand/internal/verify"
	"github.com/errandhq/errand/test/cluster"
)

// errand verify, over two servers with a RabbitMQ: every promise is kept, by the carrier too.
func TestVerifyOverRabbitMQ(t *testing.T) {
	c := cluster.Postgres(t, testenv.Options{})
	for range 2 {
		c.AddServer("--broker", testenv.RabbitMQAddress(t))
	}
	a := c.CLI("", "verify", "--jobs", "300", "--timeout", "80s", "-o", "json")
	var r verify.Report
	if err := json.Unmarshal([]byte(a.Stdout), &r); err != nil {
		t.Fatalf("exit status %d, %v: %s%s", a.Status, err, a.Stdout, a.Stderr)
	}
	for _, check := range r.Checks {
		// Order holds between windows of refs: it says so, and nothing else is skipped.
		if want := check.Name == "order by priority"; check.Status == verify.Fail || want != (check.Status == verify.Skip) {
			t.Errorf("%s: %s, %s %q", check.Name, check.Status, check.Detail, check.Evidence)
		}
	}
	if a.Status != 0 || r.Route != "rabbitmq" || len(r.Left) > 0 || r.Deleted < 300 {
		t.Errorf("exit status %d, route %s, left %v, deleted %d", a.Status, r.Route, r.Left, r.Deleted)
	}
}
