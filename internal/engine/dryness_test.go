package engine

import (
	"fmt"
	"testing"

	"github.com/errandhq/errand/job"
)

func TestDrynessEndsWithTheNextWake(t *testing.T) {
	a := ask{job.ID{1}, want{"q", "k"}}
	for name, c := range map[string]struct {
		do   func(d *dryness)
		want bool
	}{
		"no claim":              {func(*dryness) {}, false},
		"claim":                 {func(d *dryness) { d.leave(a, 5) }, true},
		"wake before the claim": {func(d *dryness) { d.wake("q", 5); d.leave(a, 5) }, true},
		"wake after it":         {func(d *dryness) { d.leave(a, 5); d.wake("q", 6) }, false},
		"wake during it":        {func(d *dryness) { d.wake("q", 6); d.leave(a, 5) }, false},
		"wake of another queue": {func(d *dryness) { d.leave(a, 5); d.wake("r", 6) }, true},
		"wake of all after it":  {func(d *dryness) { d.leave(a, 5); d.wakeAll(6) }, false},
		"wake of all during it": {func(d *dryness) { d.wakeAll(6); d.leave(a, 5) }, false},
		"too many answers": {func(d *dryness) {
			d.leave(a, 5)
			for i := range maxDry {
				d.leave(ask{job.ID{2}, want{fmt.Sprint(i), "k"}}, 5)
			}
		}, false},
		"pulse that is asked for it":   {func(d *dryness) { d.leave(a, 5); d.keep(map[want]bool{a.want: true}) }, true},
		"pulse of another queue":       {func(d *dryness) { d.leave(a, 5); d.keep(map[want]bool{{"r", "k"}: true}) }, false},
		"pulse of other kinds":         {func(d *dryness) { d.leave(a, 5); d.keep(map[want]bool{{"q", "l"}: true}) }, false},
		"wake during it, then a pulse": {func(d *dryness) { d.wake("q", 6); d.keep(nil); d.leave(a, 5) }, false},
		"another session's":            {func(d *dryness) { d.leave(ask{job.ID{2}, a.want}, 5) }, false},
		"too many wakes": {func(d *dryness) {
			d.leave(a, 5)
			for i := range maxDry + 1 {
				d.wake(fmt.Sprint(i), uint64(6+i))
			}
		}, false},
	} {
		d := newDryness()
		if c.do(&d); d.holds(a) != c.want {
			t.Errorf("%s: it holds: %t", name, !c.want)
		}
		if len(d.woken) > maxDry || len(d.found) > maxDry {
			t.Errorf("%s: %d wakes and %d answers are kept", name, len(d.woken), len(d.found))
		}
	}
}
