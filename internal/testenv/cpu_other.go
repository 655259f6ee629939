//go:build unix && !linux

package testenv

import (
	"errors"
	"time"
)

// CPU needs Linux.
func (s *Server) CPU() time.Duration {
	s.t.Helper()
	s.t.Fatal("the processor time of a server's processes is read from /proc, which only Linux has")
	return 0
}

// CPUOf needs Linux.
func CPUOf(int) (time.Duration, error) { return 0, errors.ErrUnsupported }
