package kafka

import (
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/errandhq/errand/internal/testenv"
	"github.com/errandhq/errand/job"
)

func TestParseReadsEveryPartOfAnAddress(t *testing.T) {
	for in, want := range map[string]address{
		"kafka://one":                      {seeds: []string{"one:9092"}},
		"kafka://one:1,two,[::1]:3/":       {seeds: []string{"one:1", "two:9092", "[::1]:3"}},
		"kafka://[::1]":                    {seeds: []string{"[::1]:9092"}},
		"kafka://h?group=auto":             {seeds: []string{"h:9092"}},
		"kafka://h?group=share":            {seeds: []string{"h:9092"}, groups: Share},
		"kafka://u%40x:p%3Aw%3F@h":         {seeds: []string{"h:9092"}, user: "u@x", password: "p:w?", sasl: "plain"},
		"kafka://u:p@w/#@h?tls=false":      {seeds: []string{"h:9092"}, user: "u", password: "p@w/#", sasl: "plain"},
		"kafka://u:p@h?sasl=scram-sha-256": {seeds: []string{"h:9092"}, user: "u", password: "p", sasl: "scram-sha-256"},
		"kafka://u:p@h?sasl=scram-sha-512&tls=true&ca=/ca.pem&group=classic&replication=2&partitions=24": {
			seeds: []string{"h:9092"}, user: "u", password: "p", sasl: "scram-sha-512", tls: true, ca: "/ca.pem",
			groups: Classic, replication: 2, partitions: 24,
		},
	} {
		if got, err := parse(in); err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("parse(%q) = %v, %v; want %v", in, got, err, want)
		}
	}
}

func TestParseNamesThePartThatIsWrong(t *testing.T) {
	for in, want := range map[string]string{
		"amqp://h":                    `does not begin with "kafka://"`,
		"kafka://":                    "host 1: it is missing",
		"kafka://a,,b":                "host 2: it is missing",
		"kafka://a:0":                 "host 1: the port is not a number",
		"kafka://a:70000":             "host 1: the port is not a number",
		"kafka://user:hunter22":       "host 1: the port is not a number",
		"kafka://a b":                 "host 1: it is not a host name",
		"kafka://::1":                 "host 1: it is not a host name",
		"kafka://[::1":                "host 1: ",
		"kafka://u:p%zz@h":            "begins no escape",
		"kafka://u:p?w@h":             "an @ follows the ?",
		"kafka://h?sasl=plain":        "sasl=plain needs a user",
		"kafka://u:p@h?sasl=gssapi":   "sasl=gssapi is not one of",
		"kafka://h?tls=yes":           "tls=yes is neither",
		"kafka://h?ca=/x":             "ca is given without tls=true",
		"kafka://h?group=both":        "group=both is not one of",
		"kafka://h?replication=0":     "replication=0 is not a number from 1 to 100",
		"kafka://h?partitions=x":      "partitions=x is not a number from 1 to 1000",
		"kafka://h?acks=1":            `"acks" is not one of`,
		"kafka://h?tls=true&tls=true": "tls is given twice",
		"kafka://h?%zz":               "is not NAME=VALUE",
	} {
		_, err := parse(in)
		if err == nil || !strings.Contains(err.Error(), want) || job.CodeOf(err) != job.InvalidArgument {
			t.Errorf("parse(%q): %v; want %q", in, err, want)
		}
		if err != nil && strings.Contains(err.Error(), "hunter22") {
			t.Errorf("the error shows the password: %v", err)
		}
	}
}

func TestAddressShowsNoPassword(t *testing.T) {
	a, err := parse("kafka://user:hunter22@a,b?tls=true")
	if err != nil {
		t.Fatal(err)
	}
	for _, form := range []string{"%v", "%+v", "%#v", "%s"} {
		if got := fmt.Sprintf(form, a); strings.Contains(got, "hunter22") || !strings.Contains(got, "a:9092,b:9092") {
			t.Errorf("%s shows %q", form, got)
		}
	}
}

func TestTLSReadsTheAuthority(t *testing.T) {
	dir := t.TempDir()
	good := testenv.NewCertificates(t).CA
	bad := filepath.Join(dir, "bad.pem")
	if err := os.WriteFile(bad, []byte("nothing"), 0o600); err != nil {
		t.Fatal(err)
	}
	for ca, want := range map[string]string{good: "", bad: "no certificate", filepath.Join(dir, "none"): "no such file"} {
		conf, err := address{tls: true, ca: ca}.tlsConfig()
		if want == "" && (err != nil || conf.RootCAs == nil) || want != "" && (err == nil || !strings.Contains(err.Error(), want)) {
			t.Errorf("ca %s: %v; want %q", ca, err, want)
		}
	}
}

func FuzzParse(f *testing.F) {
	for _, s := range []string{"h", "h:1,[::1]?tls=true", "h?ca=a@b", "h?sasl=plain&partitions=9", ",", "h?%", "@h", "?@"} {
		f.Add("u", s)
	}
	f.Fuzz(func(t *testing.T, user, rest string) {
		const password = "hunter22-hunter22"
		if strings.Contains(user+rest, "hunter22") {
			t.Skip()
		}
		a, err := parse("kafka://" + user + ":" + password + "@" + rest)
		if shown := fmt.Sprintf("%v %v %#v", err, a, a); strings.Contains(shown, "hunter22") {
			t.Fatalf("the password is shown: %s", shown)
		}
		if err != nil {
			if job.CodeOf(err) != job.InvalidArgument || !reflect.DeepEqual(a, address{}) && a.seeds == nil {
				t.Fatalf("%v with code %d", err, job.CodeOf(err))
			}
			return
		}
		if len(a.seeds) == 0 || a.partitions < 0 || a.partitions > mostTopicSize {
			t.Fatalf("parsed to %#v", a)
		}
		if _, err := url.Parse(a.String()); err != nil && !strings.Contains(a.String(), ",") {
			t.Fatalf("%q is no URL: %v", a.String(), err)
		}
	})
}
