package verify

import (
	"bytes"
	"context"
	"fmt"

	errand "github.com/errandhq/errand"
	errandv1 "github.com/errandhq/errand/gen/errand/v1"
)

// stale are the checks of promise 3.
var stale = []check{
	{3, "a doubled settle", doubledSettle},
	{3, "stale tokens", staleTokens},
	{3, "tokens and versions grow", growing},
}

// doubledSettle settles a job again and again, the last time with another outcome.
func doubledSettle(ctx context.Context, b *bench) (string, error) {
	const check = "doubled"
	h, err := b.hand(ctx, check)
	if err != nil {
		return "", err
	}
	j, err := b.enqueueTo(ctx, h, check)
	if err != nil {
		return "", err
	}
	if err := h.succeed(ctx, j); err != nil {
		return "", err
	}
	id, err := parse(j)
	if err != nil {
		return "", err
	}
	first, err := b.is(ctx, id, errand.Succeeded)
	if err != nil {
		return "", err
	}
	if sent := success(j).GetResult(); !bytes.Equal(first.Result, sent) {
		return "", broken("job %s was settled with the result %q, and the ledger has %q", id, sent, first.Result)
	}
	other := success(j)
	other.Result = []byte(`{"other":true}`)
	for _, s := range []*errandv1.Settlement{success(j), outcome(j, errandv1.Outcome_OUTCOME_FAIL), other} {
		r, err := h.settle(ctx, s)
		if err != nil {
			return "", err
		}
		if r.GetProblem() != nil || !r.GetRepeated() || r.GetState() != errandv1.JobState_JOB_STATE_SUCCEEDED {
			return "", broken("%s of job %s under the token that had settled it was answered %v; want the recorded success, repeated", s.GetOutcome(), id, r)
		}
	}
	after, err := b.is(ctx, id, errand.Succeeded)
	if err != nil {
		return "", err
	}
	if after.Version != first.Version || !bytes.Equal(after.Result, first.Result) {
		return "", broken("repeated settles changed job %s: version %d and then %d, result %q and then %q", id, first.Version, after.Version, first.Result, after.Result)
	}
	return "three more settles under the token that had settled got the recorded outcome and changed nothing", nil
}

// staleTokens loses a lease, and uses its token when another hand has the job, and when it has
// ended.
func staleTokens(ctx context.Context, b *bench) (string, error) {
	const check = "stale"
	late, err := b.hand(ctx, check)
	if err != nil {
		return "", err
	}
	old, err := b.enqueueTo(ctx, late, check)
	if err != nil {
		return "", err
	}
	late.forget(old.GetId())
	if _, err := late.extend(ctx, nil); err != nil {
		return "", err
	}
	holder, err := b.hand(ctx, check)
	if err != nil {
		return "", err
	}
	now, err := holder.one(ctx)
	if err != nil {
		return "", err
	}
	if now.GetId() != old.GetId() || now.GetToken() <= old.GetToken() {
		return "", broken("job %s was given out under token %d after token %d of job %s", now.GetId(), now.GetToken(), old.GetToken(), old.GetId())
	}
	if err := b.unmoved(ctx, late, old, errand.Running); err != nil {
		return "", err
	}
	if err := b.deafTo(ctx, late, old); err != nil {
		return "", err
	}
	if err := holder.succeed(ctx, now); err != nil {
		return "", err
	}
	if err := b.unmoved(ctx, late, old, errand.Succeeded); err != nil {
		return "", err
	}
	return "every outcome, a heartbeat and a note under a lost token were refused and changed nothing, while the job ran and after its end", nil
}

// unmoved tries every outcome under an old token, and one that was never given out.
func (b *bench) unmoved(ctx context.Context, h *hand, old *errandv1.Job, state errand.State) error {
	id, err := parse(old)
	if err != nil {
		return err
	}
	before, err := b.is(ctx, id, state)
	if err != nil {
		return err
	}
	invented := outcome(old, errandv1.Outcome_OUTCOME_SUCCEED)
	invented.Token += 1000
	tries := []*errandv1.Settlement{
		invented, success(old), outcome(old, errandv1.Outcome_OUTCOME_FAIL), outcome(old, errandv1.Outcome_OUTCOME_DISCARD),
		outcome(old, errandv1.Outcome_OUTCOME_SNOOZE), outcome(old, errandv1.Outcome_OUTCOME_RELEASE),
	}
	for _, s := range tries {
		r, err := h.settle(ctx, s)
		if err != nil {
			return err
		}
		if errand.Reason(r.GetProblem().GetReason()) != errand.ReasonStaleToken {
			return broken("%s of job %s under token %d was answered %v, though its lease was under token %d; want %s",
				s.GetOutcome(), id, s.GetToken(), r, before.Token, errand.ReasonStaleToken)
		}
	}
	after, err := b.is(ctx, id, state)
	if err == nil && (after.Version != before.Version || after.Token != before.Token || !bytes.Equal(after.Result, before.Result)) {
		return broken("settles under the old token %d changed job %s: version %d and then %d, token %d and then %d",
			old.GetToken(), id, before.Version, after.Version, before.Token, after.Token)
	}
	return err
}

// deafTo names an old token in a heartbeat, with a note.
func (b *bench) deafTo(ctx context.Context, h *hand, old *errandv1.Job) error {
	id, err := parse(old)
	if err != nil {
		return err
	}
	r, err := h.extend(ctx, func(req *errandv1.ExtendRequest) {
		req.Held = append(req.Held, &errandv1.Held{Id: old.GetId(), Token: old.GetToken()})
		req.Progress = append(req.Progress, &errandv1.Progress{Id: old.GetId(), Token: old.GetToken(), Note: []byte("stale")})
	})
	if err != nil {
		return err
	}
	told := false
	for _, l := range r.GetLost() {
		told = told || l.GetId() == old.GetId() && l.GetToken() == old.GetToken()
	}
	if !told {
		return broken("a heartbeat with the lost token %d of job %s was not told that it is lost: %v", old.GetToken(), id, r)
	}
	j, err := b.job(ctx, id)
	if err == nil && bytes.Equal(j.Progress, []byte("stale")) {
		return broken("a note under the lost token %d of job %s was taken", old.GetToken(), id)
	}
	return err
}

// growing follows a job's token and version through failure, dead letter and, for an
// operator, redrive.
func growing(ctx context.Context, b *bench) (string, error) {
	const check = "growing"
	h, err := b.hand(ctx, check)
	if err != nil {
		return "", err
	}
	g := &growth{b: b, h: h}
	j, err := b.enqueueTo(ctx, h, check, errand.MaxAttempts(2))
	if err != nil {
		return "", err
	}
	ready := []errandv1.JobState{errandv1.JobState_JOB_STATE_SCHEDULED, errandv1.JobState_JOB_STATE_READY}
	if err := g.end(ctx, j, errandv1.Outcome_OUTCOME_FAIL, ready...); err != nil {
		return "", err
	}
	if j, err = h.one(ctx); err != nil {
		return "", err
	}
	if err := g.end(ctx, j, errandv1.Outcome_OUTCOME_FAIL, errandv1.JobState_JOB_STATE_DEAD); err != nil {
		return "", err
	}
	if !b.operator() {
		return fmt.Sprintf("through a failure and a dead letter: tokens %v, versions %v (a redrive takes an operator's token)", g.tokens, g.versions), nil
	}
	id, err := parse(j)
	if err != nil {
		return "", err
	}
	if err := b.client.Redrive(ctx, id); err != nil {
		return "", refusedOr(err, "the redrive of dead letter %s was refused: %v", id, err)
	}
	if j, err = h.one(ctx); err != nil {
		return "", err
	}
	if j.GetAttempt() != 1 || len(j.GetErrors()) == 0 {
		return "", broken("a redriven job was given out as attempt %d with %d errors; want 1, with its errors kept", j.GetAttempt(), len(j.GetErrors()))
	}
	if err := g.end(ctx, j, errandv1.Outcome_OUTCOME_SUCCEED, errandv1.JobState_JOB_STATE_SUCCEEDED); err != nil {
		return "", err
	}
	return fmt.Sprintf("through a failure, a dead letter and a redrive: tokens %v, versions %v", g.tokens, g.versions), nil
}

// growth is what a job's token and version were.
type growth struct {
	b                *bench
	h                *hand
	tokens, versions []int64
}

// end settles a lease and wants both numbers to be larger than before.
func (g *growth) end(ctx context.Context, j *errandv1.Job, o errandv1.Outcome, want ...errandv1.JobState) error {
	s := outcome(j, o)
	if o == errandv1.Outcome_OUTCOME_FAIL {
		s = failure(j)
	}
	if err := g.h.accepted(ctx, s, want...); err != nil {
		return err
	}
	id, err := parse(j)
	if err != nil {
		return err
	}
	info, err := g.b.job(ctx, id)
	if err != nil {
		return err
	}
	if n := len(g.tokens); n > 0 && (info.Token <= g.tokens[n-1] || info.Version <= g.versions[n-1]) {
		return broken("job %s has token %d and version %d after %v and %v", id, info.Token, info.Version, g.tokens, g.versions)
	}
	g.tokens, g.versions = append(g.tokens, info.Token), append(g.versions, info.Version)
	return nil
}
