package main

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/errandhq/errand/job"
)

func readLines(r io.Reader, most int) *lineReader {
	return &lineReader{r: bufio.NewReaderSize(r, 16), end: '\n', most: most}
}

func TestLineReader(t *testing.T) {
	const most = 40
	long := strings.Repeat("x", most+1)
	just := strings.Repeat("y", most)
	stream := "a\n\n" + long + "\n" + just + "\nb\r\n\x00\xff\nlast"
	r := readLines(iotest.OneByteReader(strings.NewReader(stream)), most)
	for i, want := range []string{"a", "", "LONG", just, "b\r", "\x00\xff", "last"} {
		line, err := r.next()
		if want == "LONG" {
			if !errors.Is(err, errLongLine) {
				t.Errorf("line %d: %q, %v", i+1, line, err)
			}
			continue
		}
		if err != nil || string(line) != want || r.n != i+1 {
			t.Errorf("line %d (%d): %q, %v; want %q", i+1, r.n, line, err, want)
		}
	}
	if _, err := r.next(); !errors.Is(err, io.EOF) {
		t.Errorf("at the end: %v", err)
	}
}

func TestLineReaderPassesFailuresOn(t *testing.T) {
	broken := errors.New("broken")
	r := readLines(io.MultiReader(strings.NewReader("a\nhalf"), iotest.ErrReader(broken)), 10)
	if line, err := r.next(); err != nil || string(line) != "a" {
		t.Errorf("%q, %v", line, err)
	}
	if line, err := r.next(); !errors.Is(err, broken) {
		t.Errorf("half a line was taken for one: %q, %v", line, err)
	}
}

// A payload of one byte more than the bound is refused with its line's number,
// one at the bound is taken.
func TestSourceHoldsThePayloadBound(t *testing.T) {
	base := defaults()
	base.Kind = "k"
	text := strings.Repeat("x", 100) + "\n" + strings.Repeat("x", 101) + "\n\nend"
	s := newSource(strings.NewReader(text), &enqueueFlags{lines: true}, base, 100)
	p, n, err := s.next()
	if err != nil || n != 1 || len(p.Payload) != 100 || p.ContentType != "text/plain; charset=utf-8" {
		t.Fatalf("%d %v %+v", n, err, p)
	}
	var bad *lineError
	if _, _, err := s.next(); !errors.As(err, &bad) || bad.line != 2 {
		t.Fatalf("%v", err)
	}
	if p, n, err := s.next(); err != nil || n != 3 || len(p.Payload) != 0 {
		t.Fatalf("an empty line is an empty payload: %d %v %+v", n, err, p)
	}
	if p, _, err := s.next(); err != nil || string(p.Payload) != "end" {
		t.Fatalf("%v %+v", err, p)
	}
}

func TestSourceOfNULAndBinary(t *testing.T) {
	base := defaults()
	base.Kind = "k"
	s := newSource(strings.NewReader("a\nb\x00\xff\x00"), &enqueueFlags{lines: true, null: true}, base, 100)
	for _, want := range []struct{ payload, media string }{{"a\nb", "text/plain; charset=utf-8"}, {"\xff", "application/octet-stream"}} {
		p, _, err := s.next()
		if err != nil || string(p.Payload) != want.payload || p.ContentType != want.media {
			t.Errorf("%q %s, %v; want %q", p.Payload, p.ContentType, err, want)
		}
	}
	if _, _, err := s.next(); !errors.Is(err, io.EOF) {
		t.Error(err)
	}
}

func TestBatchBounds(t *testing.T) {
	var b batch
	p := defaults()
	p.Payload = bytes.Repeat([]byte("x"), job.MaxBatchBytes)
	if b.full(len(p.Payload)) {
		t.Error("an empty batch has no room")
	}
	b.add(p, 1)
	if !b.full(1) || b.full(0) {
		t.Error("the bound on bytes")
	}
	b = batch{}
	for i := range job.MaxBatch {
		if b.full(0) {
			t.Fatalf("full at %d", i)
		}
		b.add(defaults(), i)
	}
	if !b.full(0) {
		t.Error("the bound on jobs")
	}
	first, second := b.half()
	if len(first.jobs)+len(second.jobs) != job.MaxBatch || second.lines[0] != len(first.jobs) {
		t.Error("halves lose lines")
	}
}
