package sqlite

import (
	"slices"
	"testing"
	"time"

	"github.com/errandhq/errand/job"
	"github.com/errandhq/errand/ledger"
	"github.com/errandhq/errand/ledger/coldsql"
)

// The relay waits neither for a write under way nor for people's queries.
func TestHeadsWaitForNobody(t *testing.T) {
	l := testOpen(t, testPath(t))
	it := newItem(10)
	mustInsert(t, l, it)
	for range readers {
		c, err := l.pool.Conn(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = c.Close() }()
	}
	writing, release, done := make(chan struct{}), make(chan struct{}), make(chan error)
	go func() {
		done <- l.w.do(t.Context(), "hold the writer", 1, func(t *tx) error {
			_, err := t.exec("UPDATE job_row SET version = version + 1")
			close(writing)
			<-release
			return err
		})
	}()
	<-writing
	got, err := l.Heads(t.Context(), time.Now(), []ledger.Head{{Queue: "q", Max: 5}})
	if err != nil || len(got[0].Refs) != 1 || got[0].Refs[0].ID != it.Job.ID {
		t.Errorf("heads: %+v, %v", got, err)
	}
	close(release)
	if err := <-done; err != nil {
		t.Fatal(err)
	}
}

func TestHeadsAfterClose(t *testing.T) {
	l := testOpen(t, testPath(t))
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	_, err := l.Heads(t.Context(), time.Now(), []ledger.Head{{Queue: "q", Max: 5}})
	wantReason(t, err, job.Unavailable, job.ReasonShuttingDown)
}

// A ledger of the version before carriers keeps its settings, and gets what is new.
func TestMigrateFromBeforeCarriers(t *testing.T) {
	path := testPath(t)
	err := withFile(t.Context(), path, func(c *conn) error {
		m := migrations()[0]
		for _, text := range []string{migrationTable, m.text, "INSERT INTO queue VALUES ('q', true, 1), ('r', false, 1)"} {
			if err := c.once(text); err != nil {
				return err
			}
		}
		_, err := c.exec("INSERT INTO schema_migration (version, name, checksum, applied_at) VALUES (?, ?, ?, ?)",
			m.version, m.name, m.checksum, coldsql.Micros(time.Now()))
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	l := testOpen(t, path)
	if paused, err := l.Paused(t.Context()); err != nil || !slices.Equal(paused, []string{"q"}) {
		t.Errorf("paused: %v, %v", paused, err)
	}
	if routes, err := l.Routes(t.Context()); err != nil || len(routes) != 0 {
		t.Errorf("routes: %v, %v", routes, err)
	}
	if name, err := l.Identity(t.Context()); err != nil || len(name) != 16 {
		t.Errorf("identity: %q, %v", name, err)
	}
	if leads, epoch, err := l.HoldRelay(t.Context(), time.Now(), newID(), time.Second); err != nil || !leads || epoch != 1 {
		t.Errorf("the relay: %v, %d, %v", leads, epoch, err)
	}
}
