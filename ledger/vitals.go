package ledger

import (
	"context"
	"time"
)

// Examined is a ledger that can say how its database fares. It is no part of
// Ledger, for nothing is decided by it: whoever shows it to people asks the
// ledger that was opened whether it is one.
type Examined interface {
	// Vitals reads the signs of life, at the cost of a few catalogue look-ups:
	// neither jobs nor dead rows are counted.
	Vitals(ctx context.Context) (Vitals, error)
}

// Vitals are the signs by which an operator sees a database fall ill before
// jobs are late. What a database does not have is nil or zero.
type Vitals struct {
	Bytes      int64     // on disk: all that belongs to the ledger
	OldestDead time.Time // when the oldest dead letter died; zero: there is none
	Vacuum     *Vacuum
}

// Vacuum says what keeps dead rows where they are (PostgreSQL).
type Vacuum struct {
	XminAge     int64         // transactions that began since the oldest one that somebody may still see
	OldestOpen  time.Duration // how long the oldest open transaction that holds it lasts; zero: none, or not ours to see
	DeadRows    int64         // of the table of live jobs, as the server estimates
	LiveRows    int64
	LastCleaned time.Time // when that table was last vacuumed; zero: never
}

// Pooled is a ledger that works over a pool of connections.
type Pooled interface {
	// Pool tells of the pool, from memory: also while no connection is to be had.
	Pool() Pool
}

// Pool is the state of this process's connections.
type Pool struct {
	Max, Open, Busy int
	Waits           int64         // since the start: calls that got a connection after waiting for one,
	Waited          time.Duration // and how long they waited, together
	GaveUp          int64         // since the start: calls that got none in their time
}
