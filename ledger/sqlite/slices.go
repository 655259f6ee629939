package sqlite

import (
	"database/sql/driver"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/errandhq/errand/job"
	"github.com/errandhq/errand/ledger/coldsql"
)

// sliceSpan is how much time a slice of the archive covers: long enough that
// months of them stay within the terms of one SQLite view (500).
const sliceSpan = 6 * time.Hour

// The places of a job; an archived one lies in a slice.
const (
	live     = "job"
	dead     = "dead"
	archived = "archive"
)

func placeOf(s job.State) string {
	switch s {
	case job.Dead:
		return dead
	case job.Succeeded, job.Cancelled:
		return archived
	case job.Deleted:
		return ""
	default:
		return live
	}
}

func sliceOf(t time.Time) int64 { return t.UnixMicro() / sliceSpan.Microseconds() }

// table returns where the job is to be stored, making its slice if need be.
func (t *tx) table(j *job.Job) (string, error) {
	place := placeOf(j.State)
	if place != archived {
		return place, nil
	}
	n := sliceOf(j.DoneAt)
	return sliceName(n), t.w.ensureSlice(n)
}

func sliceName(n int64) string { return fmt.Sprintf("archive_%d", n) }

func (w *writer) loadSlices() error {
	w.slices = map[int64]bool{}
	return w.c.query("SELECT n FROM archive_slice", nil, func(row []driver.Value) error {
		var n int64
		err := assign(row, []any{&n})
		w.slices[n] = true
		return err
	})
}

// ensureSlice makes a slice and the view over all of them.
func (w *writer) ensureSlice(n int64) error {
	if w.slices[n] {
		return nil
	}
	cols := "rid INTEGER PRIMARY KEY, " + strings.Join(coldsql.Columns, ", ")
	span := sliceSpan.Microseconds()
	if _, err := w.c.exec(fmt.Sprintf("CREATE TABLE %s (%s)", sliceName(n), cols)); err != nil {
		return err
	}
	if _, err := w.c.exec(fmt.Sprintf("CREATE INDEX %[1]s_id ON %[1]s (id)", sliceName(n))); err != nil {
		return err
	}
	if _, err := w.c.exec("INSERT INTO archive_slice (n, from_us, to_us) VALUES (?, ?, ?)", n, n*span, (n+1)*span); err != nil {
		return err
	}
	w.slices[n] = true
	return w.remakeView()
}

func (w *writer) remakeView() error {
	if _, err := w.c.exec("DROP VIEW IF EXISTS archive"); err != nil {
		return err
	}
	var parts []string
	for n := range w.slices {
		parts = append(parts, "SELECT "+coldsql.ColumnList+" FROM "+sliceName(n))
	}
	slices.Sort(parts)
	if len(parts) == 0 {
		return nil
	}
	_, err := w.c.exec("CREATE VIEW archive AS " + strings.Join(parts, " UNION ALL "))
	return err
}

// dropSlice drops a slice with its counters.
func (w *writer) dropSlice(n int64) error {
	delete(w.slices, n)
	if err := w.remakeView(); err != nil {
		return err
	}
	if err := w.c.forget(); err != nil { // an open statement would keep the table
		return err
	}
	for _, text := range []string{"DELETE FROM archive_slice WHERE n = ?", "DELETE FROM counter WHERE slice = ?"} {
		if _, err := w.c.exec(text, n); err != nil {
			return err
		}
	}
	_, err := w.c.exec("DROP TABLE " + sliceName(n))
	return err
}
