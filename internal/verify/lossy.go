package verify

import (
	"context"
	"errors"
	"math/rand/v2"
	"sync"

	"connectrpc.com/connect"

	errand "github.com/errandhq/errand"
	errandv1 "github.com/errandhq/errand/gen/errand/v1"
)

// lossy is a service on whose way back answers get lost: the call was carried out,
// and who made it sees a broken connection, and repeats it. Some settles are sent twice.
type lossy struct {
	errand.Service

	mu            sync.Mutex
	rng           *rand.Rand
	lost, doubled int
}

func newLossy(svc errand.Service, seed uint64) *lossy {
	return &lossy{Service: svc, rng: rand.New(rand.NewPCG(seed, 1))}
}

var errLost = errors.New("verify: this answer was lost on purpose")

// lose decides about an answer: one in n is lost.
func (l *lossy) lose(n int, err error) error {
	if err != nil {
		return err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.rng.IntN(n) != 0 {
		return nil
	}
	l.lost++
	return connect.NewError(connect.CodeUnavailable, errLost)
}

// twice decides about a settle.
func (l *lossy) twice() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.rng.IntN(5) != 0 {
		return false
	}
	l.doubled++
	return true
}

func (l *lossy) counts() (lost, doubled int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.lost, l.doubled
}

// Enqueue implements errand.Service.
func (l *lossy) Enqueue(ctx context.Context, r *errandv1.EnqueueRequest) (*errandv1.EnqueueResponse, error) {
	resp, err := l.Service.Enqueue(ctx, r)
	return resp, l.lose(4, err)
}

// Lease implements errand.Service.
func (l *lossy) Lease(ctx context.Context, r *errandv1.LeaseRequest) (*errandv1.LeaseResponse, error) {
	resp, err := l.Service.Lease(ctx, r)
	return resp, l.lose(10, err)
}

// Extend implements errand.Service.
func (l *lossy) Extend(ctx context.Context, r *errandv1.ExtendRequest) (*errandv1.ExtendResponse, error) {
	resp, err := l.Service.Extend(ctx, r)
	return resp, l.lose(10, err)
}

// Settle implements errand.Service.
func (l *lossy) Settle(ctx context.Context, r *errandv1.SettleRequest) (*errandv1.SettleResponse, error) {
	resp, err := l.Service.Settle(ctx, r)
	if err == nil && l.twice() {
		resp, err = l.Service.Settle(ctx, r)
	}
	return resp, l.lose(5, err)
}
