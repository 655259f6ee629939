package engine

import (
	"encoding/binary"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/errandhq/errand/broker"
	"github.com/errandhq/errand/broker/brokertest"
	"github.com/errandhq/errand/job"
	"github.com/errandhq/errand/ledger"
)

func someRefs(n int) []ledger.Ref {
	refs := make([]ledger.Ref, n)
	for i := range refs {
		binary.BigEndian.PutUint64(refs[i].ID[8:], uint64(i+1))
		refs[i].Token, refs[i].Kind = int64(i), "k"
	}
	return refs
}

func TestRefsReadBackInOrder(t *testing.T) {
	refs := someRefs(250)
	refs[10].Kind, refs[20].Lane = "other", 3 // neither shares a message with its neighbours
	bodies, err := encodeRefs("mail", refs, 1000)
	if err != nil {
		t.Fatal(err)
	}
	if len(bodies) != 7 { // 10, 1, 9, 1, and 229 in parts of 100
		t.Errorf("%d messages", len(bodies))
	}
	var back []ledger.Ref
	for _, b := range bodies {
		queue, some, err := decodeRefs(b)
		if err != nil || queue != "mail" {
			t.Fatalf("queue %q, %v", queue, err)
		}
		back = append(back, some...)
	}
	refs[20].Lane = 0 // lanes do not travel
	if !slices.Equal(back, refs) {
		t.Error("they read back otherwise")
	}
	longest := strings.Repeat("\"", job.MaxName)
	bodies, err = encodeRefs(longest, someRefs(maxMessageRefs), maxMessageRefs)
	if err != nil || len(bodies) != 1 || len(bodies[0]) > maxMessageBytes {
		t.Errorf("the largest message has %d bytes, %v", len(bodies[0]), err)
	}
}

func FuzzDecodeRefs(f *testing.F) {
	good, err := encodeRefs("mail", someRefs(3), 3)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(good[0])
	f.Add([]byte(`{"queue":"q","kind":"k","refs":[{"job":"00000000-0000-0000-0000-000000000000","token":1}]}`))
	f.Add([]byte(`{"queue":"q","kind":"k","refs":[{"token":-1}]}`))
	f.Add([]byte("\x00"))
	f.Fuzz(func(t *testing.T, body []byte) {
		queue, refs, err := decodeRefs(body)
		if err != nil {
			if job.CodeOf(err) != job.InvalidArgument {
				t.Fatalf("error %v has no code", err)
			}
			return
		}
		if job.CheckName("queue", queue) != nil || len(refs) == 0 || len(refs) > maxMessageRefs {
			t.Fatalf("accepted queue %q with %d refs", queue, len(refs))
		}
		if _, err := encodeRefs(queue, refs, len(refs)); err != nil {
			t.Fatal(err)
		}
	})
}

func TestTopics(t *testing.T) {
	allowed := regexp.MustCompile(`^[A-Za-z0-9.-]{1,249}$`)
	seen := map[string]string{}
	for _, q := range []string{
		"default", "a.b", "a_b", "a-b", "a b", "A", "a", "ä", "returns", "q.returns", ".", "..", strings.Repeat("x", 128),
		strings.Repeat("ü", 64), strings.Repeat("ü", 63) + "é", strings.Repeat(".", 128), strings.Repeat(".", 127),
	} {
		topic := topicOf("0123456789abcdef", q)
		if !allowed.MatchString(topic) {
			t.Errorf("queue %q: topic %q is not a name everywhere", q, topic)
		}
		if other, ok := seen[topic]; ok {
			t.Errorf("queues %q and %q have one topic", q, other)
		}
		seen[topic] = q
	}
	if _, ok := seen[returnsOf("0123456789abcdef")]; ok {
		t.Error("a queue has the topic of the returns")
	}
}

func TestCrews(t *testing.T) {
	session := func(hands int, queues []string, kinds ...string) ledger.Session {
		return ledger.Session{State: ledger.SessionLive, Queues: queues, Kinds: kinds, Concurrency: hands}
	}
	dead := session(50, []string{"q"}, "z")
	dead.State = ledger.SessionDead
	crews := crewsOf([]ledger.Session{
		session(3, []string{"q", "q", "p"}, "b", "a"), session(4, []string{"q"}, "c", "b"), dead,
		session(1, []string{"canary", "q"}, job.KindCanary), session(2, []string{"canary"}, "a"), session(1, []string{"alone"}, job.KindCanary),
		session(5, []string{"all"}), session(1, []string{"all", "p"}), session(2, []string{"none"}, "a"), session(2, []string{"none"}, "b"),
	})
	for queue, want := range map[string]crew{
		"q":    {hands: 7, kinds: []string{"b"}, mixed: true},
		"p":    {hands: 4, kinds: []string{"a", "b"}, mixed: true},
		"all":  {hands: 6, every: true},
		"none": {hands: 4, mixed: true},
		"":     {},

		"canary": {hands: 2, kinds: []string{"a"}},
		"alone":  {},
	} {
		got := crews[queue]
		if got.hands != want.hands || got.every != want.every || got.mixed != want.mixed || !slices.Equal(got.kinds, want.kinds) {
			t.Errorf("queue %q: %+v, want %+v", queue, got, want)
		}
	}
	if rest, all := crews["q"].rest([]string{"a", "b"}); !slices.Equal(rest, []string{"a"}) || all {
		t.Errorf("rest %v, %v", rest, all)
	}
	if _, all := crews["p"].rest(nil); !all {
		t.Error("a worker of every kind among others leaves kinds to the carrier that it cannot name")
	}
}

// A queue whose refs bring jobs is asked for what no ref brings: by a canary at each claim,
// by a worker of one hand now for suspects, now for its other kinds.
func TestWhatIsAskedOfACarriedQueue(t *testing.T) {
	e := New(nil, Config{Brokers: map[string]broker.Broker{"kafka": brokertest.NewMemory(0)}})
	c := newConsumer(e, "q", "kafka", nil)
	c.up.Store(true)
	c.cameAt.Store(c.now())
	e.carry.consumers["q"] = c
	e.routing.crews = map[string]crew{"q": {hands: 2, kinds: []string{"k"}, mixed: true}}
	asked := func(call int64, kinds ...string) (suspects, others int) {
		w := &waiter{call: call, turn: call, queues: []string{"q"}, kinds: kinds, max: 1, marks: make([]uint64, 1), answer: make(chan leased, 1)}
		if err := e.dispatch.join(w, e.carried); err != nil {
			t.Fatal(err)
		}
		for range 4 {
			e.dispatch.wake(w.queues)
			e.dispatch.wakeCanaries(w.queues)
			tries, gen := e.dispatch.round()
			for _, r := range e.claimsOf(tries[0]) {
				if r.SuspectsOnly {
					suspects++
				} else {
					others++
				}
			}
			e.dispatch.land(tries, gen, make([]leased, 1))
		}
		e.dispatch.leave(w)
		return suspects, others
	}
	for call := range int64(2) {
		if suspects, others := asked(call, job.KindCanary); others != 4 {
			t.Errorf("call %d of a canary: %d claims for suspects, %d for canaries", call, suspects, others)
		}
		if suspects, others := asked(call, "a", "k"); suspects != 2 || others != 2 {
			t.Errorf("call %d of a worker: %d claims for suspects, %d for kinds", call, suspects, others)
		}
	}
}

// A wake of a carried queue reaches those who ask for what no ref brings.
func TestWakesOfACarriedQueue(t *testing.T) {
	for _, tt := range []struct {
		name  string
		crew  crew
		kinds []string
		woken bool
	}{
		{"canary", crew{hands: 2, kinds: []string{"k"}, mixed: true}, []string{job.KindCanary}, false},
		{"kind of all", crew{hands: 2, kinds: []string{"k"}, mixed: true}, []string{"k"}, false},
		{"every kind", crew{hands: 2, every: true, mixed: true}, nil, false},
		{"kind of its own", crew{hands: 2, kinds: []string{"k"}, mixed: true}, []string{"a", "k"}, true},
		{"every kind where others take few", crew{hands: 2, kinds: []string{"k"}, mixed: true}, nil, true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			m := brokertest.NewMemory(0)
			e := New(nil, Config{Brokers: map[string]broker.Broker{"kafka": m}, DefaultRoute: "kafka"})
			e.routing.identity, e.routing.crews = "0123456789abcdef", map[string]crew{"q": tt.crew}
			c := newConsumer(e, "q", "kafka", m)
			c.up.Store(true)
			e.carry.consumers["q"] = c
			w := &waiter{queues: []string{"q"}, kinds: tt.kinds, max: 1, marks: make([]uint64, 1)}
			e.dispatch.waiters = []*waiter{w}
			e.rouse([]string{"q"})
			if woken := w.marks[0] > 0; woken != tt.woken {
				t.Errorf("woken: %v", woken)
			}
		})
	}
}

// On a server with carriers, workers of direct queues are none of theirs.
func TestWorkersOfDirectQueuesWakeNoCarrier(t *testing.T) {
	e := New(nil, Config{Brokers: map[string]broker.Broker{"kafka": brokertest.NewMemory(0)}})
	e.routing.identity, e.routing.routes = "0123456789abcdef", map[string]string{"carried": "kafka"}
	e.expectWorker([]string{"direct"})
	if len(e.carry.bell) > 0 {
		t.Error("a worker of a direct queue wakes the carriers' loop")
	}
	e.expectWorker([]string{"direct", "carried"})
	if len(e.carry.bell) == 0 {
		t.Error("a worker of a carried queue does not")
	}
	<-e.carry.bell
	e.carry.strange["carried"] = false
	e.expectWorker([]string{"carried"})
	if len(e.carry.bell) > 0 {
		t.Error("a worker of a queue that is strange already wakes the carriers' loop")
	}
}
