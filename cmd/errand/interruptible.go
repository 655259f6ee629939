package main

import (
	"context"
	"io"
)

// interruptible makes reads of a terminal or a pipe end with ctx. The read
// that was under way then is abandoned to the end of the process: there is no
// portable way to break it off.
func interruptible(ctx context.Context, r io.Reader) io.Reader {
	return &ctxReader{ctx: ctx, r: r, buf: make([]byte, 64<<10), done: make(chan readResult, 1)}
}

type ctxReader struct {
	ctx  context.Context
	r    io.Reader
	buf  []byte // lent to the read under way
	rest []byte // of buf, read and not yet handed out
	done chan readResult
}

type readResult struct {
	n   int
	err error
}

// Read implements io.Reader.
func (c *ctxReader) Read(p []byte) (int, error) {
	if len(c.rest) == 0 {
		if c.ctx.Err() != nil {
			return 0, context.Cause(c.ctx)
		}
		go func() {
			n, err := c.r.Read(c.buf)
			c.done <- readResult{n, err}
		}()
		select {
		case r := <-c.done:
			c.rest = c.buf[:r.n]
			if r.err != nil {
				n := copy(p, c.rest)
				if n == len(c.rest) {
					c.rest = nil
					return n, r.err
				}
				c.r = errReader{r.err}
				c.rest = c.rest[n:]
				return n, nil
			}
		case <-c.ctx.Done():
			return 0, context.Cause(c.ctx)
		}
	}
	n := copy(p, c.rest)
	c.rest = c.rest[n:]
	return n, nil
}

// errReader hands out an error that came along with bytes.
type errReader struct{ err error }

func (e errReader) Read([]byte) (int, error) { return 0, e.err }
