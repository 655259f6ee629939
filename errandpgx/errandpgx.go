// Package errandpgx enqueues and completes jobs in the caller's own pgx
// transaction: the job exists if, and only if, the caller's other writes do.
// The transaction must be on the PostgreSQL database that is Errand's ledger.
package errandpgx

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/errandhq/errand"
)

// Tx is what the functions need: a pgx.Tx, or a *pgx.Conn or pool for a
// transaction of their own.
type Tx interface {
	QueryRow(ctx context.Context, sql string, args ...any) pgx.Row
}

// EnqueueTx stores a job when the caller's transaction commits, and returns the
// id of the job that stands for it, as Task.Enqueue does. Workers find it within the
// server's polling interval of the commit (half a second by default), or at
// once if Client.Wake is called after it.
//
// An error that is an *errand.Error is a refusal; as after every error of a
// statement, PostgreSQL has then aborted the transaction.
func EnqueueTx[T any](ctx context.Context, tx Tx, t *errand.Task[T], v T, opts ...errand.EnqueueOption) (errand.ID, error) {
	p, err := t.Params(v, opts...)
	if err != nil {
		return errand.ID{}, err
	}
	r, err := EnqueueParamsTx(ctx, tx, p)
	return r.ID, err
}

// EnqueueParamsTx is EnqueueTx for a job as plain data. State is not known.
func EnqueueParamsTx(ctx context.Context, tx Tx, p errand.EnqueueParams) (errand.EnqueueResult, error) {
	if p.TraceParent == "" {
		p.TraceParent, p.TraceState = errand.TraceFrom(ctx)
	}
	options, err := p.SQLOptions()
	if err != nil {
		return errand.EnqueueResult{}, err
	}
	var r errand.EnqueueResult
	if err := tx.QueryRow(ctx, errand.EnqueueSQL, p.Kind, p.Payload, options).Scan(&r.ID, &r.Duplicate); err != nil {
		return errand.EnqueueResult{}, refusal("enqueue", err)
	}
	return r, nil
}

// CompleteTx makes the job of a handler succeeded when the caller's transaction
// commits: the handler's writes and the end of its job are one. result, unless
// it is nil, is kept as JSON. The handler returns nil afterwards; if the
// transaction is rolled back, what the handler returns decides.
//
// It returns errand.ErrStale if the job has gone to another worker: roll back.
func CompleteTx(ctx context.Context, tx Tx, j *errand.RawJob, result any) error {
	var b []byte
	if result != nil {
		var err error
		if b, err = json.Marshal(result); err != nil {
			return fmt.Errorf("errand: result: %w", err)
		}
	}
	var first bool
	if err := tx.QueryRow(ctx, errand.CompleteSQL, j.ID.String(), j.Token, b).Scan(&first); err != nil {
		return refusal("complete", err)
	}
	return nil
}

// refusal makes an *errand.Error of what the functions raise.
func refusal(what string, err error) error {
	var pe *pgconn.PgError
	if errors.As(err, &pe) {
		err = errand.SQLError(pe.Code, pe.Message, pe.Detail, pe.Hint, err)
	}
	return fmt.Errorf("errand: %s in a transaction: %w", what, err)
}
