// Package services starts the servers that are measured against each other, as
// durable as a person would run them, on free loopback ports, and stops them again.
//
// They are not the servers of a test run: those have PostgreSQL without fsync,
// which would flatter everything that is built on it. The starters are the same.
package services

import (
	"context"
	"fmt"
	"testing"

	"github.com/jackc/pgx/v5"
	amqp "github.com/rabbitmq/amqp091-go"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/errandhq/errand/internal/testenv"
)

// Server is a server that was started here.
type Server struct {
	Address string
	Version string
	Stop    func() error
}

// Postgres starts PostgreSQL at its default durability: fsync, full_page_writes
// and synchronous_commit are on. Only its memory is more than the default.
func Postgres(ctx context.Context, dir string) (*Server, error) {
	s, err := testenv.Serve("", func(t testing.TB) string {
		return testenv.StartPostgres(t, testenv.Options{Dir: dir, Settings: map[string]string{"shared_buffers": "1GB"}}).DSN("postgres")
	})
	if err != nil {
		return nil, err
	}
	out := &Server{Address: s.Address, Stop: s.Stop}
	return out, stopUnless(out, withConn(ctx, out.Address, func(conn *pgx.Conn) error {
		return conn.QueryRow(ctx, "SELECT 'PostgreSQL ' || current_setting('server_version')").Scan(&out.Version)
	}))
}

// RabbitMQ starts one node as its package sets it, but for schedulers that sleep when they are idle.
func RabbitMQ(dir string) (*Server, error) {
	s, err := testenv.Serve("", func(t testing.TB) string {
		return testenv.StartRabbitMQ(t, testenv.RabbitMQOptions{Dir: dir}).URL()
	})
	if err != nil {
		return nil, err
	}
	out := &Server{Address: s.Address, Stop: s.Stop}
	conn, err := amqp.Dial(out.Address)
	if err != nil {
		return out, stopUnless(out, err)
	}
	out.Version = fmt.Sprint("RabbitMQ ", conn.Properties["version"])
	return out, stopUnless(out, conn.Close())
}

// Kafka starts one broker with the settings that it comes with.
func Kafka(dir string) (*Server, error) {
	s, err := testenv.Serve("", func(t testing.TB) string {
		return testenv.StartKafka(t, testenv.KafkaOptions{Dir: dir}).Address()
	})
	if err != nil {
		return nil, err
	}
	out := &Server{Address: s.Address, Version: "Kafka", Stop: s.Stop}
	conn, err := kgo.NewClient(kgo.SeedBrokers(out.Address))
	if err != nil {
		return out, stopUnless(out, err)
	}
	defer conn.Close()
	brokers, err := kadm.NewClient(conn).ApiVersions(context.Background())
	for _, b := range brokers {
		out.Version = "Kafka " + b.VersionGuess()
	}
	return out, stopUnless(out, err)
}

// stopUnless stops a server that turned out to be of no use.
func stopUnless(s *Server, err error) error {
	if err != nil {
		_ = s.Stop() // the first error is the one to tell
	}
	return err
}

// Database makes an empty database on the server, with nothing of the last one
// left to be written out, and returns its address.
func Database(ctx context.Context, s *Server, name string) (address string, drop func() error, err error) {
	err = withConn(ctx, s.Address, func(conn *pgx.Conn) error {
		for _, sql := range []string{"CREATE DATABASE " + name, "CHECKPOINT"} {
			if _, err := conn.Exec(ctx, sql); err != nil {
				return fmt.Errorf("%s: %w", sql, err)
			}
		}
		c := conn.Config()
		address = fmt.Sprintf("postgres://%s@%s:%d/%s?sslmode=disable", c.User, c.Host, c.Port, name)
		return nil
	})
	return address, func() error {
		ctx := context.WithoutCancel(ctx)
		return withConn(ctx, s.Address, func(conn *pgx.Conn) error {
			_, err := conn.Exec(ctx, "DROP DATABASE "+name+" WITH (FORCE)")
			return err
		})
	}, err
}

func withConn(ctx context.Context, address string, do func(*pgx.Conn) error) error {
	conn, err := pgx.Connect(ctx, address)
	if err != nil {
		return err
	}
	defer conn.Close(ctx)
	return do(conn)
}
