#!/usr/bin/env bash
# Regenerates the Go code of the wire contract. Needs protoc (Debian:
# protobuf-compiler and libprotobuf-dev); the plugins come from go.mod's tool lines, so that every
# machine makes the same bytes.
set -euo pipefail
cd "$(dirname "$0")/.."
bin=$(mktemp -d)
trap 'rm -rf "$bin"' EXIT
GOBIN="$bin" go install tool
PATH="$bin:$PATH" protoc -I proto --go_out=. --go_opt=module=github.com/errandhq/errand \
  --connect-go_out=. --connect-go_opt=module=github.com/errandhq/errand,simple \
  errand/v1/errand.proto keda/externalscaler.proto
