package meter

import "sync"

// Other is the label that stands for all queues, or kinds, beyond the bound.
const Other = "other"

// Pair is a queue and a kind.
type Pair struct{ Queue, Kind string }

// PairsPerName bounds, times the number of names, the pairs of queue and kind: few queues have jobs of
// every kind.
const PairsPerName = 3

// Folder bounds how many queues, kinds and pairs of them have labels of their
// own: whoever comes too late, for the life of the process, is "other". So a
// producer that invents kinds costs a bounded number of series.
type Folder struct {
	most int

	mu     sync.RWMutex
	queues map[string]bool
	kinds  map[string]bool
	pairs  map[Pair]bool
}

// NewFolder returns a Folder that tells most queues and most kinds apart.
func NewFolder(most int) *Folder {
	return &Folder{most: most, queues: map[string]bool{}, kinds: map[string]bool{}, pairs: map[Pair]bool{}}
}

// Pair returns the names under which a queue and kind are counted.
func (f *Folder) Pair(queue, kind string) Pair {
	p := Pair{queue, kind}
	f.mu.RLock()
	known := f.pairs[p]
	f.mu.RUnlock()
	if known {
		return p
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	p = Pair{admit(f.queues, queue, f.most), admit(f.kinds, kind, f.most)}
	if !f.pairs[p] && len(f.pairs) >= PairsPerName*f.most {
		p.Kind = Other
	}
	f.pairs[p] = true // beyond the bound: one more a queue at most
	return p
}

// Queue returns the name under which a queue is counted.
func (f *Folder) Queue(name string) string {
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
