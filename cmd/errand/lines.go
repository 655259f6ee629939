package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"unicode/utf8"

	errand "github.com/errandhq/errand"
	"github.com/errandhq/errand/job"
)

// lineError is a line that cannot become a job.
type lineError struct {
	line int
	err  error
}

func (e *lineError) Error() string { return fmt.Sprintf("line %d: %v", e.line, e.err) }
func (e *lineError) Unwrap() error { return e.err }

// lineReader cuts a stream into lines of any bytes. A line over the bound is
// read past, not into memory.
type lineReader struct {
	r    *bufio.Reader
	end  byte
	most int
	n    int // the number of the line read last; 1 is the first
	buf  []byte
}

var errLongLine = errors.New("too long")

// next returns the next line without its end; it is good until the call after.
// It returns io.EOF after the last line, and errLongLine for a line over the bound.
func (l *lineReader) next() ([]byte, error) {
	l.buf = l.buf[:0]
	l.n++
	long := false
	for {
		part, err := l.r.ReadSlice(l.end)
		ended := err == nil
		if ended {
			part = part[:len(part)-1]
		}
		if long = long || len(l.buf)+len(part) > l.most; !long {
			l.buf = append(l.buf, part...)
		}
		switch {
		case ended && long, errors.Is(err, io.EOF) && long:
			return nil, errLongLine
		case ended:
			return l.buf, nil
		case errors.Is(err, bufio.ErrBufferFull):
		case errors.Is(err, io.EOF) && len(l.buf) > 0:
			return l.buf, nil
		default:
			return nil, err
		}
	}
}

// source makes jobs of the lines of a stream.
type source struct {
	lines      *lineReader
	text       bool // a line is a payload, rather than JSON
	base       errand.EnqueueParams
	maxPayload int
}

func newSource(r io.Reader, e *enqueueFlags, base errand.EnqueueParams, maxPayload int) *source {
	s := &source{
		lines: &lineReader{r: bufio.NewReaderSize(r, 256<<10), end: '\n', most: maxPayload},
		text:  e.lines, base: base, maxPayload: maxPayload,
	}
	if e.null {
		s.lines.end = 0
	}
	if !e.lines {
		// A payload is kept as it stands in the line; beside it there is room
		// for every other key at its longest, escaped.
		s.lines.most += 64 << 10
	}
	return s
}

// next returns the next job and the number of its line. Errors are io.EOF, a
// *lineError for a line that is bad, or a failure to read.
func (s *source) next() (errand.EnqueueParams, int, error) {
	for {
		line, err := s.lines.next()
		n := s.lines.n
		switch {
		case errors.Is(err, errLongLine):
			return errand.EnqueueParams{}, n, &lineError{n, fmt.Errorf("it has more than %d bytes, and a payload may have at most %d", s.lines.most, s.maxPayload)}
		case err != nil:
			return errand.EnqueueParams{}, n, err
		case !s.text && len(bytes.TrimSpace(line)) == 0:
			continue // an empty line between objects means nothing
		}
		p, err := s.job(line)
		if err != nil {
			return p, n, &lineError{n, err}
		}
		return p, n, nil
	}
}

func (s *source) job(line []byte) (errand.EnqueueParams, error) {
	p := s.base
	if s.text {
		p.Payload = bytes.Clone(line)
		if p.ContentType == "" {
			p.ContentType = textType(line)
		}
	} else {
		var err error
		if p, err = parseLine(line, s.base); err != nil {
			return p, err
		}
		nullPayload(&p)
	}
	return p, checkParams(&p, s.maxPayload)
}

// textType is the content type of a line of text: of any bytes, if need be.
func textType(line []byte) string {
	if utf8.Valid(line) {
		return "text/plain; charset=utf-8"
	}
	return "application/octet-stream"
}

// checkAll reads the whole source and returns the first thing that is wrong.
func (s *source) checkAll(ctx context.Context) error {
	for i := 0; ; i++ {
		if i%1024 == 0 && ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if _, _, err := s.next(); errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return err
		}
	}
}

// batch is a part of the input that is sent in one call.
type batch struct {
	jobs  []errand.EnqueueParams
	lines []int // the line of each job
	bytes int
}

func (b *batch) add(p errand.EnqueueParams, line int) {
	b.jobs = append(b.jobs, p)
	b.lines = append(b.lines, line)
	b.bytes += len(p.Payload)
}

// full reports whether a job with this payload needs a batch of its own.
func (b *batch) full(payload int) bool {
	return len(b.jobs) == job.MaxBatch || (len(b.jobs) > 0 && b.bytes+payload > job.MaxBatchBytes)
}

// half cuts the batch in two.
func (b *batch) half() (first, second batch) {
	m := len(b.jobs) / 2
	for i := range b.jobs {
		to := &first
		if i >= m {
			to = &second
		}
		to.add(b.jobs[i], b.lines[i])
	}
	return first, second
}
