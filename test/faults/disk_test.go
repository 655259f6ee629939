package faults

import (
	"context"
	"encoding/base64"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"
	"time"

	errand "github.com/errandhq/errand"
	"github.com/errandhq/errand/internal/testenv"
	"github.com/errandhq/errand/test/cluster"
)

// TestDiskFullOnSQLite fills the disk under the ledger. Enqueues must fail
// with an error rather than lie; when there is room again all goes on, and
// whatever was accepted is worked.
func TestDiskFullOnSQLite(t *testing.T) {
	disk := testenv.Tmpfs(t, 48<<20)
	c := cluster.SQLite(t)
	c.Ledger = "sqlite:" + filepath.Join(disk, "errand.db")
	server := c.AddServer()
	fillAndRecover(t, c, disk, 36<<20, func() {
		if server.Ended() {
			server.Start()
		}
		server.AwaitReady()
	})
}

// TestDiskFullOnPostgres does the same to the disk of the database server,
// which may well stop; it is started again once there is room.
func TestDiskFullOnPostgres(t *testing.T) {
	// What is given back must hold the jobs a second time, in the archive, with
	// their log: vacuum comes later.
	disk := testenv.Tmpfs(t, 384<<20)
	c := cluster.Postgres(t, testenv.Options{Dir: disk, Settings: map[string]string{
		"min_wal_size": "32MB", "max_wal_size": "32MB", "shared_buffers": "32MB",
	}})
	server := c.AddServer()
	fillAndRecover(t, c, disk, 256<<20, func() {
		c.Postgres.Kill()
		c.Postgres.Start()
		if server.Ended() {
			server.Start()
		}
		server.AwaitReady()
	})
}

// fillAndRecover sets room aside on the disk, hands in large jobs until they
// are refused, gives the room back and lets recover see to the processes.
func fillAndRecover(t *testing.T, c *cluster.Cluster, disk string, room int, recover func()) {
	ballast := filepath.Join(disk, "ballast")
	if err := os.WriteFile(ballast, make([]byte, room), 0o644); err != nil {
		t.Fatal(err)
	}
	client, err := errand.Dial(c.URLs(), errand.WithRetryFor(2*time.Second))
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	var accepted, unknown []errand.ID
	task := errand.NewTask[cluster.Order](cluster.Kind)
	noise := make([]byte, 300_000) // which no database can compress
	rand.NewChaCha8([32]byte{1}).Read(noise)
	order := cluster.Order{Pad: base64.StdEncoding.EncodeToString(noise)}
	for failures := 0; failures < 3; {
		id := errand.NewID()
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		_, err := task.Enqueue(ctx, client, order, errand.WithID(id))
		cancel()
		if err == nil {
			accepted = append(accepted, id)
		} else {
			unknown = append(unknown, id)
			failures++
		}
		if len(accepted) > 2000 {
			t.Fatal("the disk does not fill up")
		}
	}
	t.Logf("%d jobs were accepted before the disk was full", len(accepted))
	if len(accepted) == 0 {
		t.Fatal("no job was accepted at all")
	}
	if err := os.Remove(ballast); err != nil {
		t.Fatal(err)
	}
	recover()
	c.AddWorker("-concurrency", "4")
	c.AwaitIdle()
	for _, id := range accepted {
		c.AwaitState(id, errand.Succeeded)
	}
	// A refused job is there or it is not; if it is, it was worked too.
	found, err := c.Client().Jobs(t.Context(), unknown...)
	if err != nil {
		t.Fatal(err)
	}
	for _, j := range found {
		if j.State != errand.Succeeded {
			t.Errorf("job %s, whose enqueue failed, is %s", j.ID, j.State)
		}
	}
	c.Enqueue(cluster.Order{})
	c.AwaitIdle()
}
