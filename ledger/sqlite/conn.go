package sqlite

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"fmt"
	"io"

	"github.com/errandhq/errand/job"
)

// conn is the writer's connection. It speaks to the driver without database/sql
// between: the hot statements move some forty values a job, and the pool's
// conversions would cost as much as SQLite itself. One goroutine at a time.
type conn struct {
	raw   driver.Conn
	stmts map[string]*stmt
	args  []driver.NamedValue
}

type stmt struct {
	driver.Stmt
	exec  driver.StmtExecContext
	query driver.StmtQueryContext
	row   []driver.Value
}

func newConn(raw driver.Conn) *conn {
	return &conn{raw: raw, stmts: make(map[string]*stmt)}
}

// prepare returns the statement of that text, prepared once for the life of the
// connection. Texts come from a small fixed set, except for the names of
// archive slices: forget drops those.
func (c *conn) prepare(text string) (*stmt, error) {
	if s, ok := c.stmts[text]; ok {
		return s, nil
	}
	ds, err := c.raw.Prepare(text)
	if err != nil {
		return nil, err
	}
	s := &stmt{Stmt: ds}
	var ok1, ok2 bool
	s.exec, ok1 = ds.(driver.StmtExecContext)
	s.query, ok2 = ds.(driver.StmtQueryContext)
	if !ok1 || !ok2 {
		return nil, fmt.Errorf("sqlite: %T cannot execute", ds)
	}
	c.stmts[text] = s
	return s, nil
}

// forget closes all prepared statements.
func (c *conn) forget() error {
	var errs []error
	for text, s := range c.stmts {
		errs = append(errs, s.Close())
		delete(c.stmts, text)
	}
	return errors.Join(errs...)
}

func (c *conn) close() error {
	return errors.Join(c.forget(), c.raw.Close())
}

// bind turns arguments into the driver's form. The slice is used again by the
// next statement: the driver copies what it binds.
func (c *conn) bind(args []any) []driver.NamedValue {
	c.args = c.args[:0]
	for i, a := range args {
		c.args = append(c.args, driver.NamedValue{Ordinal: i + 1, Value: a})
	}
	return c.args
}

// exec runs a statement, whose arguments must be of the driver's own types, and
// returns how many rows it changed. No context reaches the driver: an
// interrupt could end a transaction that others share.
func (c *conn) exec(text string, args ...any) (int64, error) {
	s, err := c.prepare(text)
	if err != nil {
		return 0, err
	}
	res, err := s.exec.ExecContext(context.Background(), c.bind(args))
	if err != nil {
		return 0, err
	}
	return res.RowsAffected()
}

// once runs a text that is not worth keeping prepared: schema changes, which may
// hold several statements.
func (c *conn) once(text string) error {
	s, err := c.raw.Prepare(text)
	if err != nil {
		return err
	}
	_, err = s.(driver.StmtExecContext).ExecContext(context.Background(), nil) // every statement of the driver is one
	return errors.Join(err, s.Close())
}

// query runs a statement and calls fn on each row, whose values are valid until
// it returns; io.EOF from fn ends the query. fn must not use the same statement text.
func (c *conn) query(text string, args []any, fn func(row []driver.Value) error) error {
	s, err := c.prepare(text)
	if err != nil {
		return err
	}
	rows, err := s.query.QueryContext(context.Background(), c.bind(args))
	if err != nil {
		return err
	}
	if s.row == nil {
		s.row = make([]driver.Value, len(rows.Columns()))
	}
	for {
		err = rows.Next(s.row)
		if err == nil {
			err = fn(s.row)
		}
		if err != nil {
			break
		}
	}
	if errors.Is(err, io.EOF) {
		err = nil
	}
	return errors.Join(err, rows.Close())
}

// get runs a query of at most one row, scans it into dest and reports whether
// there was one.
func (c *conn) get(text string, args []any, dest ...any) (found bool, err error) {
	err = c.query(text, args, func(row []driver.Value) error {
		found = true
		return assign(row, dest)
	})
	return found, err
}

// assign stores a row into pointers of the types that a job row needs: the
// short way of what database/sql does by reflection.
func assign(row []driver.Value, dest []any) error {
	for i, d := range dest {
		if err := assignOne(row[i], d); err != nil {
			return fmt.Errorf("column %d: %w", i, err)
		}
	}
	return nil
}

func assignOne(v driver.Value, dest any) error {
	switch d := dest.(type) {
	case *sql.NullInt64:
		d.Int64, d.Valid = v.(int64)
		return nil
	case *sql.NullString:
		d.String, d.Valid = v.(string)
		return nil
	case *[]byte:
		*d, _ = v.([]byte)
		return nil
	case *string:
		*d, _ = v.(string)
		return nil
	case *job.ID:
		return d.Scan(v)
	}
	n, ok := v.(int64)
	if !ok {
		return fmt.Errorf("%T is not a number", v)
	}
	switch d := dest.(type) {
	case *int64:
		*d = n
	case *int:
		*d = int(n)
	case *bool:
		*d = n != 0
	case *job.State:
		*d = job.State(n)
	case *job.Lane:
		*d = job.Lane(n)
	default:
		return fmt.Errorf("sqlite: cannot scan into %T", dest)
	}
	return nil
}

// ExecContext makes the connection a coldsql.Execer.
func (c *conn) ExecContext(_ context.Context, query string, args ...any) (sql.Result, error) {
	n, err := c.exec(query, args...)
	return driver.RowsAffected(n), err
}
