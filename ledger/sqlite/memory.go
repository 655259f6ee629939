package sqlite

import (
	"database/sql/driver"
	"fmt"
	"strings"
	"time"

	"github.com/errandhq/errand/job"
	"github.com/errandhq/errand/ledger/coldsql"
)

// seqBlock is how many sequence numbers are reserved in the database at once;
// a restart skips what is left of a block.
const seqBlock = 1 << 20

// Spans of archive slices. A retention is cut into archiveParts of them.
const (
	archiveParts = 24
	minSpan      = time.Minute
	defaultSpan  = time.Hour
)

// lanes is how many lanes there are, from LaneSuspect on.
const lanes = int(job.LaneLast-job.LaneSuspect) + 1

type counterKey struct {
	queue, kind string
	state       job.State
	slice       int64
	lane        job.Lane // of ready jobs, else 0
}

// slice is a table archive_<n> for the jobs done from from until to.
type slice struct{ n, from, to int64 }

func (s slice) table() string { return fmt.Sprintf("archive_%d", s.n) }

// memory is what the writer knows of the database without asking: its size
// follows the queues, the kinds and the jobs that run, not the backlog. Only the
// writer touches it.
type memory struct {
	counts   map[counterKey]int64
	dirty    map[counterKey]struct{} // changed in this transaction
	dead     int64                   // how many dead letters there are
	ready    map[string]readyLanes   // by queue
	slices   []slice
	span     int64 // of the next slice, in microseconds
	paused   map[string]bool
	leases   map[job.ID]lease
	leased   map[int64]int64  // the blocks of leased rows
	blocks   map[int64]*block // by their number
	marks    map[laneKey]int64
	clock    time.Time // the latest by which a mark went past expired jobs
	seq      int64     // the last that was drawn
	reserved int64
}

func loadMemory(c *conn) (*memory, error) {
	m := &memory{
		counts: make(map[counterKey]int64), dirty: make(map[counterKey]struct{}),
		ready: make(map[string]readyLanes), paused: make(map[string]bool), leases: make(map[job.ID]lease),
		leased: make(map[int64]int64), blocks: make(map[int64]*block), marks: make(map[laneKey]int64),
		span: defaultSpan.Microseconds(),
	}
	for _, load := range []struct {
		text string
		scan func(row []driver.Value) error
	}{
		{"SELECT queue, kind, state, slice, lane, n FROM counter", m.scanCounter},
		{"SELECT n, from_us, to_us FROM archive_slice ORDER BY n", func(row []driver.Value) error {
			var s slice
			err := assign(row, []any{&s.n, &s.from, &s.to})
			m.slices = append(m.slices, s)
			return err
		}},
		{"SELECT name FROM queue WHERE paused", func(row []driver.Value) error {
			var name string
			err := assign(row, []any{&name})
			m.paused[name] = true
			return err
		}},
		{"SELECT name, value FROM setting", func(row []driver.Value) error {
			var name string
			var value int64
			err := assign(row, []any{&name, &value})
			switch name {
			case "seq":
				m.seq, m.reserved = value, value
			case "slice_us":
				m.span = value
			}
			return err
		}},
	} {
		if err := c.query(load.text, nil, load.scan); err != nil {
			return nil, err
		}
	}
	return m, m.loadLeases(c)
}

func (m *memory) scanCounter(row []driver.Value) error {
	var k counterKey
	var n int64
	if err := assign(row, []any{&k.queue, &k.kind, &k.state, &k.slice, &k.lane, &n}); err != nil {
		return err
	}
	m.set(k, n)
	return nil
}

func (m *memory) set(k counterKey, n int64) {
	if k.state == job.Dead {
		m.dead += n - m.counts[k]
	}
	m.counts[k] = n
	if n == 0 {
		delete(m.counts, k)
	}
	if k.state != job.Ready {
		return
	}
	kinds := m.ready[k.queue]
	if kinds == nil {
		kinds = make(readyLanes)
		m.ready[k.queue] = kinds
	}
	by := kinds[k.kind]
	if by == nil {
		by = new([lanes]int64)
		kinds[k.kind] = by
	}
	by[k.lane-job.LaneSuspect] = n
	if *by == ([lanes]int64{}) {
		delete(kinds, k.kind)
	}
	if len(kinds) == 0 {
		delete(m.ready, k.queue)
	}
}

// add merges what an op counted.
func (m *memory) add(deltas map[counterKey]int64) {
	for k, n := range deltas {
		if n != 0 {
			m.set(k, m.counts[k]+n)
			m.dirty[k] = struct{}{}
		}
	}
}

// store writes the counters that the transaction changed, once each.
func (m *memory) store(c *conn) error {
	for k := range m.dirty {
		var err error
		if n := m.counts[k]; n != 0 {
			_, err = c.exec(`INSERT INTO counter (queue, kind, state, slice, lane, n) VALUES (?, ?, ?, ?, ?, ?)
				ON CONFLICT DO UPDATE SET n = excluded.n`, k.queue, k.kind, int64(k.state), k.slice, int64(k.lane), n)
		} else {
			_, err = c.exec("DELETE FROM counter WHERE queue = ? AND kind = ? AND state = ? AND slice = ? AND lane = ?",
				k.queue, k.kind, int64(k.state), k.slice, int64(k.lane))
		}
		if err != nil {
			return err
		}
	}
	clear(m.dirty)
	return nil
}

func (t *tx) setting(name string, value int64) error {
	_, err := t.exec("INSERT INTO setting (name, value) VALUES (?, ?) ON CONFLICT DO UPDATE SET value = excluded.value", name, value)
	return err
}

// draw returns the next sequence number. A number drawn by an op that fails is
// lost, which disturbs nothing.
func (t *tx) draw() (int64, error) {
	m := t.mem
	if m.seq >= m.reserved {
		was := m.reserved
		if err := t.setting("seq", m.seq+seqBlock); err != nil {
			return 0, err
		}
		m.reserved = m.seq + seqBlock
		t.undo = append(t.undo, func() { m.reserved = was })
	}
	m.seq++
	return m.seq, nil
}

// sliceFor returns the archive slice for jobs done at a time, making it if
// there is none.
func (t *tx) sliceFor(doneAt time.Time) (slice, error) {
	m, at := t.mem, coldsql.Micros(doneAt)
	for i := len(m.slices) - 1; i >= 0; i-- {
		if s := m.slices[i]; s.from <= at && at < s.to {
			return s, nil
		}
	}
	s := slice{from: at - at%m.span}
	s.to = s.from + m.span
	if _, err := t.get("INSERT INTO archive_slice (from_us, to_us) VALUES (?, ?) RETURNING n", []any{s.from, s.to}, &s.n); err != nil {
		return s, err
	}
	var ddl string
	if _, err := t.get("SELECT sql FROM sqlite_schema WHERE name = 'dead'", nil, &ddl); err != nil {
		return s, err
	}
	// An id is not unique in the archive: a client that calls a used id fresh
	// may run it again, and that must not make the second success impossible to store.
	ddl = strings.Replace(strings.Replace(ddl, "dead", s.table(), 1), " UNIQUE", "", 1)
	if err := t.once(ddl + fmt.Sprintf("; CREATE INDEX %[1]s_id ON %[1]s (id)", s.table())); err != nil {
		return s, err
	}
	was := m.slices
	m.slices = append(was[:len(was):len(was)], s)
	t.undo = append(t.undo, func() { m.slices = was })
	return s, t.makeView()
}

// makeView makes the view over all slices anew.
func (t *tx) makeView() error {
	parts := []string{"SELECT rid, " + coldsql.ColumnList + ", 0 AS slice FROM dead WHERE false"}
	for _, s := range t.mem.slices {
		parts = append(parts, fmt.Sprintf("SELECT rid, %s, %d FROM %s", coldsql.ColumnList, s.n, s.table()))
	}
	return t.once("DROP VIEW archive; CREATE VIEW archive AS " + strings.Join(parts, " UNION ALL "))
}

// dropSlice drops a slice with its jobs and its counters.
func (t *tx) dropSlice(s slice) error {
	m, was := t.mem, t.mem.slices
	kept := make([]slice, 0, len(was))
	for _, other := range was {
		if other.n != s.n {
			kept = append(kept, other)
		}
	}
	m.slices = kept
	t.undo = append(t.undo, func() { m.slices = was })
	if err := t.makeView(); err != nil {
		return err
	}
	if err := t.forget(); err != nil { // statements of the table that goes
		return err
	}
	if err := t.once("DROP TABLE " + s.table()); err != nil {
		return err
	}
	for k, n := range m.counts {
		if k.slice == s.n {
			t.deltas[k] -= n
		}
	}
	_, err := t.exec("DELETE FROM archive_slice WHERE n = ?", s.n)
	return err
}
