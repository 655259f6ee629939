package coldsql

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"time"

	"github.com/errandhq/errand/ledger"
)

// The columns of the relations tally and fault, in the order of their scans.
const (
	tallyColumns = "hour, queue, kind, outcome, n, sum_us, sketch"
	faultColumns = "hour, queue, kind, message, n, first_at, last_at"
)

// Scan is the Scan method of a row, of whatever driver.
type Scan func(dest ...any) error

// HourTexts returns the statements that read the tallies and the faults of an
// hour, their one argument, for AddTally and AddFault.
func (s *Store) HourTexts() (tallies, faults string) {
	return fmt.Sprintf("SELECT %s FROM %stally WHERE hour = $1", tallyColumns, s.Prefix),
		fmt.Sprintf("SELECT %s FROM %sfault WHERE hour = $1", faultColumns, s.Prefix)
}

// ScanTally reads a row.
func ScanTally(scan Scan) (t ledger.Tally, err error) {
	var hour, outcome, sum int64
	err = scan(&hour, &t.Queue, &t.Kind, &outcome, &t.N, &sum, &t.Sketch)
	t.Hour, t.Outcome, t.Sum = ledger.Hour(hour), ledger.Outcome(outcome), time.Duration(sum)*time.Microsecond
	return t, err
}

// ScanFault reads a row.
func ScanFault(scan Scan) (f ledger.Fault, err error) {
	var hour, first, last int64
	err = scan(&hour, &f.Queue, &f.Kind, &f.Message, &f.N, &first, &last)
	f.Hour, f.First, f.Last = ledger.Hour(hour), Time(first), Time(last)
	return f, err
}

// AddTally adds a row to sums.
func AddTally(sums *ledger.Sums, scan Scan) error {
	t, err := ScanTally(scan)
	sums.Tallies = append(sums.Tallies, t)
	return err
}

// AddFault adds a row to sums.
func AddFault(sums *ledger.Sums, scan Scan) error {
	f, err := ScanFault(scan)
	sums.Faults = append(sums.Faults, f)
	return err
}

// Text is a statement with its arguments.
type Text struct {
	SQL  string
	Args []any
}

// StatsTexts returns the statements that store sums, one a row.
func (s *Store) StatsTexts(sums ledger.Sums) []Text {
	tally := fmt.Sprintf(`INSERT INTO %stally (%s) VALUES ($1, $2, $3, $4, $5, $6, $7)
		ON CONFLICT (hour, queue, kind, outcome) DO UPDATE SET n = excluded.n, sum_us = excluded.sum_us, sketch = excluded.sketch`,
		s.Prefix, tallyColumns)
	fault := fmt.Sprintf(`INSERT INTO %sfault (%s) VALUES ($1, $2, $3, $4, $5, $6, $7)
		ON CONFLICT (hour, queue, kind, message) DO UPDATE SET n = excluded.n, first_at = excluded.first_at, last_at = excluded.last_at`,
		s.Prefix, faultColumns)
	texts := make([]Text, 0, len(sums.Tallies)+len(sums.Faults))
	for i := range sums.Tallies {
		t := &sums.Tallies[i]
		texts = append(texts, Text{tally, []any{int64(t.Hour), t.Queue, t.Kind, int64(t.Outcome), t.N, t.Sum.Microseconds(), blob(t.Sketch)}})
	}
	for i := range sums.Faults {
		f := &sums.Faults[i]
		texts = append(texts, Text{fault, []any{int64(f.Hour), f.Queue, f.Kind, f.Message, f.N, Micros(f.First), Micros(f.Last)}})
	}
	return texts
}

// ReadStats implements ledger.Stats.
func (s *Store) ReadStats(ctx context.Context, from ledger.Hour, queue string, tally func(ledger.Tally) bool, fault func(ledger.Fault) bool) error {
	more, err := readStats(ctx, s, "tally", tallyColumns, from, queue, ScanTally, tally)
	if err != nil || !more || fault == nil {
		return err
	}
	_, err = readStats(ctx, s, "fault", faultColumns, from, queue, ScanFault, fault)
	return err
}

// errEnough ends a reading early.
var errEnough = errors.New("enough")

// readStats calls fn on the rows of a relation, along its primary key, and says
// whether it wants more.
func readStats[T any](ctx context.Context, s *Store, relation, columns string, from ledger.Hour, queue string,
	scan func(Scan) (T, error), fn func(T) bool) (more bool, err error) {
	var q query
	cond := "hour >= " + q.arg(int64(from))
	if queue != "" {
		cond += " AND queue = " + q.arg(queue)
	}
	text := fmt.Sprintf("SELECT %s FROM %s%s WHERE %s ORDER BY hour DESC", columns, s.Prefix, relation, cond)
	err = s.each(ctx, "read statistics", text, q.args, func(rows *sql.Rows) error {
		row, err := scan(rows.Scan)
		if err == nil && !fn(row) {
			return errEnough
		}
		return err
	})
	if errors.Is(err, errEnough) {
		return false, nil
	}
	return err == nil, err
}
