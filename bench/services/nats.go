package services

import (
	"errors"
	"fmt"
	"path/filepath"

	natsserver "github.com/nats-io/nats-server/v2/server"
)

// NATS is a NATS server in this process.
type NATS struct {
	Address string
	Version string
	server  *natsserver.Server
}

// StartNATS starts NATS with JetStream on disk, which syncs at its default interval.
func StartNATS(parent string) (*NATS, error) {
	srv, err := natsserver.NewServer(&natsserver.Options{
		Host: "127.0.0.1", Port: natsserver.RANDOM_PORT, JetStream: true, StoreDir: filepath.Join(parent, "nats"), NoSigs: true, NoLog: true,
	})
	if err != nil {
		return nil, fmt.Errorf("NATS: %w", err)
	}
	srv.Start()
	if !srv.ReadyForConnections(startPatience) {
		srv.Shutdown()
		return nil, errors.New("NATS did not come up")
	}
	return &NATS{Address: srv.ClientURL(), Version: "NATS " + natsserver.VERSION, server: srv}, nil
}

// Stop ends the server.
func (n *NATS) Stop() error {
	n.server.Shutdown()
	n.server.WaitForShutdown()
	return nil
}
