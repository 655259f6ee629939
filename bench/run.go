package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/errandhq/errand/bench/services"
	"github.com/errandhq/errand/internal/bench"
)

// runner carries a run out and keeps its figures.
type runner struct {
	options
	self        string // this program
	dir         string // holds the servers' data
	started     time.Time
	load        string // of the machine, beforehand
	environment json.RawMessage
	brokers     map[string]string // URLs of the carriers that run
	cache       string            // address of Redis beside PostgreSQL, while it runs
	versions    []string          // of the servers
	figures     []figure
	count, all  int
}

// figure is one measurement.
type figure struct {
	Group    string       `json:"group"`
	System   string       `json:"system"`
	Scenario string       `json:"scenario"`
	Round    int          `json:"round"`
	Result   bench.Result `json:"result"`
}

func (r *runner) run(ctx context.Context) (err error) {
	if r.self, err = os.Executable(); err != nil {
		return err
	}
	if r.dir, err = os.MkdirTemp("", "errand-peers-"); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(r.dir)) }()
	// Servers that refuse root must reach their own directories.
	if err := os.Chmod(r.dir, 0o755); err != nil {
		return err
	}
	for _, g := range r.groups() {
		r.all += r.rounds * r.pairs(g)
	}
	for _, g := range r.groups() {
		if err := r.group(ctx, g); err != nil {
			return fmt.Errorf("%s: %w", g, err)
		}
	}
	return nil
}

// chosen lists the systems of a group that are to run.
func (r *runner) chosen(group string) []system {
	var out []system
	for _, s := range systems {
		if s.group == group && (s.name == "errand" || slices.Contains(r.peers, s.name)) {
			out = append(out, s)
		}
	}
	return out
}

// groups lists those in which there is somebody beside Errand.
func (r *runner) groups() []string {
	var out []string
	for _, g := range []string{onPostgres, onSQLite, onRedis, onCarrier} {
		if slices.ContainsFunc(r.chosen(g), func(s system) bool { return s.name != "errand" }) {
			out = append(out, g)
		}
	}
	return out
}

// pairs counts the measurements of a round.
func (r *runner) pairs(group string) int {
	n := 0
	for _, sys := range r.chosen(group) {
		for _, sc := range r.scenarios {
			if slices.Contains(sys.scenarios, sc) {
				n++
			}
		}
	}
	return n
}

// bed is a running server, or a directory, that gives each measurement an empty
// place.
type bed struct {
	fresh func(ctx context.Context, sys system) (address string, drop func() error, err error)
	stop  func() error
}

func (r *runner) group(ctx context.Context, group string) (err error) {
	b, err := r.bed(ctx, group)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, b.stop()) }()
	list := r.chosen(group)
	for _, name := range r.scenarios {
		for round := range r.rounds {
			// Each round begins with another system, so that none is always the
			// one after a pause.
			for i := range list {
				sys := list[(i+round)%len(list)]
				if !slices.Contains(sys.scenarios, name) {
					continue
				}
				if err := r.one(ctx, b, sys, findScenario(name), round); err != nil {
					return fmt.Errorf("%s of %s: %w", name, sys.name, err)
				}
			}
		}
	}
	return nil
}

// one makes a measurement and tells of it.
func (r *runner) one(ctx context.Context, b bed, sys system, sc scenario, round int) (err error) {
	address, drop, err := b.fresh(ctx, sys)
	if err != nil {
		return err
	}
	res, err := r.measure(ctx, sys, sc, address)
	if err = errors.Join(err, drop()); err != nil {
		return err
	}
	r.count++
	r.figures = append(r.figures, figure{sys.group, sys.name, sc.name, round, res})
	said := fmt.Sprintf("%.0f jobs/s", res.JobsPerSecond)
	if sc.of == bench.Latency && res.P50 != nil && res.P99 != nil {
		said = fmt.Sprintf("p50 %.2f ms, p99 %.2f ms", *res.P50, *res.P99)
	}
	fmt.Fprintf(os.Stderr, "%4d/%d  %-10s %-9s round %d  %-14s %s\n", r.count, r.all, sys.group, sc.name, round+1, sys.name, said)
	return nil
}

// bed starts what a group stands on.
func (r *runner) bed(ctx context.Context, group string) (bed, error) {
	switch group {
	case onPostgres:
		return r.cachedBed(ctx)
	case onSQLite:
		return bed{fresh: r.freshFile, stop: func() error { return nil }}, nil
	case onRedis:
		s, err := services.Redis(ctx, r.dir)
		if err != nil {
			return bed{}, err
		}
		r.say(s.Version + " (AOF, synced every second)")
		return bed{stop: s.Stop, fresh: func(ctx context.Context, _ system) (string, func() error, error) {
			return s.Address, func() error { return nil }, services.Flush(ctx, s)
		}}, nil
	default:
		return r.carrierBed(ctx)
	}
}

// cachedBed is PostgreSQL, with Redis beside it if that is to be measured.
func (r *runner) cachedBed(ctx context.Context) (bed, error) {
	b, err := r.postgresBed(ctx)
	if err != nil || !slices.Contains(r.peers, "errand-redis") {
		return b, err
	}
	s, err := services.Redis(ctx, r.dir)
	if err != nil {
		return b, errors.Join(err, b.stop())
	}
	r.say(s.Version + " (AOF, synced every second)")
	r.cache = s.Address
	stop := b.stop
	b.stop = func() error { return errors.Join(stop(), s.Stop()) }
	return b, nil
}

func (r *runner) postgresBed(ctx context.Context) (bed, error) {
	s, err := services.Postgres(ctx, r.dir)
	if err != nil {
		return bed{}, err
	}
	r.say(s.Version + " (default durability, shared_buffers 1 GB)")
	n := 0
	return bed{stop: s.Stop, fresh: func(ctx context.Context, _ system) (string, func() error, error) {
		n++
		return services.Database(ctx, s, fmt.Sprintf("bench_%d", n))
	}}, nil
}

// freshFile names a SQLite file that is not there.
func (r *runner) freshFile(context.Context, system) (string, func() error, error) {
	dir, err := os.MkdirTemp(r.dir, "sqlite-")
	return filepath.Join(dir, "bench.db"), func() error { return os.RemoveAll(dir) }, err
}

// carrierBed starts the carriers that are to run, each of which empties its own
// queue, and PostgreSQL for Errand beside them.
func (r *runner) carrierBed(ctx context.Context) (bed, error) {
	records, err := r.postgresBed(ctx)
	if err != nil {
		return bed{}, err
	}
	running := map[string]*services.Server{}
	b := bed{stop: func() error {
		err := records.stop()
		for _, s := range running {
			err = errors.Join(err, s.Stop())
		}
		return err
	}}
	b.fresh = func(ctx context.Context, sys system) (string, func() error, error) {
		if sys.on == onErrand {
			return records.fresh(ctx, sys)
		}
		return running[sys.name].Address, func() error { return nil }, nil
	}
	start := map[string]func(dir string) (*services.Server, error){
		"rabbitmq": services.RabbitMQ, "kafka": services.Kafka, "nats": services.NATS,
	}
	for name, serve := range start {
		if !slices.ContainsFunc(r.chosen(onCarrier), func(s system) bool { return s.carrier() == name }) {
			continue
		}
		s, err := serve(r.dir)
		if err != nil {
			return b, errors.Join(err, b.stop())
		}
		running[name] = s
		r.say(s.Version)
	}
	r.brokers = map[string]string{}
	if s := running["rabbitmq"]; s != nil {
		r.brokers["rabbitmq"] = s.Address
	}
	if s := running["kafka"]; s != nil {
		r.brokers["kafka"] = "kafka://" + s.Address
	}
	return b, nil
}

// say notes what a server is, once.
func (r *runner) say(version string) {
	if !slices.Contains(r.versions, version) {
		r.versions = append(r.versions, version)
	}
}
