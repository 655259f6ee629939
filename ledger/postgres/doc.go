// Package postgres keeps the ledger in PostgreSQL, in a schema of its own
// named errand, for any number of processes alike.
//
// How the hot path goes:
//
//   - An insert is one COPY with its counter deltas: it updates and locks no row.
//   - A claim reads each lane (queue, kind, priority) from an in-memory
//     low-water mark on, takes rows by FOR UPDATE SKIP LOCKED and updates them by
//     their place (ctid). Marks, and how late commits are found: see marks.go. A claim
//     of many jobs writes one row for all of them instead: see blocks.go.
//   - Succeed is one statement that moves rows into the archive.
//   - Apply, for everything else, locks rows, lets the caller decide, and
//     writes back by arrays or COPY.
//
// Everything that a transaction needs of its session is set inside it, so that
// PgBouncer in transaction mode may stand in between (Options.Pooler).
package postgres
