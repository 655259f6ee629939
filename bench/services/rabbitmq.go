package services

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	amqp "github.com/rabbitmq/amqp091-go"
)

// RabbitMQ starts one node, as its package sets it.
func RabbitMQ(ctx context.Context, parent string) (*Server, error) {
	owner, err := servant()
	if err != nil {
		return nil, err
	}
	dir, err := place(parent, "rabbitmq", owner)
	if err != nil {
		return nil, err
	}
	program := "/usr/lib/rabbitmq/bin/rabbitmq-server" // the one on PATH insists on a user of its own
	if _, err := os.Stat(program); err != nil {
		return nil, fmt.Errorf("RabbitMQ is not installed (Debian: rabbitmq-server): %w", err)
	}
	node, dist, e1 := twoPorts()
	epmd, e2 := freePort()
	if err := errors.Join(e1, e2); err != nil {
		return nil, err
	}
	cmd := exec.Command(program)
	cmd.SysProcAttr = apart(owner)
	cmd.Env = append(withoutRabbit(os.Environ()),
		"HOME="+dir, "ERL_EPMD_ADDRESS=127.0.0.1", fmt.Sprintf("ERL_EPMD_PORT=%d", epmd),
		fmt.Sprintf("RABBITMQ_NODENAME=bench%d@localhost", node), "RABBITMQ_NODE_IP_ADDRESS=127.0.0.1",
		fmt.Sprintf("RABBITMQ_NODE_PORT=%d", node), fmt.Sprintf("RABBITMQ_DIST_PORT=%d", dist),
		"RABBITMQ_MNESIA_BASE="+filepath.Join(dir, "mnesia"), "RABBITMQ_LOG_BASE="+filepath.Join(dir, "log"),
		"RABBITMQ_CONFIG_FILE="+filepath.Join(dir, "none"), "RABBITMQ_ENABLED_PLUGINS_FILE="+filepath.Join(dir, "plugins"),
		"RABBITMQ_CONF_ENV_FILE=/dev/null")
	address := fmt.Sprintf("amqp://guest:guest@127.0.0.1:%d/", node)
	version := ""
	s, err := launch(ctx, "rabbitmq", dir, cmd, func(context.Context) error {
		conn, err := amqp.Dial(address)
		if err != nil {
			return err
		}
		version = fmt.Sprint(conn.Properties["version"])
		return conn.Close()
	})
	if err != nil {
		return nil, err
	}
	s.Address, s.Version = address, "RabbitMQ "+version
	s.after = func() { // the port mapper that the node started outlives it
		_ = exec.Command("epmd", "-port", fmt.Sprint(epmd), "-kill").Run()
	}
	return s, nil
}

func twoPorts() (a, b int, err error) {
	a, e1 := freePort()
	b, e2 := freePort()
	return a, b, errors.Join(e1, e2)
}

// withoutRabbit drops what the caller's environment says of another node.
func withoutRabbit(env []string) []string {
	var out []string
	for _, v := range env {
		if !strings.HasPrefix(v, "RABBITMQ_") && !strings.HasPrefix(v, "HOME=") {
			out = append(out, v)
		}
	}
	return out
}
