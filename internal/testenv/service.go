package testenv

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"testing"
)

// Service is a server that a whole run of tests shares; program test/services
// starts it. For each part there is a function of one shape, which starts the
// server on a free loopback port, with its files in dir, and returns when it takes work:
//
//	func ServePostgres(dir string) (*Service, error)
type Service struct {
	Env     string // the environment variable by which tests find the server
	Address string // its value
	host    *host
}

// Stop ends the server and removes its files.
func (s *Service) Stop() error { return s.host.end() }

// Serve makes a service by a starter that was written for tests: start returns
// the address, and what it leaves with t.Cleanup is done at Stop.
func Serve(env string, start func(t testing.TB) string) (*Service, error) {
	s := &Service{Env: env, host: &host{ctx: context.Background()}}
	if s.host.run(func() { s.Address = start(s.host) }) {
		return s, nil
	}
	return nil, s.Stop()
}

// host stands in for a test where there is none. It has the methods that this
// package's starters call; any other panics.
type host struct {
	testing.TB
	ctx      context.Context
	failures []error
	cleanups []func()
}

// run calls f in a goroutine, which FailNow may end, and reports whether all went well.
func (h *host) run(f func()) bool {
	done := make(chan struct{})
	go func() { defer close(done); f() }()
	<-done
	return len(h.failures) == 0
}

// end does what was left with Cleanup, the latest first, and tells of all that failed.
func (h *host) end() error {
	for ; len(h.cleanups) > 0; h.cleanups = h.cleanups[:len(h.cleanups)-1] {
		h.run(h.cleanups[len(h.cleanups)-1])
	}
	return errors.Join(h.failures...)
}

func (h *host) Helper()                      {}
func (h *host) Context() context.Context     { return h.ctx }
func (h *host) Cleanup(f func())             { h.cleanups = append(h.cleanups, f) }
func (h *host) Failed() bool                 { return len(h.failures) > 0 }
func (h *host) Log(args ...any)              { h.Logf("%s", fmt.Sprint(args...)) }
func (h *host) Error(args ...any)            { h.Errorf("%s", fmt.Sprint(args...)) }
func (h *host) Errorf(f string, args ...any) { h.failures = append(h.failures, fmt.Errorf(f, args...)) }
func (h *host) Fatal(args ...any)            { h.Error(args...); h.FailNow() }
func (h *host) Fatalf(f string, args ...any) { h.Errorf(f, args...); h.FailNow() }
func (h *host) FailNow()                     { runtime.Goexit() }

// Logf keeps what a starter says of a server that failed.
func (h *host) Logf(f string, args ...any) {
	if h.Failed() {
		h.failures = append(h.failures, fmt.Errorf(f, args...))
	}
}
