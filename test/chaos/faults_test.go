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

// carryOut does what the step says, and notes it.
func (w *world) carryOut(s step) {
	ctx, cancel := context.WithTimeout(w.T.Context(), 3*patience+s.last)
	defer cancel()
	began := time.Since(w.began)
	said, err := w.do(ctx, s, func() { pause(ctx, s.last) })
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

// do does to its victim what the step says; gap takes as long as it is to last.
func (w *world) do(ctx context.Context, s step, gap func()) (said string, err error) {
	kill := func(n cluster.Node) { n.Kill(); gap(); n.Start() }
	switch s.lane {
	case "server":
		n := s.lot % len(w.Servers)
		kill(w.Servers[n])
		return fmt.Sprint(n), nil
	case "worker":
		n := s.lot % len(w.Workers)
		kill(w.Workers[n])
		return fmt.Sprint(n), nil
	case "postgres":
		kill(w.Postgres)
		return "", nil
	case "redis":
		if s.what == "flush" {
			return w.redis.Do("FLUSHALL")
		}
		kill(w.redis)
		return "", nil
	case "rabbitmq", "kafka":
		if s.what != "kill" {
			return w.toMessages(ctx, s)
		}
		kill(map[string]cluster.Node{"rabbitmq": w.rabbit, "kafka": w.kafka}[s.lane])
		return "", nil
	case "line":
		return w.toLine(s, gap), nil
	case "bridge":
		return w.toBridge(gap), nil
	}
	queue := queues[s.lot%len(queues)]
	w.burst(queue, 600)
	return "of queue " + queue, nil
}

func (w *world) happened(fault string) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.counts[fault] > 0
}

// toMessages does something to messages of a carrier, of which it first makes some.
func (w *world) toMessages(ctx context.Context, s step) (said string, err error) {
	m, queue := w.meddle[s.lane], map[string]string{"rabbitmq": rabbitQueue, "kafka": kafkaQueue}[s.lane]
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
