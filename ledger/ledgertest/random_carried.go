package ledgertest

import (
	"fmt"
	"maps"
	"slices"
	"time"

	"pgregory.net/rapid"

	"github.com/errandhq/errand/job"
	"github.com/errandhq/errand/ledger"
)

// refs draws names of jobs, most of which may be leased.
func (r *random) refs(t *rapid.T) []ledger.Ref {
	var refs []ledger.Ref
	for range rapid.IntRange(1, 6).Draw(t, "refs") {
		j, ok := r.someJob(t, rapid.SampledFrom([]job.State{job.Ready, job.Ready, job.Ready, job.Ready, job.Running, job.Scheduled}).Draw(t, "state"))
		if !ok {
			j.ID = r.someID(t)
		}
		j.Token -= int64(rapid.IntRange(0, 6).Draw(t, "stale") / 6)
		refs = append(refs, refOf(j))
	}
	return refs
}

func (r *random) heads(t *rapid.T) {
	r.begin(t)
	reqs := make([]ledger.Head, rapid.IntRange(1, 3).Draw(t, "requests"))
	for i := range reqs {
		reqs[i] = ledger.Head{Queue: rapid.SampledFrom([]string{"q", "r"}).Draw(t, "queue"),
			Kinds: rapid.SampledFrom([][]string{nil, {"k0"}, {"k2", "k1", "k2"}, {"k1", "nosuch"}}).Draw(t, "kinds"),
			Max:   rapid.IntRange(0, 8).Draw(t, "max")}
	}
	got, err := r.l.Heads(r.ctx, r.now, reqs)
	r.ok(err)
	want, _ := r.m.Heads(r.ctx, r.now, reqs)
	for i := range want {
		if got[i].Paused != want[i].Paused || !slices.Equal(got[i].Refs, want[i].Refs) {
			r.Fatalf("heads %+v:\n got  %+v\n want %+v", reqs[i], got[i], want[i])
		}
	}
}

func (r *random) holdRelay(t *rapid.T) {
	r.begin(t)
	holder := job.ID{byte(rapid.IntRange(1, 3).Draw(t, "holder"))}
	ttl := rapid.SampledFrom([]time.Duration{-time.Second, 0, time.Microsecond, time.Minute, time.Hour}).Draw(t, "ttl")
	leads, epoch, err := r.l.HoldRelay(r.ctx, r.now, holder, ttl)
	r.ok(err)
	wantLeads, wantEpoch, _ := r.m.HoldRelay(r.ctx, r.now, holder, ttl)
	if got, want := fmt.Sprint(leads, epoch), fmt.Sprint(wantLeads, wantEpoch); got != want {
		r.Fatalf("hold the relay: %s, want %s", got, want)
	}
}

func (r *random) route(t *rapid.T) {
	r.begin(t)
	queue := rapid.SampledFrom([]string{"q", "r", "s"}).Draw(t, "queue")
	route := rapid.SampledFrom([]string{"", "rabbitmq", "kafka"}).Draw(t, "route")
	r.ok(r.l.SetRoute(r.ctx, r.now, queue, route))
	r.ok(r.m.SetRoute(r.ctx, r.now, queue, route))
	got, err := r.l.Routes(r.ctx)
	r.ok(err)
	if want, _ := r.m.Routes(r.ctx); !maps.Equal(got, want) {
		r.Fatalf("routes %v, want %v", got, want)
	}
}
