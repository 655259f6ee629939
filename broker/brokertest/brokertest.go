// Package brokertest is the contract of package broker as tests: every driver
// passes Run, with a fresh topic for each test, and says what its carrier is
// capable of by Features; and RunFaults, in which the carrier is cut off, killed
// and frozen. No test asks for a driver's name. Memory is a carrier in memory,
// for unit tests of those who use one.
package brokertest

import (
	"testing"
	"time"

	"github.com/errandhq/errand/broker"
)

// Features is what the contract lets differ between carriers.
type Features struct {
	// Second opens another handle on the carrier of b, as another process would.
	// Every driver has it.
	Second func(t testing.TB, b broker.Broker) broker.Broker

	// Aged opens a broker whose messages live as long as ttl. Every driver has it. The brokers
	// of open let messages live for a minute at least.
	Aged func(t testing.TB, ttl time.Duration) broker.Broker

	// Purge takes everything out of a topic, as an operator would, behind the driver's back. Nil: the carrier
	// has nothing like it.
	Purge func(t testing.TB, b broker.Broker, topic string)

	// Redelivery bounds how long the carrier may take, in good health, to
	// deliver again what a closed subscription has left. 0: 10 s.
	Redelivery time.Duration

	// Fair says that a message is bound to no subscription before that asks
	// for it: what one does not take, another gets, and what was acknowledged
	// alone is never delivered again. Carriers that bind parts of a topic to a
	// consumer are not.
	Fair bool

	// Ordered says that one subscription alone gets messages in the order in
	// which they were published.
	Ordered bool

	// Durable says that confirmed messages outlive a crash of the carrier.
	Durable bool

	// Secret is the password that the brokers were opened with, if any: no error may show it.
	Secret string
}

// Faults are what the driver's tests can do to the carrier of a broker that they
// opened. Each returns when it has happened; nil leaves its tests out.
type Faults struct {
	// Cut breaks every connection of b; new ones succeed.
	Cut func(t testing.TB, b broker.Broker)

	// Restart kills the carrier as kill -9 does and starts it again.
	Restart func(t testing.TB, b broker.Broker)

	// Away makes the carrier of b unreachable until back is called.
	Away func(t testing.TB, b broker.Broker) (back func())

	// Freeze leaves all connections of b open, over which nothing goes any
	// more, until thaw is called.
	Freeze func(t testing.TB, b broker.Broker) (thaw func())
}

// Run runs the suite. open opens a broker and leaves with t.Cleanup what
// closes it; that clean-up must bear a broker that was closed before.
func Run(t *testing.T, open func(t testing.TB) broker.Broker, f Features) {
	s := suite{open: open, features: f}
	s.groups(t, []group{
		{"Publish", publishTests},
		{"Receive", receiveTests},
		{"Age", ageTests},
		{"Ack", ackTests},
		{"Rest", restTests},
		{"Close", closeTests},
		{"Depth", depthTests},
		{"Check", checkTests},
		{"BadInput", badInputTests},
		{"Stress", stressTests},
	})
}

// RunFaults runs the tests in which the carrier fails: the modes reconnect and restart.
func RunFaults(t *testing.T, open func(t testing.TB) broker.Broker, f Features, faults Faults) {
	s := suite{open: open, features: f, faults: faults}
	s.groups(t, []group{
		{"Reconnect", reconnectTests},
		{"Away", awayTests},
		{"Restart", restartTests},
	})
}

type suite struct {
	open     func(t testing.TB) broker.Broker
	features Features
	faults   Faults
}

type group struct {
	name  string
	tests []test
}

// test is one sentence of the contract. needs, if set, says of which features
// or faults it speaks: a driver without them has nothing to prove here.
type test struct {
	name  string
	needs func(suite) bool
	run   func(w *world)
}

func (s suite) groups(t *testing.T, groups []group) {
	for _, g := range groups {
		t.Run(g.name, func(t *testing.T) {
			for _, c := range g.tests {
				t.Run(c.name, func(t *testing.T) { s.run(t, c) })
			}
		})
	}
}

func (s suite) run(t *testing.T, c test) {
	if c.needs != nil && !c.needs(s) {
		t.Logf("not spoken of: the driver declares that its carrier lacks the feature")
		return
	}
	c.run(newWorld(t, s))
}

func isFair(s suite) bool     { return s.features.Fair }
func isOrdered(s suite) bool  { return s.features.Ordered }
func hasPurge(s suite) bool   { return s.features.Purge != nil }
func hasCut(s suite) bool     { return s.faults.Cut != nil }
func hasRestart(s suite) bool { return s.faults.Restart != nil }
func hasAway(s suite) bool    { return s.faults.Away != nil }
func hasFreeze(s suite) bool  { return s.faults.Freeze != nil }
