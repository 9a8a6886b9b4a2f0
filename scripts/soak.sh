#!/usr/bin/env bash
# Creates, uses and ends sandboxes for a long time and says whether memory,
# descriptors and threads of the process grow. Needs root. The tests run a short
# form of the same.
#
#   scripts/soak.sh [MINUTES]    60 by default
set -euo pipefail
# shellcheck source=lib.sh
source "$(dirname "$0")/lib.sh"

cargo build --release -p stacyvm --example soak >&2
STACYVM_STATE_DIR=$(mktemp -d)
export STACYVM_STATE_DIR
unset STACYVM_CONFIG
# A helper that was parked last is still going when the program ends.
trap 'rm -rf "$STACYVM_STATE_DIR" 2>/dev/null || { sleep 1; rm -rf "$STACYVM_STATE_DIR"; }' EXIT
target/release/examples/soak "${1:-60}"
