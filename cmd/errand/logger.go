package main

import (
	"io"
	"log/slog"

	"github.com/errandhq/errand/internal/config"
)

// newLogger writes logs for people or for machines, from the level on that it
// returns, which may be changed at any time.
func newLogger(w io.Writer, conf config.Server) (*slog.Logger, *slog.LevelVar) {
	level := new(slog.LevelVar)
	level.Set(conf.Level())
	opts := &slog.HandlerOptions{Level: level}
	if conf.LogFormat == "json" {
		return slog.New(slog.NewJSONHandler(w, opts)), level
	}
	return slog.New(slog.NewTextHandler(w, opts)), level
}

// toggle turns debug on, or back to the level that was set.
func toggle(log *slog.Logger, level *slog.LevelVar, set slog.Level) {
	if level.Level() == slog.LevelDebug {
		level.Set(max(set, slog.LevelInfo))
	} else {
		level.Set(slog.LevelDebug)
	}
	log.Warn("log level changed", "level", level.Level().String())
}
