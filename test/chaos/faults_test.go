package chaos

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	errand "github.com/errandhq/errand"
	"github.com/errandhq/errand/test/cluster"
)

// lane carries out the steps of one part, one after another, each at its time or as
// soon as the one before is over. None begins after the load, unless its fault has not
// happened yet.
func (w *world) lane(name string, steps []step) {
	for _, s := range steps {
		for wait := time.Until(w.began.Add(s.at)); wait > 0; wait = time.Until(w.began.Add(s.at)) {
			if name == "server" {
				w.supervise()
			}
			pause(w.T.Context(), min(wait, 200*time.Millisecond))
		}
		if time.Since(w.began) > load && w.happened(s.name()) || w.T.Context().Err() != nil {
			w.note("left out, for the load is over: %s", s)
			continue
		}
		w.carryOut(s)
	}
}

// supervise starts servers that have ended, as an init system does: one that finds
// no database at its start gives up.
func (w *world) supervise() {
	for n, s := range w.Servers {
		if s.Ended() {
			w.note("server %d had ended by itself and is started", n)
			s.Start()
		}
	}
}

// carryOut does what the step says.
func (w *world) carryOut(s step) {
	ctx, cancel := context.WithTimeout(w.T.Context(), 3*patience+s.last)
	defer cancel()
	gap := func() { pause(ctx, s.last) }
	said, err := "", error(nil)
	began := time.Since(w.began)
	switch s.lane {
	case "server":
		n := s.lot % len(w.Servers)
		said = fmt.Sprint(n)
		w.Servers[n].Kill()
		gap()
		w.Servers[n].Start()
	case "worker":
		n := s.lot % len(w.Workers)
		said = fmt.Sprint(n)
		w.Workers[n].Kill()
		gap()
		w.Workers[n].Start()
	case "postgres":
		w.Postgres.Kill()
		gap()
		w.Postgres.Start()
	case "redis":
		said, err = w.toRedis(s, gap)
	case "rabbitmq", "kafka":
		said, err = w.toCarrier(ctx, s, gap)
	case "line":
		said = w.toLine(s, gap)
	case "bridge":
		said = w.toBridge(gap)
	case "jobs":
		q := queues[s.lot%len(queues)]
		said = "of queue " + q
		w.burst(q, 600)
	}
	took := time.Since(w.began) - began
	if err != nil {
		w.note("%6.2fs %s: FAILED: %v", began.Seconds(), s.name(), err)
		return
	}
	w.note("%6.2fs %s %s, for %s and over after %.2fs", began.Seconds(), s.name(), said, s.last.Round(time.Millisecond), took.Seconds())
	w.mu.Lock()
	defer w.mu.Unlock()
	w.counts[s.name()]++
}

func (w *world) happened(fault string) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.counts[fault] > 0
}

func (w *world) toRedis(s step, gap func()) (string, error) {
	if s.what == "flush" {
		return w.redis.Do("FLUSHALL")
	}
	w.redis.Kill()
	gap()
	w.redis.Start()
	return "", nil
}

// toCarrier does something to messages, of which it first makes some, or to their broker.
func (w *world) toCarrier(ctx context.Context, s step, gap func()) (said string, err error) {
	var node cluster.Node = w.rabbit
	m, queue := w.meddle[s.lane], rabbitQueue
	if s.lane == "kafka" {
		node, queue = w.kafka, kafkaQueue
	}
	if s.what == "kill" {
		node.Kill()
		gap()
		node.Start()
		return "", nil
	}
	n := 0
	for try := 0; try < 3 && n == 0 && err == nil; try++ { // a quick consumer may leave none
		w.burst(queue, 300)
		switch s.what {
		case "purge":
			n, err = m.purge(ctx)
		case "double":
			n, err = m.double(ctx)
		case "drop":
			n, err = m.drop(ctx)
		case "delay":
			n, err = m.delay(ctx, s.last)
		}
	}
	if err == nil && n == 0 {
		err = errors.New("there were no messages")
	}
	return fmt.Sprintf("%d messages", n), err
}

func (w *world) toLine(s step, gap func()) string {
	l := w.lines[s.lot%len(w.lines)]
	switch s.what {
	case "cut":
		l.Cut(gap)
		return l.String()
	case "delay":
		l.Delay(time.Duration(20+s.lot%300) * time.Millisecond)
	case "swallow":
		l.Swallow()
	}
	gap()
	l.Heal()
	return l.String()
}

// toBridge cuts the island off. Without one the lines of half of the workers swallow all.
func (w *world) toBridge(gap func()) string {
	if w.island == nil {
		for _, l := range w.far {
			l.Swallow()
		}
		gap()
		for _, l := range w.far {
			l.Heal()
		}
		return "by lines"
	}
	w.island.Cut()
	gap()
	w.island.Join()
	return "of the island"
}

// burst puts a backlog into a queue.
func (w *world) burst(queue string, n int) {
	w.Burst(w.load, n, cluster.Order{Millis: 10}, errand.Queue(queue), errand.Priority(9))
}

// note keeps what was done, with the time.
func (w *world) note(format string, args ...any) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.done = append(w.done, fmt.Sprintf(format, args...))
}

// tell prints, of a run that failed, how to run it again and what happened.
func (w *world) tell(seed uint64, steps []step) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.T.Logf("what was done:\n%s", strings.Join(w.done, "\n"))
	if !w.T.Failed() {
		return
	}
	text := make([]string, len(steps))
	for i, s := range steps {
		text[i] = s.String()
	}
	w.T.Logf("seed %d. To run it again:\n\n\tERRAND_SEED=%d scripts/test-services go test -race ./test/chaos -run TestChaos -v\n\nthe schedule:\n%s",
		seed, seed, strings.Join(text, "\n"))
}
