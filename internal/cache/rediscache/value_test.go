package rediscache

import (
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/errandhq/errand/internal/cache"
	"github.com/errandhq/errand/job"
)

// FuzzDecode holds the decoder to its word: what it takes it can write again.
func FuzzDecode(f *testing.F) {
	good, err := appendValue(nil, &cache.Entry{ID: job.ID{1}, Queue: "q", State: job.Ready, Version: 7, At: time.UnixMicro(9)})
	if err != nil {
		f.Fatal(err)
	}
	text := string(good)
	for _, s := range []string{text, "", text[:40], "-" + text[1:], text + "}", text[:len(text)-2], strings.Repeat("9", 40) + text[40:]} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		e, ok := decode(s)
		if !ok {
			return
		}
		again, err := appendValue(nil, &e)
		if err != nil {
			t.Fatalf("decoded %+v cannot be encoded: %v", e, err)
		}
		if back, ok := decode(string(again)); !ok || !reflect.DeepEqual(e, back) && len(e.Progress) > 0 {
			t.Fatalf("%+v became %+v", e, back)
		}
		if strings.ContainsRune(string(again), '\n') {
			t.Fatalf("the value has two lines: %q", again)
		}
	})
}

func TestNewsOfAnotherVersionCountAsMissed(t *testing.T) {
	good, err := appendValue(nil, &cache.Entry{ID: job.ID{1}, State: job.Ready, At: time.UnixMicro(1)})
	if err != nil {
		t.Fatal(err)
	}
	if n := decodeNews(string(good) + "\nx9"); !n.Missed || len(n.Entries) != 1 {
		t.Errorf("%+v", n)
	}
}

func TestParseURL(t *testing.T) {
	o, err := ParseURL("redis://me:p%40ss@cache.internal/3?node=other:7000&node=third")
	if err != nil || o.Username != "me" || o.Password != "p@ss" || o.SelectDB != 3 || o.TLSConfig != nil ||
		!reflect.DeepEqual(o.InitAddress, []string{"cache.internal:6379", "other:7000", "third:6379"}) {
		t.Errorf("%+v, %v", o, err)
	}
	if o, err := ParseURL("rediss://[::1]:7000"); err != nil || o.TLSConfig == nil || o.TLSConfig.ServerName != "::1" || o.InitAddress[0] != "[::1]:7000" {
		t.Errorf("%+v, %v", o, err)
	}
	noPEM := filepath.Join(t.TempDir(), "ca")
	if err := os.WriteFile(noPEM, []byte("nothing"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, bad := range []string{
		"", "memory", "http://h", "redis://", "redis://:s3cret@", "redis://u:s3cret@h/x", "redis://u:s3cret@h/-1",
		"redis://u:s3cret@h?colour=1", "redis://u:s3cret@h?ca=/x", "rediss://u:s3cret@h?ca=/nowhere", "rediss://h?ca=" + noPEM, "redis://u:s3cret@h:port",
	} {
		if _, err := ParseURL(bad); err == nil || strings.Contains(err.Error(), "s3cret") {
			t.Errorf("%q: %v", bad, err)
		}
	}
}
