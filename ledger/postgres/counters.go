package postgres

import (
	"cmp"
	"slices"
	"time"

	"github.com/errandhq/errand/job"
)

// sliceLen is the length of an archive slice.
const sliceLen = time.Hour

// sliceOf numbers the archive slice of a moment: hours since 1970.
func sliceOf(t time.Time) int64 { return t.UnixMicro() / sliceLen.Microseconds() }

// counterKey names a counter.
type counterKey struct {
	queue, kind string
	state       job.State
	slice       int64
}

// deltas gathers what a transaction changes in the counters.
type deltas map[counterKey]int64

// add counts n jobs of j's queue and kind, in the state and place where j is.
func (d deltas) add(j *job.Job, n int64) {
	k := counterKey{queue: j.Queue, kind: j.Kind, state: j.State}
	if j.State == job.Succeeded || j.State == job.Cancelled {
		k.slice = sliceOf(j.DoneAt)
	}
	d[k] += n
}

// steps returns the statement that inserts the deltas, or none.
func (d deltas) steps() []step {
	args := d.columns()
	if args == nil {
		return nil
	}
	return []step{{
		sql: `INSERT INTO errand.counter_delta (queue, kind, state, slice, n)
			SELECT * FROM unnest($1::text[], $2::text[], $3::smallint[], $4::bigint[], $5::bigint[])`,
		args: args,
	}}
}

// columns returns the deltas column by column, or nil if there are none.
func (d deltas) columns() []any {
	keys := make([]counterKey, 0, len(d))
	for k, n := range d {
		if n != 0 {
			keys = append(keys, k)
		}
	}
	if len(keys) == 0 {
		return nil
	}
	slices.SortFunc(keys, func(a, b counterKey) int {
		return cmp.Or(cmp.Compare(a.queue, b.queue), cmp.Compare(a.kind, b.kind),
			cmp.Compare(a.state, b.state), cmp.Compare(a.slice, b.slice))
	})
	queues, kinds := make([]string, len(keys)), make([]string, len(keys))
	states, parts, ns := make([]int16, len(keys)), make([]int64, len(keys)), make([]int64, len(keys))
	for i, k := range keys {
		queues[i], kinds[i], states[i], parts[i], ns[i] = k.queue, k.kind, int16(k.state), k.slice, d[k]
	}
	return []any{queues, kinds, states, parts, ns}
}
