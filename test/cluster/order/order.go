// Package order is what the tests and their worker process say to each other:
// the payload of a job, and the log of its runs.
package order

import "golang.org/x/sys/unix"

// Kind is the kind of the jobs that the test worker takes.
const Kind = "test.order"

// Order is the payload of a test job: what its handler shall do, in this order.
type Order struct {
	Die     bool   `json:"die,omitempty"`     // kill the worker process
	Millis  int    `json:"millis,omitempty"`  // take so long
	Deaf    bool   `json:"deaf,omitempty"`    // ignore cancellation meanwhile
	Discard bool   `json:"discard,omitempty"` // return Discard
	Fails   int    `json:"fails,omitempty"`   // fail so many first attempts
	N       int    `json:"n,omitempty"`       // ballast, to tell orders apart
	Pad     string `json:"pad,omitempty"`     // ballast, to fill a disk
}

// Run is a line of a worker's log: a handler has begun or ended.
type Run struct {
	Event   string `json:"event"`  // start or end
	Worker  int    `json:"worker"` // process id
	Job     string `json:"job"`
	Token   int64  `json:"token"`
	Attempt int    `json:"attempt"`
	At      int64  `json:"at"` // Monotonic
	Error   string `json:"error,omitempty"`
}

// Monotonic is the machine's monotonic clock in nanoseconds: the same for all
// processes.
func Monotonic() int64 {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &ts); err != nil {
		panic(err) // cannot happen: the clock exists on every unix
	}
	return ts.Nano()
}
