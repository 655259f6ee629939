package metrics

import "sync"

// pair is a queue and a kind.
type pair struct{ queue, kind string }

// pairsPerName bounds the pairs of queue and kind: few queues have jobs of
// every kind.
const pairsPerName = 3

// folder bounds how many queues, kinds and pairs of them have labels of their
// own: whoever comes too late, for the life of the process, is "other". So a
// producer that invents kinds costs a bounded number of series.
type folder struct {
	most int

	mu     sync.RWMutex
	queues map[string]bool
	kinds  map[string]bool
	pairs  map[pair]bool
}

func newFolder(most int) *folder {
	return &folder{most: most, queues: map[string]bool{}, kinds: map[string]bool{}, pairs: map[pair]bool{}}
}

// pair returns the names under which a queue and kind are counted.
func (f *folder) pair(queue, kind string) pair {
	p := pair{queue, kind}
	f.mu.RLock()
	known := f.pairs[p]
	f.mu.RUnlock()
	if known {
		return p
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	p = pair{admit(f.queues, queue, f.most), admit(f.kinds, kind, f.most)}
	if !f.pairs[p] && len(f.pairs) >= pairsPerName*f.most {
		p.kind = Other
	}
	f.pairs[p] = true // beyond the bound: one more a queue at most
	return p
}

// queue returns the name under which a queue is counted.
func (f *folder) queue(name string) string {
	f.mu.RLock()
	known := f.queues[name]
	f.mu.RUnlock()
	if known {
		return name
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	return admit(f.queues, name, f.most)
}

func admit(known map[string]bool, name string, most int) string {
	switch {
	case known[name]:
		return name
	case len(known) >= most:
		return Other
	}
	known[name] = true
	return name
}
