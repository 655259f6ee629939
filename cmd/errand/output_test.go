package main

import (
	"bytes"
	"encoding/json"
	"strings"
	"testing"
	"time"
)

func TestJSONValue(t *testing.T) {
	for in, want := range map[string][2]string{
		"":                        {"null", "none"},
		`{"a": 1.00}`:             {`{"a": 1.00}`, "json"},
		"12345678901234567890123": {"12345678901234567890123", "json"},
		"hello\n":                 {`"hello\n"`, "text"},
		"<&>":                     {`"<&>"`, "text"},
		"\xff":                    {`"/w=="`, "base64"},
		"\"\xff\"":                {`"Iv8i"`, "base64"},
		"a\x00b":                  {`"a\u0000b"`, "text"},
	} {
		v, encoding := jsonValue([]byte(in), true)
		if string(v) != want[0] || encoding != want[1] || !json.Valid(v) {
			t.Errorf("%q: %s as %s", in, v, encoding)
		}
	}
	if v, encoding := jsonValue([]byte("true"), false); string(v) != `"true"` || encoding != "text" {
		t.Errorf("a text payload stays text: %s as %s", v, encoding)
	}
	for media, want := range map[string]bool{"": true, "application/json": true, "Application/JSON; charset=utf-8": true,
		"application/cloudevents+json": true, "text/plain": false, "application/jsonx": false} {
		if jsonType(media) != want {
			t.Errorf("%q is JSON: %v", media, !want)
		}
	}
}

func TestAges(t *testing.T) {
	for d, want := range map[time.Duration]string{
		0: "0s", 999 * time.Millisecond: "0s", 90 * time.Second: "90s", 2 * time.Minute: "2m", 59 * time.Minute: "59m",
		90 * time.Minute: "1h30m", 50 * time.Hour: "2d02h", -5 * time.Minute: "in 5m",
	} {
		if got := age(d); got != want {
			t.Errorf("%s: %q, want %q", d, got, want)
		}
	}
}

func TestDurations(t *testing.T) {
	for in, want := range map[string]time.Duration{"90s": 90 * time.Second, "1h30m": 90 * time.Minute, "7d": 168 * time.Hour, "1.5d": 36 * time.Hour, "2w": 336 * time.Hour, "0": 0} {
		if got, err := parseDuration(in); err != nil || got != want {
			t.Errorf("%s: %s, %v", in, got, err)
		}
	}
	for _, in := range []string{"", "d", "soon", "5", "-1s", "-2d", "NaNd", "infd", "1e300d", "99999d", "300000h"} {
		if got, err := parseDuration(in); err == nil {
			t.Errorf("%q is taken for %s", in, got)
		}
	}
}

// Nothing that a job or a worker is called reaches a terminal as a command to it.
func TestPrintableIsHarmless(t *testing.T) {
	got := printable("a\x1b[31mred\x07\xff\u009b\u202eé\n")
	for _, r := range got {
		if r != '\n' && (r < 0x20 || r == 0x7f || (r >= 0x80 && r < 0xa0)) {
			t.Errorf("%q still holds %U", got, r)
		}
	}
	if !strings.Contains(got, "é") || !strings.Contains(got, `\x1b`) {
		t.Errorf("%q", got)
	}
	if s := oneLine("a\nb\t c", 3); s != "a …" {
		t.Errorf("%q", s)
	}
}

// Tables hold no escape sequences where the output is no terminal, and align.
func TestTableOfPlainText(t *testing.T) {
	var b bytes.Buffer
	newPrinter(&b, false).table([]string{"NAME", ">N", "STATE"}, [][]string{{"a", "1", stateText("dead")}, {"long name", "100", ""}})
	want := "NAME         N  STATE\na            1  dead\nlong name  100\n"
	if b.String() != want {
		t.Errorf("%q, want %q", b.String(), want)
	}
}

func TestEditDistance(t *testing.T) {
	for _, c := range []struct {
		a, b string
		want int
	}{{"", "", 0}, {"a", "", 1}, {"quee", "queue", 1}, {"kitten", "sitting", 3}} {
		if got := editDistance(c.a, c.b); got != c.want {
			t.Errorf("%s %s: %d", c.a, c.b, got)
		}
	}
}
