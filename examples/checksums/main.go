//go:build unix

// Command checksums is Errand's demonstration on real input, and a small
// example of a program around it. Every regular file below a directory becomes a
// job; workers in processes of their own hash them; one of these is killed in
// the middle, with kill -9, while it holds jobs; one job always fails and ends
// in the dead letters. At the end every answer is compared with sha256sum's.
//
// "make demo" runs it on the repository itself, DEMO_DIR=… on another directory.
// It leaves nothing running and no file behind, and exits 0 only if all is as it
// should be.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"runtime"
	"syscall"
	"time"
)

func main() {
	// Children are bound to the life of the thread that started them (see
	// process_linux.go): the main thread, which lives as long as the program.
	runtime.LockOSThread()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	defer stop()
	var o options
	flag.StringVar(&o.dir, "dir", "", "directory whose files are hashed (default: $DEMO_DIR, else this one)")
	flag.StringVar(&o.errand, "errand", "", "the errand binary (default: built by go)")
	flag.IntVar(&o.workers, "workers", 4, "worker processes, at least 2")
	flag.StringVar(&o.server, "worker", "", "be a worker of the server at this address")
	flag.StringVar(&o.name, "name", "", "with -worker: its name")
	flag.DurationVar(&o.pace, "pace", 0, "with -worker: the least time that a job takes")
	flag.Parse()
	os.Exit(exitStatus(ctx, o))
}

// options are the command line.
type options struct {
	dir, errand string
	workers     int

	server, name string // of a worker
	pace         time.Duration
}

func exitStatus(ctx context.Context, o options) int {
	if o.dir == "" {
		o.dir = os.Getenv("DEMO_DIR")
	}
	if o.dir == "" {
		o.dir = "."
	}
	var err error
	switch {
	case flag.NArg() > 0:
		err = fmt.Errorf("unexpected argument %q", flag.Arg(0))
	case o.server != "":
		err = work(ctx, o)
	case o.workers < 2:
		err = errors.New("-workers must be at least 2: one of them is killed")
	default:
		err = demonstrate(ctx, o)
	}
	switch {
	case err == nil:
		return 0
	case ctx.Err() != nil:
		fmt.Fprintln(os.Stderr, "demo: interrupted, everything is stopped and removed")
		return 130
	}
	fmt.Fprintln(os.Stderr, "demo:", err)
	return 1
}
