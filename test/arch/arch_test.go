// Package arch holds the import table of the design against the code: who may
// import whom within the module, and what the SDK may bring into a user's
// binary. It reads `go list`, so what it checks is what is compiled.
package arch

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

const module = "github.com/errandhq/errand"

// may is the import table: what each package may import of this module,
// directly or not. A package that is not here may import what it likes, and
// nothing here names it, so nothing in the table can depend on it.
var may = map[string][]string{
	"job":               {},
	"broker":            {"job"},
	"ledger":            {"job"},
	"broker/rabbitmq":   {"job", "broker"},
	"broker/kafka":      {"job", "broker"},
	"broker/brokertest": {"job", "broker"},
	"ledger/coldsql":    {"job", "ledger"},
	"ledger/sqlite":     {"job", "ledger", "ledger/coldsql"},
	"ledger/postgres":   {"job", "ledger", "ledger/coldsql"},
	"ledger/ledgertest": {"job", "ledger"},
	"internal/drivers": {"job", "ledger", "ledger/coldsql", "ledger/sqlite", "ledger/postgres", "broker", "broker/rabbitmq", "broker/kafka",
		"internal/cache", "internal/cache/memory", "internal/cache/rediscache", "internal/config", "internal/engine", "internal/insight", "internal/scaling"},
	"internal/cache":   {"job"},
	"internal/insight": {"job", "ledger"},
	"internal/scaling": {"job"},
	"internal/engine":  {"broker", "internal/cache", "internal/insight", "internal/scaling", "job", "ledger"},

	"internal/cache/memory":     {"job", "internal/cache"},
	"internal/cache/rediscache": {"job", "internal/cache"},
	"internal/cache/cachetest":  {"job", "internal/cache"},
	// internal/api passes the ledger's queries on to the engine, whose methods
	// take them; it gets no driver.
	"internal/api": {"broker", "internal/engine", "internal/insight", "internal/scaling", "internal/tracing", "internal/cache", "internal/auth", "job", "ledger",
		"gen/errand/v1", "gen/errand/v1/errandv1connect", "gen/keda/externalscaler", "gen/keda/externalscaler/externalscalerconnect"},
	"":          {"gen/errand/v1", "gen/errand/v1/errandv1connect"},
	"errandpgx": {"", "gen/errand/v1", "gen/errand/v1/errandv1connect"},
	"errandsql": {"", "gen/errand/v1", "gen/errand/v1/errandv1connect"},
	// What is measured: the engine tells its observers, and knows no Prometheus.
	"internal/meter":   {},
	"internal/tracing": {"broker", "internal/cache", "internal/insight", "internal/scaling", "internal/engine", "job", "ledger"},
	"internal/otlp":    {},
	"internal/metrics": {"broker", "internal/cache", "internal/insight", "internal/scaling", "internal/engine", "internal/meter", "job", "ledger"},
	"errandprom":       {"", "internal/meter", "gen/errand/v1", "gen/errand/v1/errandv1connect"},
	// What judges, and the command that examines a server from outside: by the SDK alone.
	"internal/history": {"", "gen/errand/v1", "gen/errand/v1/errandv1connect"},
	"internal/verify":  {"", "internal/auth", "internal/history", "job", "gen/errand/v1", "gen/errand/v1/errandv1connect"},
	"internal/canary": {"", "broker", "internal/cache", "internal/insight", "internal/scaling", "internal/engine", "internal/meter", "internal/metrics", "job", "ledger",
		"gen/errand/v1", "gen/errand/v1/errandv1connect"},
}

// outside lists what a package may import from other modules, as prefixes of
// import paths. A package that is not here is free.
var outside = map[string][]string{
	"job":              {},
	"ledger":           {},
	"errandprom":       {"github.com/prometheus/client_golang"},
	"internal/cache":   {},
	"internal/insight": {"github.com/DataDog/sketches-go/ddsketch"},
	"internal/engine":  {"golang.org/x/sync", "github.com/google/uuid", "github.com/sony/gobreaker"},
	"": {"connectrpc.com/connect", "github.com/google/uuid", "google.golang.org/protobuf", "google.golang.org/genproto/googleapis/rpc",
		"go.opentelemetry.io/otel/attribute", "go.opentelemetry.io/otel/codes", "go.opentelemetry.io/otel/metric",
		"go.opentelemetry.io/otel/propagation", "go.opentelemetry.io/otel/semconv", "go.opentelemetry.io/otel/trace"},
}

// drivers are the modules of databases, brokers and monitoring systems, of
// OpenTelemetry all but its interfaces. Whoever
// imports the SDK must not get any of them.
var drivers = []string{
	"github.com/jackc/pgx", "github.com/lib/pq", "modernc.org/sqlite", "github.com/mattn/go-sqlite3",
	"github.com/rabbitmq/", "github.com/twmb/franz-go", "github.com/redis/", "github.com/nats-io/", "github.com/prometheus/",
	"go.opentelemetry.io/otel/sdk", "go.opentelemetry.io/otel/exporters", "google.golang.org/grpc",
}

// pkg is what `go list` says of a package.
type pkg struct {
	ImportPath string
	Standard   bool
	GoFiles    []string
	Dir        string
	Imports    []string
	Deps       []string
}

// list returns the packages of the module.
func list(t *testing.T) map[string]pkg {
	t.Helper()
	cmd := exec.Command("go", "list", "-json", module+"/...")
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("go list: %v\n%s", err, stderr.String())
	}
	found := map[string]pkg{}
	for d := json.NewDecoder(bytes.NewReader(out)); ; {
		var p pkg
		if err := d.Decode(&p); errors.Is(err, io.EOF) {
			return found
		} else if err != nil {
			t.Fatal(err)
		}
		found[p.ImportPath] = p
	}
}

// path returns the import path of a package named as in the tables.
func path(name string) string { return strings.TrimSuffix(module+"/"+name, "/") }

func inModule(imported string) bool {
	return imported == module || strings.HasPrefix(imported, module+"/")
}

func TestImportTable(t *testing.T) {
	found := list(t)
	for name, allowed := range may {
		p, ok := found[path(name)]
		if !ok {
			t.Errorf("package %s of the import table does not exist", path(name))
			continue
		}
		for _, dep := range p.Deps {
			if !inModule(dep) {
				continue
			}
			short := strings.TrimPrefix(strings.TrimPrefix(dep, module), "/")
			if !slices.Contains(allowed, short) {
				t.Errorf("%s depends on %s, which the import table does not allow", p.ImportPath, dep)
			}
		}
	}
}

func TestImportsFromOutside(t *testing.T) {
	found := list(t)
	for name, allowed := range outside {
		for _, imported := range found[path(name)].Imports {
			first, _, _ := strings.Cut(imported, "/")
			if !strings.Contains(first, ".") || inModule(imported) {
				continue // of the standard library, or ours
			}
			if !slices.ContainsFunc(allowed, func(a string) bool { return strings.HasPrefix(imported, a) }) {
				t.Errorf("%s imports %s, which is not among %q", path(name), imported, allowed)
			}
		}
	}
}

// Whoever imports the SDK gets no database and no broker with it; nor does the
// engine know any.
func TestSDKAndEngineHoldNoDriver(t *testing.T) {
	found := list(t)
	for _, name := range []string{"", "internal/engine", "internal/api"} {
		for _, dep := range found[path(name)].Deps {
			for _, driver := range drivers {
				if strings.HasPrefix(dep, driver) {
					t.Errorf("%s depends on %s", path(name), dep)
				}
			}
		}
	}
}

// openers are the packages that may name a driver, and those of their files that
// may where not all do: so a few files say what Errand can talk to.
var openers = map[string]string{
	"internal/drivers": "",        // what an engine stands on, by its addresses
	"cmd/errand":       "wire.go", // what an operator asks of a ledger or a cache
	"errandtest":       "",        // a ledger in memory for users' tests
}

// registry is what embedded may name besides: it takes a user's registry.
const registry = "github.com/prometheus/client_golang/prometheus"

// ours are the drivers of this module.
var ours = []string{
	path("ledger/sqlite"), path("ledger/postgres"), path("broker/rabbitmq"), path("broker/kafka"),
	path("internal/cache/memory"), path("internal/cache/rediscache"),
}

func TestOnlyOpenersNameDrivers(t *testing.T) {
	for name, p := range list(t) {
		short := strings.TrimPrefix(strings.TrimPrefix(name, module), "/")
		only, opener := openers[short]
		if opener && only == "" {
			continue
		}
		product := short == "cmd/errand" || short == "embedded" // examples, tests and drivers may use a client
		for _, file := range p.GoFiles {
			if opener && file == only {
				continue
			}
			for _, imported := range importsOf(t, filepath.Join(p.Dir, file)) {
				foreign := slices.ContainsFunc(drivers, func(d string) bool { return strings.HasPrefix(imported, d) })
				if slices.Contains(ours, imported) || product && foreign && !(short == "embedded" && imported == registry) {
					t.Errorf("%s/%s imports %s: package internal/drivers opens it", short, file, imported)
				}
			}
		}
	}
}

// No package of the module is called by a name that says nothing.
func TestNoPackageForEverything(t *testing.T) {
	for p := range list(t) {
		switch name := p[strings.LastIndexByte(p, '/')+1:]; name {
		case "util", "utils", "common", "shared", "helpers", "misc":
			t.Errorf("package %s: one noun, one package", p)
		}
	}
}
