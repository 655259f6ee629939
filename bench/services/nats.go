package services

import (
	"errors"
	"fmt"
	"path/filepath"

	natsserver "github.com/nats-io/nats-server/v2/server"
)

// NATS starts NATS in this process, with JetStream on disk, which syncs at its
// default interval.
func NATS(parent string) (*Server, error) {
	srv, err := natsserver.NewServer(&natsserver.Options{
		Host: "127.0.0.1", Port: natsserver.RANDOM_PORT, JetStream: true, StoreDir: filepath.Join(parent, "nats"), NoSigs: true, NoLog: true,
	})
	if err != nil {
		return nil, fmt.Errorf("NATS: %w", err)
	}
	srv.Start()
	s := &Server{Version: "NATS " + natsserver.VERSION, Stop: func() error {
		srv.Shutdown()
		srv.WaitForShutdown()
		return nil
	}}
	if !srv.ReadyForConnections(patience) {
		return nil, stopUnless(s, errors.New("NATS did not come up"))
	}
	s.Address = srv.ClientURL()
	return s, nil
}
