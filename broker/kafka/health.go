package kafka

import (
	"net"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
)

// health knows whether a client's last attempt to reach a broker went well. The client
// tries for ever and says nothing.
type health struct {
	mu  sync.Mutex
	err error
}

var (
	_ kgo.HookBrokerConnect = (*health)(nil)
	_ kgo.HookBrokerE2E     = (*health)(nil)
)

// OnBrokerConnect implements kgo.HookBrokerConnect.
func (h *health) OnBrokerConnect(_ kgo.BrokerMetadata, _ time.Duration, _ net.Conn, err error) {
	h.note(err)
}

// OnBrokerE2E implements kgo.HookBrokerE2E.
func (h *health) OnBrokerE2E(_ kgo.BrokerMetadata, _ int16, e kgo.BrokerE2E) { h.note(e.Err()) }

func (h *health) note(err error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.err = err
}

// down returns why no broker could be reached lately, or nil.
func (h *health) down() error {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.err
}
