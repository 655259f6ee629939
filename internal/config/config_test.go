package config

import (
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/spf13/pflag"
)

// load reads a configuration from flags, environment and the text of a file.
func load(t *testing.T, file string, environ []string, args ...string) (Server, error) {
	t.Helper()
	if file != "" {
		path := filepath.Join(t.TempDir(), "errand.toml")
		if err := os.WriteFile(path, []byte(file), 0o600); err != nil {
			t.Fatal(err)
		}
		args = append(args, "--config", path)
	}
	f := pflag.NewFlagSet("serve", pflag.ContinueOnError)
	f.SetOutput(new(strings.Builder))
	src := Bind(f)
	if err := f.Parse(args); err != nil {
		return Server{}, err
	}
	return src.Load(environ)
}

func TestDefaultsAreValid(t *testing.T) {
	c, err := load(t, "", nil)
	if err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(c, Default()) {
		t.Errorf("nothing set, but: %s", c)
	}
	l, err := c.LedgerAddress()
	if err != nil || l.Engine != SQLite || l.Path != filepath.Join("errand-data", "errand.db") {
		t.Errorf("ledger %v, %v", l, err)
	}
}

// TestPrecedence sets one setting in three places and takes them away one by one.
func TestPrecedence(t *testing.T) {
	file, environ, flag := "grace = \"1m\"\n", []string{"ERRAND_GRACE=2m"}, []string{"--grace=3m"}
	for _, c := range []struct {
		file    string
		environ []string
		args    []string
		want    time.Duration
	}{
		{file, environ, flag, 3 * time.Minute},
		{file, environ, nil, 2 * time.Minute},
		{file, nil, nil, time.Minute},
		{"", nil, nil, 30 * time.Second},
		{file, nil, []string{"--grace=30s"}, 30 * time.Second}, // a flag wins even with the default's value
	} {
		got, err := load(t, c.file, c.environ, c.args...)
		if err != nil || got.Grace != c.want {
			t.Errorf("%q %v %v: grace %s, %v; want %s", c.file, c.environ, c.args, got.Grace, err, c.want)
		}
	}
}

// TestEverySettingHasThreeSpellings sets each by its three names in turn.
func TestEverySettingHasThreeSpellings(t *testing.T) {
	c := Default()
	settings := c.settings()
	typ := reflect.TypeFor[Server]()
	if len(settings) != typ.NumField() {
		t.Fatalf("%d settings have a flag, of %d fields", len(settings), typ.NumField())
	}
	for i, s := range settings {
		f := typ.Field(i)
		if want := strings.ReplaceAll(s.flag, "-", "_"); f.Tag.Get("toml") != want {
			t.Errorf("%s: in TOML %q, want %q", s.flag, f.Tag.Get("toml"), want)
		} else if f.Tag.Get("env") != strings.ToUpper(want) {
			t.Errorf("%s: in the environment %q", s.flag, f.Tag.Get("env"))
		}
		if s.usage == "" {
			t.Errorf("%s: no usage", s.flag)
		}
	}
}

func TestAllKindsOfValues(t *testing.T) {
	want := Default()
	want.Ledger, want.TLSInFront, want.MaxPayload = "sqlite:x.db", true, 2<<20
	want.Canary, want.MetricsNames = Intervals{"mail": time.Minute, "default": 30 * time.Second}, 7
	want.MaxDepth, want.CrashLimit, want.SessionTTL = Depths{"mail": 10, "*": 50}, 5, 5*time.Second
	file := "ledger = \"sqlite:x.db\"\ntls_in_front = true\nmax_payload = \"2MiB\"\ncrash_limit = 5\nsession_ttl = \"5s\"\nmetrics_names = 7\n[canary]\nmail = \"1m\"\ndefault = \"30s\"\n[max_depth]\nmail = 10\n\"*\" = 50\n"
	environ := []string{"ERRAND_LEDGER=sqlite:x.db", "ERRAND_TLS_IN_FRONT=true", "ERRAND_MAX_PAYLOAD=2048KiB",
		"ERRAND_CRASH_LIMIT=5", "ERRAND_SESSION_TTL=5s", "ERRAND_METRICS_NAMES=7", "ERRAND_CANARY=mail=1m,default=30s", "ERRAND_MAX_DEPTH=mail=10,*=50", "ERRAND_SERVER=elsewhere"}
	args := []string{"--ledger", "sqlite:x.db", "--tls-in-front", "--max-payload", "2097152", "--crash-limit=5",
		"--session-ttl=5s", "--metrics-names=7", "--canary=mail=1m", "--canary", "default=30s", "--max-depth", "mail=10", "--max-depth=*=50"}
	for name, got := range map[string]func() (Server, error){
		"file":        func() (Server, error) { return load(t, file, nil) },
		"environment": func() (Server, error) { return load(t, "", environ) },
		"flags":       func() (Server, error) { return load(t, "", nil, args...) },
		"flags over": func() (Server, error) {
			return load(t, "[max_depth]\nother = 1\n[canary]\nother = \"1s\"\n", []string{"ERRAND_LEDGER=sqlite:y.db"}, args...)
		},
	} {
		if c, err := got(); err != nil || !reflect.DeepEqual(c, want) {
			t.Errorf("%s: %s, %v; want %s", name, c, err, want)
		}
	}
}

// TestBadSettings expects each error to name the setting.
func TestBadSettings(t *testing.T) {
	for _, c := range []struct {
		want, file string
		environ    []string
		args       []string
	}{
		{"unknown settings: sesion_ttl, x, x.y", "sesion_ttl = \"1s\"\n[x]\ny = 1\n", nil, nil},
		{"config file", "grace = 5 5\n", nil, nil},
		{"grace", "grace = \"soon\"\n", nil, nil},
		{"max_payload", "max_payload = \"much\"\n", nil, nil},
		{"ERRAND_GRACE", "", []string{"ERRAND_GRACE=soon"}, nil},
		{"ERRAND_CRASH_LIMIT", "", []string{"ERRAND_CRASH_LIMIT=many"}, nil},
		{"ERRAND_MAX_DEPTH", "", []string{"ERRAND_MAX_DEPTH=mail"}, nil},
		{"--grace", "", nil, []string{"--grace=soon"}},
		{"unknown flag", "", nil, []string{"--grase=1s"}},
		{"grace: -1s is not between 1s and 1h0m0s", "", nil, []string{"--grace=-1s"}},
		{"session-ttl: 1ms is not between", "", nil, []string{"--session-ttl=1ms"}},
		{"drain-delay: 30s is not between 0s and 29s", "", nil, []string{"--drain-delay=30s"}},
		{"max-payload: 0B is not between", "", nil, []string{"--max-payload=0"}},
		{"canary: 1ms for mail is not between 1s and 1h", "", nil, []string{"--canary=mail=1ms"}},
		{"canary: is set, and metrics is false", "", nil, []string{"--metrics=false", "--canary=mail=1m"}},
		{"ERRAND_CANARY", "", []string{"ERRAND_CANARY=mail"}, nil},
		{"metrics-listen: \"9090\" is not of the form", "", nil, []string{"--metrics-listen=9090"}},
		{"scaler-listen: \"9091\" is not of the form", "", nil, []string{"--scaler-listen=9091"}},
		{"scaler-client-ca: needs scaler-listen", "", nil, []string{"--scaler-client-ca=ca.pem", "--scaler-listen=:9091"}},
		{"metrics-listen: is set, and metrics is false", "", nil, []string{"--metrics=false", "--metrics-listen=:9090"}},
		{"max-depth: -1 for mail", "", nil, []string{"--max-depth=mail=-1"}},
		{"backoff-base: 2h0m0s is not between", "", nil, []string{"--backoff-base=2h"}},
		{"listen: \"7420\" is not of the form", "", nil, []string{"--listen=7420"}},
		{"tls-cert and tls-key", "", nil, []string{"--tls-key=k"}},
		{"migrate: \"maybe\" is not one of auto, check", "", nil, []string{"--migrate=maybe"}},
		{"log-level: \"loud\" is not one of debug, info, warn, error", "", nil, []string{"--log-level=loud"}},
		{"ledger mysql://h/db: is not one of", "", nil, []string{"--ledger=mysql://h/db"}},
		{"data: is empty", "", nil, []string{"--data="}},
		{"config file", "", []string{"ERRAND_CONFIG=/no/such/file"}, nil},
	} {
		_, err := load(t, c.file, c.environ, c.args...)
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%q %v %v: %v; want %q", c.file, c.environ, c.args, err, c.want)
		}
	}
}

func TestParseLedger(t *testing.T) {
	for in, want := range map[string]Ledger{
		"sqlite:a.db":                 {Engine: SQLite, Path: "a.db"},
		"sqlite:C:\\x\\a.db":          {Engine: SQLite, Path: "C:\\x\\a.db"},
		"sqlite:dir with space/ü.db":  {Engine: SQLite, Path: "dir with space/ü.db"},
		"postgres://h/db":             {Engine: Postgres, DSN: "postgres://h/db"},
		"postgresql://u:p@h:1/db?a=b": {Engine: Postgres, DSN: "postgresql://u:p@h:1/db?a=b"},
	} {
		if got, err := ParseLedger(in); err != nil || got != want {
			t.Errorf("%s: %v, %v", in, got, err)
		}
	}
	for _, in := range []string{"", "sqlite", "sqlite:", "a.db", "postgres:", "postgres:h/db", "mysql://h/db", "postgres://h:port x/%zz", "sqlite:\x00"} {
		if got, err := ParseLedger(in); err == nil {
			t.Errorf("%q: accepted as %v", in, got)
		}
	}
}

// TestSecretsAreNotShown puts a password wherever an address may stand and
// looks for it in everything that is printed.
func TestSecretsAreNotShown(t *testing.T) {
	const secret = "hunter2"
	good := "postgres://u:" + secret + "@h:5432/db?password=" + secret
	c, err := load(t, "", []string{"ERRAND_LEDGER=" + good, "ERRAND_LEDGER_LISTEN=" + good})
	if err != nil {
		t.Fatal(err)
	}
	l, err := c.LedgerAddress()
	if err != nil || l.DSN != good {
		t.Fatalf("%v, %v", l, err)
	}
	printed := []string{c.String(), c.LogValue().String(), l.String(), fmt.Sprintf("%v %+v %#v %s", c, c, c, c), fmt.Sprintf("%v %+v %#v", l, l, l)}
	for _, bad := range []string{
		"postgres:u:" + secret + "@h", "mysql://u:" + secret + "@h/db", "postgres://u:" + secret + "@h:x y/%zz",
		"host=h password=" + secret, "u:" + secret + "@h",
	} {
		_, err := load(t, "", []string{"ERRAND_LEDGER=" + bad})
		if err == nil {
			t.Errorf("%s: accepted", bad)
			continue
		}
		printed = append(printed, err.Error())
		_, err = load(t, "ledger = '"+bad+"'\nnonsense\n", nil)
		printed = append(printed, fmt.Sprint(err))
	}
	for _, p := range printed {
		if strings.Contains(p, secret) {
			t.Errorf("shows the password: %s", p)
		}
	}
	if !strings.Contains(c.String(), "ledger=postgres://u@h:5432/db") {
		t.Errorf("does not show where the ledger is: %s", c)
	}
}

func FuzzParseLedger(f *testing.F) {
	f.Add("sqlite:x")
	f.Add("postgres://u:p@h/db")
	f.Add(":")
	f.Fuzz(func(t *testing.T, s string) {
		l, err := ParseLedger(s)
		if err == nil && (l.Engine == SQLite) != (l.Path != "") {
			t.Fatalf("%q: %v", s, l)
		}
	})
}

func TestParseCache(t *testing.T) {
	for in, want := range map[string]Cache{
		"memory":                {Kind: CacheMemory},
		"none":                  {Kind: CacheNone},
		"redis://h:1/2":         {Kind: CacheRedis, URL: "redis://h:1/2"},
		"rediss://u:s3cret@h:1": {Kind: CacheRedis, URL: "rediss://u:s3cret@h:1"},
	} {
		got, err := ParseCache(in)
		if err != nil || got != want {
			t.Errorf("%s: %+v, %v", in, got, err)
		}
		if text := fmt.Sprintf("%v %+v %#v", got, got, got); strings.Contains(text, "s3cret") {
			t.Errorf("the password is shown: %s", text)
		}
	}
	for _, bad := range []string{"", "disk", "redis:", "redis://", "http://u:s3cret@h", "redis://u:s3cret@h:port", "u:s3cret@h"} {
		if got, err := ParseCache(bad); err == nil || strings.Contains(err.Error(), "s3cret") {
			t.Errorf("%q: %+v, %v", bad, got, err)
		}
	}
}
