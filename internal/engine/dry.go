package engine

import (
	"maps"

	"github.com/errandhq/errand/job"
)

// maxDry bounds what is remembered of empty queues.
const maxDry = 10_000

// dryness remembers who has had all that there was: a worker that asks again
// right after its last job need not cost a claim that finds nothing. It is forgotten with
// the queue's next wake, a pulse that sees ready jobs there, which nobody woke for, and one that was
// not asked. Only the
// session that was told so is not asked for: another may get what this one may
// not have, which is a second suspect.
type dryness struct {
	found map[ask]uint64    // the generation of the claim that left nothing
	woken map[string]uint64 // that of a queue's last wake
	all   uint64            // that of the last wake of all queues
}

// ask is what a session wants of a queue.
type ask struct {
	session job.ID
	want    want
}

func newDryness() dryness {
	return dryness{found: map[ask]uint64{}, woken: map[string]uint64{}}
}

// leave notes that a claim of generation gen left nothing.
func (d *dryness) leave(a ask, gen uint64) {
	if len(d.found) >= maxDry {
		clear(d.found) // most may be of sessions that have gone
	}
	d.found[a] = gen
}

// keep forgets who has had all of what is not among wants. When queues were woken stays: a
// claim under way may still leave nothing in a generation before it.
func (d *dryness) keep(wants map[want]bool) {
	maps.DeleteFunc(d.found, func(a ask, _ uint64) bool { return !wants[a.want] })
}

// wake notes that a queue may have work, as of generation gen.
func (d *dryness) wake(queue string, gen uint64) {
	if len(d.woken) >= maxDry {
		d.wakeAll(gen)
		return
	}
	d.woken[queue] = gen
}

func (d *dryness) wakeAll(gen uint64) {
	clear(d.found)
	clear(d.woken)
	d.all = gen
}

// holds reports whether the queue has had nothing for the session since its last claim.
func (d *dryness) holds(a ask) bool {
	gen, ok := d.found[a]
	return ok && gen >= d.all && gen >= d.woken[a.want.queue]
}
