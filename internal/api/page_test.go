package api

import (
	"encoding/base64"
	"testing"

	"github.com/errandhq/errand/job"
)

func TestPageToken(t *testing.T) {
	id, err := job.ParseID(newID(t))
	if err != nil {
		t.Fatal(err)
	}
	mine := scope{"ListJobs", "q", "", "dead"}
	want := page{after: id, done: 12345}
	token := mine.encodePage(want)
	if got, err := mine.decodePage(token); err != nil || got != want {
		t.Errorf("%+v, %v; want %+v", got, err, want)
	}
	if got, err := mine.decodePage(""); err != nil || got != (page{}) {
		t.Errorf("the beginning: %+v, %v", got, err)
	}
	if mine.encodePage(page{}) != "" {
		t.Error("the end has a token")
	}
	for name, other := range map[string]scope{
		"another queue": {"ListJobs", "r", "", "dead"}, "another call": {"PurgeDead", "q", "", "dead"},
		"fields shifted": {"ListJobs", "", "q", "dead"}, "fields joined": {"ListJobs", "q", "dead"},
	} {
		if _, err := other.decodePage(token); job.ReasonOf(err) != job.ReasonBadPageToken {
			t.Errorf("%s: %v", name, err)
		}
	}
	raw, err := base64.RawURLEncoding.DecodeString(token)
	if err != nil {
		t.Fatal(err)
	}
	for i := range raw {
		raw[i] ^= 1
		if _, err := mine.decodePage(base64.RawURLEncoding.EncodeToString(raw)); job.ReasonOf(err) != job.ReasonBadPageToken {
			t.Errorf("byte %d changed: %v", i, err)
		}
		raw[i] ^= 1
	}
	for _, bad := range []string{"x", "====", token + "A", token[1:], token[:len(token)-1], string(make([]byte, 10_000))} {
		if _, err := mine.decodePage(bad); job.ReasonOf(err) != job.ReasonBadPageToken || job.CodeOf(err) != job.InvalidArgument {
			t.Errorf("%.20q: %v", bad, err)
		}
	}
}

func FuzzPageToken(f *testing.F) {
	s := scope{"ListJobs", "q"}
	f.Add(s.encodePage(page{after: job.ID{1}, done: 3}))
	f.Add("")
	f.Add("AQ")
	f.Fuzz(func(t *testing.T, token string) {
		p, err := s.decodePage(token)
		switch {
		case err != nil:
			if job.ReasonOf(err) != job.ReasonBadPageToken {
				t.Fatal(err)
			}
		case token != "" && p.after != (job.ID{}) && s.encodePage(p) != token:
			t.Fatalf("%q and %q are one page", token, s.encodePage(p))
		case p.done < 0:
			t.Fatalf("%+v", p)
		}
	})
}
