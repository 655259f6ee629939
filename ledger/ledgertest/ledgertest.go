// Package ledgertest is the contract of package ledger as tests: every
// implementation passes Run, with a fresh store for each test, and says what
// it is capable of by Features. No test asks for a ledger's name.
package ledgertest

import (
	"testing"

	"github.com/errandhq/errand/ledger"
)

// Features is what the contract lets differ between ledgers.
type Features struct {
	// Second opens another handle on the store of l, as another process would,
	// while l stays open. Nil: the store has one owning process.
	Second func(t testing.TB, l ledger.Ledger) ledger.Ledger

	// Reopen closes l and opens its store anew, as after a restart. Every
	// durable ledger has it; nil leaves the tests of durability out.
	Reopen func(t testing.TB, l ledger.Ledger) ledger.Ledger

	// HoldInsert stores the item's job, Ready, in a transaction that has drawn
	// its Seq and stays open until commit is called. Nil: the store has no
	// transactions that could commit late.
	HoldInsert func(t testing.TB, l ledger.Ledger, it ledger.Item) (commit func())

	scans bool // of the suite's own model: it looks at every job for everything
}

// Run runs the suite. open opens a ledger on a store of its own, empty and
// ready for use, and leaves with t.Cleanup what closes and removes it; that
// clean-up must bear a ledger that was closed before.
func Run(t *testing.T, open func(t testing.TB) ledger.Ledger, f Features) {
	s := suite{open: open, features: f}
	for _, group := range []struct {
		name  string
		tests []test
	}{
		{"Insert", insertTests},
		{"Claim", claimTests},
		{"ClaimByName", namedTests},
		{"Heads", headsTests},
		{"Relay", relayTests},
		{"Pulse", pulseTests},
		{"Succeed", succeedTests},
		{"Apply", applyTests},
		{"Pick", pickTests},
		{"Unique", uniqueTests},
		{"Idempotency", idempotencyTests},
		{"Sessions", sessionTests},
		{"Fencing", fencingTests},
		{"Queues", queueTests},
		{"Reader", readerTests},
		{"Retention", retentionTests},
		{"Stats", statsTests},
		{"BadInput", badInputTests},
		{"Concurrency", concurrencyTests},
		{"Cost", costTests},
		{"Handles", handleTests},
	} {
		t.Run(group.name, func(t *testing.T) {
			for _, c := range group.tests {
				t.Run(c.name, func(t *testing.T) { s.run(t, c) })
			}
		})
	}
	t.Run("Model", s.model)
}

type suite struct {
	open     func(t testing.TB) ledger.Ledger
	features Features
}

// test is one sentence of the contract. needs, if set, says of which features
// it speaks: a ledger without them has nothing to prove here.
type test struct {
	name  string
	needs func(Features) bool
	run   func(w *world)
}

func (s suite) run(t *testing.T, c test) {
	if c.needs != nil && !c.needs(s.features) {
		t.Logf("not spoken of: the ledger declares that it lacks the feature")
		return
	}
	w := newWorld(t, s)
	c.run(w)
	if !t.Failed() {
		w.audit()
	}
}

func searches(f Features) bool      { return !f.scans }
func hasSecond(f Features) bool     { return f.Second != nil }
func hasReopen(f Features) bool     { return f.Reopen != nil }
func hasHoldInsert(f Features) bool { return f.HoldInsert != nil }
