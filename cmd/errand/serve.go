package main

import (
	"context"
	"errors"
	"os"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/errandhq/errand/internal/config"
)

const serveLong = `Start a server: by default on 127.0.0.1:7420, for programs of this machine, with
the ledger in the file errand.db of the data directory.

Every flag can also be set by an environment variable (ERRAND_ and its name in
capitals, ERRAND_SESSION_TTL for --session-ttl), or in a TOML file (--config,
session_ttl = "30s"). A flag wins over the environment, and that over the file.

An address that other machines can reach is refused without --auth-token-file
and TLS. SIGTERM and Ctrl-C drain: the server turns not ready, ends the calls
under way and stops; workers go on with another server, or wait for this one.
SIGUSR1 turns debug logs on, and off again.

With -o json one line {"url","ledger","pid"} is printed when it listens.`

func newServe(a *app) *cobra.Command {
	cmd := &cobra.Command{Use: "serve", Short: "Start a server", Long: serveLong, Args: noArgs}
	source := config.Bind(cmd.Flags())
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		conf, err := source.Load(os.Environ())
		if err != nil {
			return &exitError{code: exitUsage, err: err}
		}
		return a.serve(cmd.Context(), conf)
	}
	return cmd
}

func (a *app) serve(ctx context.Context, conf config.Server) error {
	log, level := newLogger(a.stderr, conf)
	n, err := newNode(ctx, conf, log)
	if err != nil {
		return err
	}
	defer switchLevel(log, level, conf.Level())()
	addr, _ := conf.LedgerAddress() // newNode has opened it
	answer := struct {
		URL    string `json:"url"`
		Ledger string `json:"ledger"`
		PID    int    `json:"pid"`
	}{n.server.URL(), addr.String(), os.Getpid()}
	err = a.out.value(answer, func() {
		a.out.linef("errand %s listens on %s, ledger %s", thisVersion().Version, answer.URL, answer.Ledger)
	})
	if err != nil {
		return errors.Join(err, n.close())
	}
	if err := n.run(ctx); err != nil {
		return err
	}
	return orderly(ctx)
}

// orderly is how a server or worker that drained ends: well, if a supervisor
// asked for it by SIGTERM, as interrupted, if a person did by Ctrl-C.
func orderly(ctx context.Context) error {
	var sig interrupted
	if errors.As(context.Cause(ctx), &sig) && sig.sig != syscall.SIGTERM {
		return sig
	}
	return nil
}
