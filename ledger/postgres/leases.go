package postgres

import (
	"sync"

	"github.com/errandhq/errand/job"
	"github.com/errandhq/errand/ledger"
)

// leases are what this process knows of the jobs that it leased in blocks, so that a settle
// need not look for them. Knowing nothing is right, and slower: so all is forgotten when there is too much of it, for
// what other processes have ended stays.
type leases struct {
	mu    sync.Mutex
	jobs  map[job.ID]blockLease
	ended []*block // all of whose jobs this process has ended, and that are not yet removed
}

// maxLeases is how many leases are remembered; they take some 20 MB.
const maxLeases = 1 << 16

// blockLease is one job's lease in a block.
type blockLease struct {
	token int64
	block *block
	was   ledger.Succeeded // what its success will answer
}

// block is a row of lease_block that this process has committed.
type block struct {
	id, leasedAt int64
	left         int // of its jobs, those not known to have ended
}

func newLeases() *leases { return &leases{jobs: map[job.ID]blockLease{}} }

// add takes in the jobs of a block.
func (s *leases) add(b *block, jobs []*job.Job) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.jobs)+len(jobs) > maxLeases {
		clear(s.jobs)
	}
	for _, j := range jobs {
		s.jobs[j.ID] = blockLease{token: j.Token, block: b, was: ledger.Succeeded{
			OK: true, Queue: j.Queue, Kind: j.Kind, Priority: j.Priority, Attempt: j.Attempt, MaxAttempts: j.MaxAttempts,
			Crashes: j.Crashes, Version: j.Version + 1, CreatedAt: j.CreatedAt, RunAt: j.RunAt, LeasedAt: j.LeasedAt,
		}}
	}
}

// known returns what the success of each item will answer, the zero Succeeded for those of which nothing
// is known.
func (s *leases) known(items []ledger.Success) []ledger.Succeeded {
	were := make([]ledger.Succeeded, len(items))
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.jobs) == 0 {
		return were
	}
	for i := range items {
		if l, ok := s.jobs[items[i].ID]; ok && l.token == items[i].Token {
			were[i] = l.was
		}
	}
	return were
}

// end forgets a lease of a job, by its token: the job may have another one meanwhile. gone says that it
// was committed that the job is in the block no longer; else it may be, and whoever removes the block looks.
func (s *leases) end(id job.ID, token int64, gone bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	l, ok := s.jobs[id]
	if !ok || l.token != token {
		return
	}
	delete(s.jobs, id)
	if !gone {
		return
	}
	if l.block.left--; l.block.left == 0 {
		s.ended = append(s.ended, l.block)
	}
}

// takeEnded returns the blocks that are to be removed; giveBack those that were not.
func (s *leases) takeEnded() []*block {
	s.mu.Lock()
	defer s.mu.Unlock()
	ended := s.ended
	s.ended = nil
	return ended
}

func (s *leases) giveBack(ended []*block) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.ended = append(s.ended, ended...)
}
