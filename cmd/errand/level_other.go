//go:build !unix

package main

import "log/slog"

// switchLevel does nothing where there are no signals.
func switchLevel(*slog.Logger, *slog.LevelVar, slog.Level) (stop func()) { return func() {} }
