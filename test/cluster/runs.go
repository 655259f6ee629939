package cluster

import (
	"bufio"
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"testing"

	"github.com/errandhq/errand/test/cluster/order"
)

// Order is the payload of a test job.
type Order = order.Order

// Kind is the kind of the jobs that the test worker takes.
const Kind = order.Kind

// readRuns reads a worker's log, as far as it goes.
func readRuns(t testing.TB, path string) []order.Run {
	t.Helper()
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil // the worker has not come so far yet
	}
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var out []order.Run
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		var r order.Run
		if err := json.Unmarshal(lines.Bytes(), &r); err != nil {
			t.Fatalf("worker's log: %v: %s", err, lines.Text())
		}
		out = append(out, r)
	}
	if err := lines.Err(); err != nil {
		t.Fatal(err)
	}
	return out
}
