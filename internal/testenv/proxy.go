package testenv

import (
	"net"
	"sync"
	"testing"
	"time"
)

// Proxy stands between a client and a server, byte for byte, and is the network that
// fails between them. It ends with the test. Its methods are safe for concurrent use.
type Proxy struct {
	target string
	listen net.Listener

	mu    sync.Mutex
	conns map[net.Conn]bool
	away  bool
	slow  time.Duration
	gate  chan struct{} // closed: bytes pass
	done  sync.WaitGroup
}

// StartProxy starts a proxy before the server at host:port.
func StartProxy(t testing.TB, target string) *Proxy {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := &Proxy{target: target, listen: l, conns: map[net.Conn]bool{}, gate: make(chan struct{})}
	close(p.gate)
	p.done.Go(p.accept)
	t.Cleanup(func() {
		_ = l.Close()
		p.Thaw()
		p.Away()
		p.done.Wait()
	})
	return p
}

// Address returns host:port, where clients connect instead of to the server.
func (p *Proxy) Address() string { return p.listen.Addr().String() }

// Cut breaks all connections; new ones succeed.
func (p *Proxy) Cut() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for c := range p.conns {
		_ = c.Close()
	}
	clear(p.conns)
}

// Away breaks all connections, and new ones as soon as they are made, until Back.
func (p *Proxy) Away() {
	p.mu.Lock()
	p.away = true
	p.mu.Unlock()
	p.Cut()
}

// Back ends what Away began.
func (p *Proxy) Back() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.away = false
}

// Freeze leaves all connections open, old and new, and lets nothing pass until Thaw.
func (p *Proxy) Freeze() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.gate = make(chan struct{})
}

// Thaw ends what Freeze began; nothing was lost.
func (p *Proxy) Thaw() {
	p.mu.Lock()
	defer p.mu.Unlock()
	select {
	case <-p.gate:
	default:
		close(p.gate)
	}
}

// Slow holds whatever passes, in either direction, for so long; 0 ends it.
func (p *Proxy) Slow(by time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.slow = by
}

func (p *Proxy) accept() {
	for {
		client, err := p.listen.Accept()
		if err != nil {
			return
		}
		server, err := net.Dial("tcp", p.target)
		if err != nil || !p.keep(client, server) {
			_ = client.Close()
			if server != nil {
				_ = server.Close()
			}
			continue
		}
		p.done.Go(func() { p.copy(client, server) })
		p.done.Go(func() { p.copy(server, client) })
	}
}

func (p *Proxy) keep(conns ...net.Conn) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.away {
		return false
	}
	for _, c := range conns {
		p.conns[c] = true
	}
	return true
}

func (p *Proxy) copy(to, from net.Conn) {
	defer to.Close()
	defer from.Close()
	buf := make([]byte, 32<<10)
	for {
		n, err := from.Read(buf)
		if err != nil {
			return
		}
		p.mu.Lock()
		gate, slow := p.gate, p.slow
		p.mu.Unlock()
		<-gate
		if slow > 0 {
			time.Sleep(slow)
		}
		if _, err := to.Write(buf[:n]); err != nil {
			return
		}
	}
}
