//go:build unix

package main

import (
	"log/slog"
	"os"
	"os/signal"
	"syscall"
)

// switchLevel turns debug logs on and off at SIGUSR1, until stop. A signal
// needs no token, no port and no call that could be left open: whoever may send
// it may read the log as well.
func switchLevel(log *slog.Logger, level *slog.LevelVar, set slog.Level) (stop func()) {
	usr1, done := make(chan os.Signal, 1), make(chan struct{})
	signal.Notify(usr1, syscall.SIGUSR1)
	go func() {
		defer close(done)
		for range usr1 {
			toggle(log, level, set)
		}
	}()
	return func() {
		signal.Stop(usr1)
		close(usr1)
		<-done
	}
}
