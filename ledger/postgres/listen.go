package postgres

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
)

// channel is the notification channel; a payload is the name of a queue.
const channel = "errand_wake"

// Wake implements ledger.Ledger by NOTIFY, in a transaction of its own.
func (l *Ledger) Wake(ctx context.Context, queues []string) error {
	if len(queues) == 0 {
		return nil
	}
	_, err := l.pool.Exec(ctx, "SELECT pg_notify($1, q) FROM unnest($2::text[]) AS u (q)", channel, queues)
	return wrap("wake", err)
}

// Listen implements ledger.Ledger, on a connection of its own that goes
// straight to the server. Once it listens it says "": what came before was not heard.
func (l *Ledger) Listen(ctx context.Context, fn func(queue string)) error {
	if l.listenDSN == "" {
		<-ctx.Done()
		return nil
	}
	err := l.listen(ctx, fn)
	if ctx.Err() != nil {
		return nil
	}
	return wrap("listen", err)
}

func (l *Ledger) listen(ctx context.Context, fn func(queue string)) error {
	cfg, err := pgx.ParseConfig(l.listenDSN)
	if err != nil {
		return fmt.Errorf("the address to listen on: %w", err)
	}
	if cfg.ConnectTimeout == 0 {
		cfg.ConnectTimeout = 5 * time.Second
	}
	conn, err := pgx.ConnectConfig(ctx, cfg)
	if err != nil {
		return err
	}
	defer func() {
		closing, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		_ = conn.Close(closing) // the line's own error is the one to tell
	}()
	if _, err := conn.Exec(ctx, "LISTEN "+channel); err != nil {
		return err
	}
	fn("")
	for {
		n, err := conn.WaitForNotification(ctx)
		if err != nil {
			return err
		}
		fn(n.Payload)
	}
}
