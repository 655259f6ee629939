package main

import (
	"bytes"
	"encoding/json"
	"strings"
	"testing"
	"time"

	errand "github.com/errandhq/errand"
	"github.com/errandhq/errand/job"
)

func defaults() errand.EnqueueParams {
	five := job.DefaultPriority
	return errand.EnqueueParams{Queue: "default", Priority: &five, MaxAttempts: 25}
}

func TestParseLineTakesEveryKey(t *testing.T) {
	line := `{"kind":"k","payload":{"n":12345678901234567890.10, "s":"\u0000"},"queue":"q","priority":0,"in":"90s",
		"max_attempts":3,"timeout":1.5,"expires_at":"2030-01-02T03:04:05+01:00","tags":["a","b"],"unique_key":"u","unique":"window",
		"unique_for":"7d","on_conflict":"reject","id":"0190a2b4-0000-7000-8000-000000000000","idempotency_key":"i","content_type":"application/json"}`
	p, err := parseLine([]byte(line), defaults())
	if err != nil {
		t.Fatal(err)
	}
	if want := `{"n":12345678901234567890.10, "s":"\u0000"}`; string(p.Payload) != want {
		t.Errorf("payload %s, want every byte: %s", p.Payload, want)
	}
	if p.Kind != "k" || p.Queue != "q" || *p.Priority != 0 || p.Delay != 90*time.Second || p.MaxAttempts != 3 || p.Timeout != 1500*time.Millisecond {
		t.Errorf("%+v", p)
	}
	if !p.ExpiresAt.Equal(time.Date(2030, 1, 2, 2, 4, 5, 0, time.UTC)) || len(p.Tags) != 2 || p.UniqueKey != "u" || p.UniqueMode != errand.Window ||
		p.UniqueFor != 7*24*time.Hour || p.OnConflict != errand.RejectConflict || p.ID.IsZero() || p.IdempotencyKey != "i" {
		t.Errorf("%+v", p)
	}
	if err := checkParams(&p, job.MaxPayload); err != nil {
		t.Errorf("refused: %v", err)
	}
}

// The defaults, which come from flags, are one value for all lines: a line must
// not write into them.
func TestParseLineLeavesItsDefaultsAlone(t *testing.T) {
	base := defaults()
	base.Kind, base.Tags, base.Delay = "base", []string{"t"}, time.Minute
	if _, err := parseLine([]byte(`{"priority":9,"tags":["x"],"run_at":"2030-01-01T00:00:00Z"}`), base); err != nil {
		t.Fatal(err)
	}
	p, err := parseLine([]byte(`{}`), base)
	if err != nil || *p.Priority != 5 || p.Tags[0] != "t" || p.Delay != time.Minute || p.Kind != "base" {
		t.Errorf("%+v, %v", p, err)
	}
}

func TestParseLineRefuses(t *testing.T) {
	for line, want := range map[string]string{
		``:                                 "ends too early",
		`{"kind":"k"`:                      "ends too early",
		`{"kind":"k",}`:                    "not JSON",
		`[1]`:                              "not a JSON object",
		`"k"`:                              "not a JSON object",
		`null`:                             "not a JSON object",
		`{"kind":"k"} {}`:                  "something after",
		`{"kind":"k"} x`:                   "something after",
		`{}`:                               `"kind" is missing`,
		`{"kind":""}`:                      "empty",
		`{"kind":7}`:                       "not a string",
		`{"kind":null}`:                    "not a string",
		`{"Kind":"k"}`:                     `key "Kind" is unknown`,
		`{"kind":"k","priorty":1}`:         `key "priorty" is unknown`,
		`{"kind":"k","kind":"j"}`:          "given twice",
		`{"kind":"k","priority":1.5}`:      "whole number",
		`{"kind":"k","priority":"1"}`:      "whole number",
		`{"kind":"k","in":"-1s"}`:          "negative",
		`{"kind":"k","in":-1}`:             "negative",
		`{"kind":"k","in":"soon"}`:         "not a duration",
		`{"kind":"k","in":1e300}`:          "not a duration",
		`{"kind":"k","in":true}`:           "not a duration",
		`{"kind":"k","run_at":"tomorrow"}`: "RFC 3339",
		`{"kind":"k","in":1,"run_at":"2030-01-01T00:00:00Z"}`: "at most one",
		`{"kind":"k","tags":"a"}`:                             "list of strings",
		`{"kind":"k","id":"x"}`:                               "not a UUID",
		"{\"kind\":\"\xff\"}":                                 "UTF-8",
		"{\"kind\":\"k\x00\"}":                                "not JSON",
	} {
		if p, err := parseLine([]byte(line), defaults()); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %+v, %v; want %q", line, p, err, want)
		}
	}
}

func TestCheckParamsHoldsTheBounds(t *testing.T) {
	for line, want := range map[string]string{
		`{"kind":"k","priority":99}`:                                           "priority 99",
		`{"kind":"k","priority":-1}`:                                           "priority -1",
		`{"kind":"k","max_attempts":0}`:                                        "max_attempts 0",
		`{"kind":"k\u0000"}`:                                                   "control character",
		`{"kind":"` + strings.Repeat("k", 10000) + `"}`:                        "10000 bytes",
		`{"kind":"k","unique":"never","unique_key":"u"}`:                       "not one of",
		`{"kind":"k","unique":"until_done"}`:                                   "go together",
		`{"kind":"k","unique":"window","unique_key":"u"}`:                      "window",
		`{"kind":"k","on_conflict":"wait"}`:                                    "not one of",
		`{"kind":"k","payload":"` + strings.Repeat("x", job.MaxPayload) + `"}`: "payload has",
		`{"kind":"k","tags":["` + strings.Repeat("x", 65) + `"]}`:              "tag has 65 bytes",
	} {
		p, err := parseLine([]byte(line), defaults())
		if err == nil {
			err = checkParams(&p, job.MaxPayload)
		}
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%.80s: %v; want %q", line, err, want)
		}
	}
}

// FuzzParseLine: no line crashes the parser; what it accepts has a kind, and a
// payload that is JSON byte for byte as it stood in the line.
func FuzzParseLine(f *testing.F) {
	for _, seed := range []string{
		`{"kind":"k","payload":{"a":[1,2.5e3,null,"\ud83d\ude00"]}}`, `{"kind":"k","in":"1h","tags":["x"]}`,
		`{"kind":"k","run_at":"2030-01-01T00:00:00Z","unique_key":"u","unique":"window","unique_for":60}`, `{"kind":`, "{\"\xff", `[]`, ``, `{"kind":"k"}{`,
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, line []byte) {
		p, err := parseLine(line, defaults())
		if err != nil {
			if strings.ContainsRune(err.Error(), 0) {
				t.Errorf("the error holds a NUL: %q", err)
			}
			return
		}
		if p.Kind == "" {
			t.Error("no kind")
		}
		if p.Payload != nil && (!json.Valid(p.Payload) || !bytes.Contains(line, p.Payload)) {
			t.Errorf("payload %q of %q", p.Payload, line)
		}
		if p.Delay < 0 || p.Timeout < 0 || p.ExpiresIn < 0 || p.UniqueFor < 0 {
			t.Errorf("a negative duration: %+v", p)
		}
		_ = checkParams(&p, job.MaxPayload) // must not panic
	})
}

// FuzzLines: the lines, joined again by their ends, are the stream; none is
// over the bound.
func FuzzLines(f *testing.F) {
	f.Add([]byte("a\nb\n\nc"), 3)
	f.Add([]byte("long line\n\x00\xff\r\n"), 4)
	f.Fuzz(func(t *testing.T, stream []byte, most int) {
		most = max(0, min(most, 1<<16))
		r := readLines(bytes.NewReader(stream), most)
		var out []byte
		long := false
		for {
			line, err := r.next()
			if err == errLongLine {
				long = true
				continue
			}
			if err != nil {
				break
			}
			if len(line) > most {
				t.Fatalf("a line of %d bytes, over %d", len(line), most)
			}
			out = append(append(out, line...), '\n')
		}
		want := stream
		if n := len(want); n > 0 && want[n-1] != '\n' {
			want = append(bytes.Clone(want), '\n')
		}
		if !long && !bytes.Equal(out, want) {
			t.Errorf("%q came out as %q", want, out)
		}
	})
}
