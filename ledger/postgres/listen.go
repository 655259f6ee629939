package postgres

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
)

// channel is the notification channel; a payload is the name of a queue.
const channel = "errand_wake"

// backends are the server's processes behind the pool's connections. A wake that
// comes from one of them is this process's own.
type backends struct {
	mu   sync.Mutex
	pids map[uint32]struct{}
}

// watch keeps the set for the connections of a pool to be. They leave it before
// they end, and so before their number is given again.
func (b *backends) watch(cfg *pgxpool.Config) {
	prepare := cfg.AfterConnect
	cfg.AfterConnect = func(ctx context.Context, conn *pgx.Conn) error {
		if err := prepare(ctx, conn); err != nil {
			return err
		}
		b.mu.Lock()
		defer b.mu.Unlock()
		b.pids[conn.PgConn().PID()] = struct{}{}
		return nil
	}
	cfg.BeforeClose = func(conn *pgx.Conn) {
		b.mu.Lock()
		defer b.mu.Unlock()
		delete(b.pids, conn.PgConn().PID())
	}
}

func (b *backends) has(pid uint32) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	_, ok := b.pids[pid]
	return ok
}

// wakeSQL does not wait for the disk: there is nothing in its transaction but the
// message, which would not outlive the server anyway.
const wakeSQL = `SELECT set_config('synchronous_commit', 'off', true), pg_notify($1, q) FROM unnest($2::text[]) AS u (q)`

// Wake implements ledger.Ledger by NOTIFY, in a transaction of its own.
func (l *Ledger) Wake(ctx context.Context, queues []string) error {
	if len(queues) == 0 {
		return nil
	}
	_, err := l.pool.Exec(ctx, wakeSQL, channel, queues)
	return wrap("wake", err)
}

// Listen implements ledger.Ledger, on a connection of its own that goes
// straight to the server. Once it listens it says "": what came before was not heard.
// It does not say what this process sent itself, but behind a pooler, where nobody knows who sent it.
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
			if ctx.Err() == nil {
				// Perhaps the server ended. Connections that died with it and were not used since
				// would stand for the processes that a new one gives the same numbers.
				l.pool.Reset()
			}
			return err
		}
		if !l.backends.has(n.PID) {
			fn(n.Payload)
		}
	}
}
