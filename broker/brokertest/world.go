package brokertest

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/errandhq/errand/broker"
	"github.com/errandhq/errand/job"
)

// patience bounds every wait for something that should happen soon. No test
// waits for so long unless it fails.
const patience = time.Minute

// glance is how long a test looks for what must not come.
const glance = 700 * time.Millisecond

// world is one test's broker and its topic.
type world struct {
	testing.TB
	ctx   context.Context
	b     broker.Broker
	topic string
	suite suite
}

func newWorld(t testing.TB, s suite) *world {
	ctx, cancel := context.WithTimeout(context.Background(), 4*time.Minute)
	t.Cleanup(cancel)
	w := &world{TB: t, ctx: ctx, suite: s, topic: randomTopic()}
	w.b = s.open(t)
	return w
}

func randomTopic() string {
	var b [8]byte
	_, _ = rand.Read(b[:]) // never fails
	return "errand.test." + hex.EncodeToString(b[:])
}

func (w *world) ok(err error) {
	w.Helper()
	if err != nil {
		w.Fatalf("unexpected error: %v", err)
	}
}

// wantCode checks an error: its code, that it says something, and that it keeps the secret.
func (w *world) wantCode(what string, err error, codes ...job.Code) {
	w.Helper()
	if err == nil || !slices.Contains(codes, job.CodeOf(err)) || job.ReasonOf(err) == "" {
		w.Errorf("%s: error %v of code %d and reason %q, want a code of %d", what, err, job.CodeOf(err), job.ReasonOf(err), codes)
	}
	w.keepsSecret(err)
}

func (w *world) keepsSecret(err error) {
	w.Helper()
	if secret := w.suite.features.Secret; err != nil && secret != "" && strings.Contains(fmt.Sprintf("%v %+v", err, err), secret) {
		w.Errorf("an error shows the password: %v", err)
	}
}

func (w *world) second() broker.Broker {
	w.Helper()
	return w.suite.features.Second(w.TB, w.b)
}

func (w *world) redelivery() time.Duration {
	return max(w.suite.features.Redelivery, 10*time.Second) + patience
}

// bodies makes n different ones, of size bytes or a little more; see intact.
func bodies(n, size int) [][]byte {
	out := make([][]byte, n)
	for i := range out {
		var id [12]byte
		_, _ = rand.Read(id[:])
		out[i] = seal(hex.EncodeToString(id[:]), size)
	}
	return out
}

// seal makes a body that says by itself whether it is intact: its id, and behind a
// colon as many bytes as follow from the id.
func seal(id string, size int) []byte {
	out := []byte(id + ":")
	sum := sha256.Sum256([]byte(id))
	for len(out) < size {
		out = append(out, sum[:min(len(sum), size-len(out))]...)
		sum = sha256.Sum256(sum[:])
	}
	return out
}

// intact reports whether a body is what seal made.
func intact(body []byte) bool {
	id, _, ok := strings.Cut(string(body), ":")
	return ok && string(seal(id, len(body))) == string(body)
}

func (w *world) publish(bodies ...[]byte) {
	w.Helper()
	w.ok(w.b.Publish(w.ctx, w.topic, bodies))
}

func (w *world) subscribe(b broker.Broker) broker.Subscription {
	w.Helper()
	s, err := b.Subscribe(w.ctx, w.topic)
	w.ok(err)
	w.Cleanup(func() { _ = s.Close() }) // most tests close it before
	return s
}

func (w *world) receive(s broker.Subscription, most int, wait time.Duration) []broker.Message {
	w.Helper()
	msgs, err := s.Receive(w.ctx, most, wait)
	w.ok(err)
	if len(msgs) > most {
		w.Errorf("Receive returned %d messages, asked for %d at most", len(msgs), most)
	}
	return msgs
}

// take receives until n messages are there, without an acknowledgement.
func (w *world) take(s broker.Subscription, n int) []broker.Message {
	w.Helper()
	return w.takeWithin(s, n, patience)
}

func (w *world) takeWithin(s broker.Subscription, n int, d time.Duration) []broker.Message {
	w.Helper()
	var out []broker.Message
	for deadline := time.Now().Add(d); len(out) < n; {
		if time.Now().After(deadline) {
			w.Fatalf("%d of %d messages came in %s", len(out), n, d)
		}
		out = append(out, w.receive(s, n-len(out), time.Second)...)
	}
	return out
}

// drain receives and acknowledges until each of want has come, and fails if others come.
func (w *world) drain(s broker.Subscription, want [][]byte) {
	w.Helper()
	missing := map[string]bool{}
	for _, b := range want {
		missing[string(b)] = true
	}
	known := len(missing)
	deadline := time.Now().Add(w.redelivery())
	for len(missing) > 0 {
		if time.Now().After(deadline) {
			w.Fatalf("%d of %d messages did not come", len(missing), known)
		}
		for _, m := range w.takeSome(s, known) {
			if !missing[string(m.Body)] && w.suite.features.Fair {
				w.Errorf("a message came that must not: %s", show(m.Body))
			}
			delete(missing, string(m.Body))
		}
	}
}

func (w *world) takeSome(s broker.Subscription, most int) []broker.Message {
	w.Helper()
	msgs := w.receive(s, most, time.Second)
	w.ok(s.Ack(w.ctx, msgs))
	return msgs
}

// nothing checks that no message comes.
func (w *world) nothing(what string, s broker.Subscription) {
	w.Helper()
	if msgs := w.receive(s, 10, glance); len(msgs) > 0 {
		w.Errorf("%s: a message came: %s", what, show(msgs[0].Body))
	}
}

func (w *world) wantDepth(what string, want int64) {
	w.Helper()
	var got int64
	w.eventually(what, func() bool {
		var err error
		got, err = w.b.Depth(w.ctx, w.topic)
		w.ok(err)
		return got == want
	}, func() string { return fmt.Sprintf("depth %d, want %d", got, want) })
}

// eventually waits until cond holds; state, if any, tells what was seen last.
func (w *world) eventually(what string, cond func() bool, state ...func() string) {
	w.Helper()
	for deadline := time.Now().Add(patience); !cond(); {
		if time.Now().After(deadline) {
			for _, f := range state {
				what += ": " + f()
			}
			w.Fatalf("it did not happen in %s: %s", patience, what)
		}
		pause(50 * time.Millisecond)
	}
}

// pause lets time pass: between two looks at something that cannot signal, and where
// messages have to get old.
func pause(d time.Duration) { <-time.After(d) }

func bodiesOf(msgs []broker.Message) [][]byte {
	out := make([][]byte, len(msgs))
	for i, m := range msgs {
		out[i] = m.Body
	}
	return out
}

// without returns all but some, each of which occurs once.
func without(all, some [][]byte) [][]byte {
	return slices.DeleteFunc(slices.Clone(all), func(b []byte) bool {
		return slices.ContainsFunc(some, func(s []byte) bool { return string(s) == string(b) })
	})
}

func show(body []byte) string { return fmt.Sprintf("%d bytes, %.60q", len(body), body) }
