# Everything that a contributor runs. `make test` needs Go, and root on Debian to
# install servers, or these installed, or ERRAND_TEST_POSTGRES and the like set: see README.

.PHONY: help build dashboards test soak check demo bench bench-footprint bench-ledger generate fuzz lint

help: ## this list
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1\t\2/p' Makefile

build: ## bin/errand
	scripts/build

dashboards: ## deploy/grafana/*.json from deploy/grafana/generate
	cd deploy/grafana/generate && go run . ..

test: ## everything with -race, and one seed of each fault scenario
	scripts/test

soak: ## the fault scenarios with many seeds and 20,000 jobs each, and long model runs
	scripts/soak

check: ## the whole gate: lint, generated code, tidy, vulnerabilities, then test
	scripts/check
	scripts/test

lint: ## the gate without the tests
	scripts/check

demo: ## the main job on real input: hash every file of DEMO_DIR (default: this repository)
	scripts/demo

bench: ## Errand beside its peers (PEERS, SCENARIOS, ROUNDS, JOBS, OUT: see scripts/bench)
	scripts/bench

bench-footprint: ## what a server needs: memory with a backlog, and what idle workers cost (LEDGER, JOBS, WORKERS, IDLE)
	scripts/build
	cd bench && go run . footprint -errand ../bin/errand -jobs $${JOBS:-1000000} -workers $${WORKERS:-100} -idle $${IDLE:-30s} -ledger "$${LEDGER:-}"

bench-ledger: ## the ledger's benchmarks
	scripts/test-services --only postgres go test -run '^$$' -bench . -benchtime $${BENCHTIME:-3s} ./ledger/...

generate: ## gen/ from proto/ (needs protoc)
	gen/generate.sh

fuzz: ## every fuzz test for FUZZTIME (default 30s)
	scripts/fuzz
