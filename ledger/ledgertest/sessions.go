package ledgertest

import (
	"errors"
	"slices"
	"time"

	"github.com/errandhq/errand/job"
	"github.com/errandhq/errand/ledger"
)

var sessionTests = []test{
	{"ComesBackWhole", nil, sessionWhole},
	{"Beat", nil, sessionBeat},
	{"MoveIsGuarded", nil, sessionMove},
	{"NeverRevives", nil, sessionRevive},
	{"Held", nil, sessionHeld},
	{"DrainingMayEndItsJobs", nil, sessionDraining},
	{"ListCountsWhatIsHeld", nil, sessionList},
	{"EndedOnesAreRemoved", nil, sessionUpkeep},
}

var fencingTests = []test{
	{"TokenAndVersionOnlyGrow", nil, fencingGrow},
	{"StaleSucceedChangesNothing", nil, fencingStale},
	{"SettleAfterTheSweep", nil, fencingSweep},
}

func (w *world) sessionOf(id job.ID) (ledger.Session, bool) {
	w.Helper()
	all, err := w.l.ListSessions(w.ctx, true)
	w.ok(err)
	for _, s := range all {
		if s.ID == id {
			return s, true
		}
	}
	return ledger.Session{}, false
}

func sessionWhole(w *world) {
	want := ledger.Session{ID: newID(), Worker: "host/42 ü", Version: "v1.2.3", Queues: []string{"a", "b c"}, Kinds: []string{"x", `"y"`},
		Concurrency: 50, TTL: 30*time.Second + time.Microsecond, State: ledger.SessionLive, Beat: 1, OpenedAt: w.now, BeatAt: w.now}
	w.ok(w.l.OpenSession(w.ctx, want))
	got, _ := w.sessionOf(want.ID)
	if got.Worker != want.Worker || got.Version != want.Version || !slices.Equal(got.Queues, want.Queues) || !slices.Equal(got.Kinds, want.Kinds) ||
		got.Concurrency != 50 || got.TTL != want.TTL || got.State != ledger.SessionLive || got.Beat != 1 || !got.OpenedAt.Equal(w.now) ||
		!got.BeatAt.Equal(w.now) || !got.EndedAt.IsZero() || got.Running != 0 {
		w.Errorf("got %+v\nwant %+v", got, want)
	}
}

func sessionBeat(w *world) {
	live, draining, dead, drained := w.session(), w.session(), w.session(), w.session()
	w.move(draining, ledger.SessionDraining)
	w.move(dead, ledger.SessionDead)
	w.move(drained, ledger.SessionDrained)
	ids := []job.ID{dead, live, newID(), draining, drained}
	w.pass(time.Second)
	got, err := w.l.Beat(w.ctx, w.now, ids)
	w.ok(err)
	want := []ledger.SessionState{ledger.SessionDead, ledger.SessionLive, ledger.SessionAbsent, ledger.SessionDraining, ledger.SessionDrained}
	for i, s := range want {
		if got[i].State != s || len(got[i].Held) > 0 {
			w.Errorf("session %d: %+v, want %v, which holds nothing", i, got[i], s)
		}
	}
	for id, beat := range map[job.ID]int64{live: 2, draining: 2, dead: 1, drained: 1} {
		if s, _ := w.sessionOf(id); s.Beat != beat || beat == 2 && !s.BeatAt.Equal(w.now) {
			w.Errorf("%s session: beat %d at %s", s.State, s.Beat, s.BeatAt)
		}
	}
	if none, err := w.l.Beat(w.ctx, w.now, nil); err != nil || len(none) != 0 {
		w.Errorf("no sessions: %v, %v", none, err)
	}
	w.together(16, func(int) error { _, err := w.l.Beat(w.ctx, w.now, []job.ID{live}); return err })
	if s, _ := w.sessionOf(live); s.Beat != 18 {
		w.Errorf("after 16 beats at once: %d", s.Beat)
	}
}

func sessionMove(w *world) {
	id := w.session()
	live, draining := []ledger.SessionState{ledger.SessionLive}, []ledger.SessionState{ledger.SessionDraining}
	for i, c := range []struct {
		id   job.ID
		from []ledger.SessionState
		to   ledger.SessionState
		beat int64
		want bool
	}{
		{newID(), live, ledger.SessionDead, 0, false},
		{id, draining, ledger.SessionDead, 0, false},
		{id, nil, ledger.SessionDead, 0, false},
		{id, live, ledger.SessionDead, 2, false},
		{id, live, ledger.SessionDraining, 1, true},
		{id, live, ledger.SessionDead, 0, false},
		{id, append(live, draining...), ledger.SessionDead, 1, true},
		{id, append(live, draining...), ledger.SessionDrained, 1, false},
		{id, []ledger.SessionState{ledger.SessionDead}, ledger.SessionAbsent, 0, true},
		{id, []ledger.SessionState{ledger.SessionDead}, ledger.SessionAbsent, 0, false},
	} {
		got, err := w.l.MoveSession(w.ctx, w.now, c.id, c.from, c.to, c.beat)
		if err != nil || got != c.want {
			w.Errorf("move %d: %v, %v", i, got, err)
		}
		if s, ok := w.sessionOf(id); c.want && ok && s.State != c.to {
			w.Errorf("move %d: %s", i, s.State)
		}
	}
	if _, ok := w.sessionOf(id); ok {
		w.Error("an absent session is still listed")
	}
}

func sessionRevive(w *world) {
	id := w.session()
	w.move(id, ledger.SessionDead)
	if s, _ := w.sessionOf(id); !s.EndedAt.Equal(w.now) {
		w.Errorf("ended at %s", s.EndedAt)
	}
	moved, err := w.l.MoveSession(w.ctx, w.now, id, []ledger.SessionState{ledger.SessionDead}, ledger.SessionLive, 0)
	if moved && err == nil {
		w.Error("a dead session was moved to live")
	}
	if err := w.l.OpenSession(w.ctx, ledger.Session{ID: id, Worker: "again", TTL: time.Second, State: ledger.SessionLive, OpenedAt: w.now, BeatAt: w.now}); err == nil {
		w.Error("a dead session was opened again")
	}
	if s, _ := w.sessionOf(id); s.State != ledger.SessionDead {
		w.Errorf("it is %s", s.State)
	}
}

func sessionHeld(w *world) {
	a, b := w.session(), w.session()
	w.insert(w.many(4)...)
	ja := w.tryClaim(ledger.Claim{Session: a, Call: 7, Queue: "q", Max: 2, MaxBytes: 1 << 20})[0].Jobs
	jb := w.claim(b, 2)
	w.must(ja[1].ID, job.Move{Event: job.Cancel})
	w.must(jb[0].ID, job.Move{Event: job.Cancel})
	held := func(ids ...job.ID) map[job.ID]ledger.Lease {
		ls, err := w.l.Held(w.ctx, ids)
		w.ok(err)
		m := map[job.ID]ledger.Lease{}
		for _, l := range ls {
			m[l.ID] = l
		}
		if len(m) != len(ls) {
			w.Errorf("a lease is named twice: %v", ls)
		}
		return m
	}
	got := held(a, newID())
	if len(got) != 2 || got[ja[0].ID] != (ledger.Lease{ID: ja[0].ID, Session: a, Token: 1, Call: 7}) ||
		got[ja[1].ID] != (ledger.Lease{ID: ja[1].ID, Session: a, Token: 1, Call: 7, CancelRequested: true}) {
		w.Errorf("held by a: %+v", got)
	}
	beat, err := w.l.Beat(w.ctx, w.now, []job.ID{b, newID(), a})
	w.ok(err)
	if len(beat[0].Held) != 2 || len(beat[1].Held) != 0 || len(beat[2].Held) != 2 ||
		!slices.Contains(beat[2].Held, got[ja[0].ID]) || !slices.Contains(beat[2].Held, got[ja[1].ID]) {
		w.Errorf("held, by a beat: %+v", beat)
	}
	if got := held(a, b); len(got) != 4 {
		w.Errorf("held by both: %+v", got)
	}
	if got := held(); len(got) != 2 || !got[ja[1].ID].CancelRequested || !got[jb[0].ID].CancelRequested {
		w.Errorf("cancel requested: %+v", got)
	}
	w.done(ja...)
	if got := held(a); len(got) != 0 {
		w.Errorf("after the settle: %+v", got)
	}
}

func sessionDraining(w *world) {
	s := w.session()
	w.insert(w.many(3)...)
	jobs := w.claim(s, 2)
	w.move(s, ledger.SessionDraining)
	w.done(jobs[0])
	if _, err := w.settle(jobs[1].ID, jobs[1].Token, job.Move{Event: job.Fail}); err != nil {
		w.Errorf("fail: %v", err)
	}
	got := w.tryClaim(ledger.Claim{Session: s, Call: 3, Queue: "q", Max: 1, MaxBytes: 1 << 20})[0]
	if !errors.Is(got.Err, job.ErrSessionLost) {
		w.Errorf("claim while draining: %v", got.Err)
	}
}

func sessionList(w *world) {
	var ids []job.ID
	for range 3 {
		ids = append(ids, w.session())
		w.pass(time.Second)
	}
	w.insert(w.many(5)...)
	w.claim(ids[1], 3)
	w.done(w.claim(ids[2], 2)...)
	all, err := w.l.ListSessions(w.ctx, true)
	w.ok(err)
	var got []job.ID
	for _, s := range all {
		got = append(got, s.ID)
		if want := map[job.ID]int{ids[1]: 3}[s.ID]; s.Running != want {
			w.Errorf("running %d, want %d", s.Running, want)
		}
	}
	slices.Reverse(ids)
	w.wantIDs("newest first", got, ids)
}

func sessionUpkeep(w *world) {
	idle, holding, live := w.session(), w.session(), w.session()
	w.insert(w.job())
	j := w.claim(holding, 1)[0]
	w.move(idle, ledger.SessionDead)
	w.move(holding, ledger.SessionDead)
	gone := func(want int) {
		w.Helper()
		did, err := w.l.Upkeep(w.ctx, w.now, ledger.DefaultKeep)
		w.ok(err)
		if did.SessionsGone != want {
			w.Errorf("%d sessions gone, want %d", did.SessionsGone, want)
		}
	}
	w.pass(59 * time.Minute)
	gone(0)
	w.pass(2 * time.Minute)
	gone(1)
	if _, ok := w.sessionOf(idle); ok {
		w.Error("the idle one is still there")
	}
	w.must(j.ID, job.Move{Event: job.Crash})
	gone(1)
	if _, ok := w.sessionOf(live); !ok {
		w.Error("the live one is gone")
	}
}

func fencingGrow(w *world) {
	j := w.job()
	w.insert(j)
	s := w.session()
	token, version := int64(0), w.get(j.ID).Version
	grown := func(what string, leased bool) {
		w.Helper()
		got := w.get(j.ID)
		if leased {
			token++
		}
		if got.Token != token || got.Version <= version {
			w.Errorf("%s: token %d, want %d; version %d after %d", what, got.Token, token, got.Version, version)
		}
		version = got.Version
	}
	for _, e := range []job.Event{job.Fail, job.Release, job.Snooze, job.Crash, job.Discard, job.Fail} {
		if got := w.claim(s, 1); len(got) != 1 {
			w.Fatalf("before %s: %d jobs", e, len(got))
		}
		grown("lease", true)
		w.must(j.ID, job.Move{Event: e, Delay: time.Second})
		grown(e.String(), false)
		w.pass(time.Second)
		switch w.get(j.ID).State {
		case job.Scheduled:
			w.stepAll(ledger.Pick{Due: w.now, Limit: 1}, job.Due)
			grown("due", false)
		case job.Dead:
			w.must(j.ID, job.Move{Event: job.Redrive})
			grown("redrive", false)
		}
	}
	w.done(w.claim(s, 1)...)
	grown("archived", true)
}

func fencingStale(w *world) {
	w.insert(w.job())
	s := w.session()
	first := w.claim(s, 1)[0]
	w.must(first.ID, job.Move{Event: job.Release})
	second := w.claim(s, 1)[0]
	if w.succeed(ledger.Success{ID: first.ID, Token: first.Token, Result: []byte("stale")})[0] {
		w.Error("the hot settle took an old token")
	}
	if _, err := w.settle(first.ID, first.Token, job.Move{Event: job.Succeed}); !errors.Is(err, job.ErrStale) {
		w.Errorf("settle: %v", err)
	}
	w.wantJob("unchanged", w.get(first.ID), second)
	w.done(second)
	if w.succeed(ledger.Success{ID: first.ID, Token: second.Token, Result: []byte("late")})[0] {
		w.Error("settled twice")
	}
	if got := w.get(first.ID); len(got.Result) != 0 {
		w.Errorf("result %q", got.Result)
	}
}

func fencingSweep(w *world) {
	w.insert(w.many(2)...)
	s := w.session()
	jobs := w.claim(s, 2)
	w.move(s, ledger.SessionDead)
	if !w.succeed(ledger.Success{ID: jobs[0].ID, Token: jobs[0].Token})[0] {
		w.Error("until the sweep the lease is valid, and its settle counts")
	}
	w.stepAll(ledger.Pick{Orphans: ledger.SessionDead, Limit: 5}, job.Crash)
	if w.succeed(ledger.Success{ID: jobs[1].ID, Token: jobs[1].Token})[0] {
		w.Error("settled after the sweep")
	}
	if _, err := w.settle(jobs[1].ID, jobs[1].Token, job.Move{Event: job.Succeed}); !errors.Is(err, job.ErrStale) {
		w.Errorf("settle after the sweep: %v", err)
	}
}

func holderOf(err error) job.ID {
	var e *job.Error
	if errors.As(err, &e) {
		return e.Holder
	}
	return job.ID{}
}
