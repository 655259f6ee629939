package coldsql

import (
	"context"
	"database/sql"
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

// AddTally adds a row to sums.
func AddTally(sums *ledger.Sums, scan Scan) error {
	var t ledger.Tally
	var hour, outcome, sum int64
	err := scan(&hour, &t.Queue, &t.Kind, &outcome, &t.N, &sum, &t.Sketch)
	t.Hour, t.Outcome, t.Sum = ledger.Hour(hour), ledger.Outcome(outcome), time.Duration(sum)*time.Microsecond
	sums.Tallies = append(sums.Tallies, t)
	return err
}

// AddFault adds a row to sums.
func AddFault(sums *ledger.Sums, scan Scan) error {
	var f ledger.Fault
	var hour, first, last int64
	err := scan(&hour, &f.Queue, &f.Kind, &f.Message, &f.N, &first, &last)
	f.Hour, f.First, f.Last = ledger.Hour(hour), Time(first), Time(last)
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
func (s *Store) ReadStats(ctx context.Context, from ledger.Hour, queue string) (ledger.Sums, error) {
	var sums ledger.Sums
	for _, part := range []struct {
		relation, columns string
		add               func(*ledger.Sums, Scan) error
	}{{"tally", tallyColumns, AddTally}, {"fault", faultColumns, AddFault}} {
		var q query
		cond := "hour >= " + q.arg(int64(from))
		if queue != "" {
			cond += " AND queue = " + q.arg(queue)
		}
		text := fmt.Sprintf("SELECT %s FROM %s%s WHERE %s", part.columns, s.Prefix, part.relation, cond)
		err := s.each(ctx, "read statistics", text, q.args, func(rows *sql.Rows) error { return part.add(&sums, rows.Scan) })
		if err != nil {
			return ledger.Sums{}, err
		}
	}
	return sums, nil
}
