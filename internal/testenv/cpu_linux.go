package testenv

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"time"
)

// tick is the unit of processor times in /proc, on every architecture.
const tick = 10 * time.Millisecond

// CPU is the processor time that the server has taken so far, with all its
// processes, those that have ended too.
func (s *Server) CPU() time.Duration {
	s.t.Helper()
	main := s.proc.cmd.Process.Pid
	all, err := filepath.Glob("/proc/[0-9]*/stat")
	if err != nil {
		s.t.Fatal(err)
	}
	var sum time.Duration
	for _, path := range all {
		one, err := readStat(path)
		if err != nil {
			continue // it has ended: its time is its parent's now
		}
		switch main {
		case one.pid:
			sum += one.own + one.ended
		case one.parent:
			sum += one.own
		}
	}
	return sum
}

// CPUOf is the processor time that a process has taken so far.
func CPUOf(pid int) (time.Duration, error) {
	one, err := readStat(fmt.Sprintf("/proc/%d/stat", pid))
	return one.own, err
}

// stat is what /proc tells of a process.
type stat struct {
	pid, parent int
	own, ended  time.Duration // its own time, and that of children that were waited for
}

func readStat(path string) (s stat, err error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return s, err
	}
	var n [15]int // the fields after the name, which may hold anything; the first is a letter
	f := bytes.Fields(b[bytes.LastIndexByte(b, ')')+1:])
	if len(f) < len(n) {
		return s, fmt.Errorf("%s: %q", path, b)
	}
	for i := 1; i < len(n); i++ {
		if n[i], err = strconv.Atoi(string(f[i])); err != nil {
			return s, fmt.Errorf("%s: %w", path, err)
		}
	}
	s.pid, err = strconv.Atoi(filepath.Base(filepath.Dir(path)))
	s.parent = n[1]
	s.own, s.ended = time.Duration(n[11]+n[12])*tick, time.Duration(n[13]+n[14])*tick
	return s, err
}
