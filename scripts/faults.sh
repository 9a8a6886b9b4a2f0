#!/usr/bin/env bash
# Kills hosts at random moments of their work, many times, and looks for what
# is left behind. Needs root. The tests run a short form of the same.
#
#   scripts/faults.sh [ROUNDS] [SEED]    kills for each of five deeds (200)
set -euo pipefail
# shellcheck source=lib.sh
source "$(dirname "$0")/lib.sh"

export STACYVM_FAULT_ROUNDS=${1:-200}
export STACYVM_FAULT_SEED=${2:-$(date +%s)}
say "$STACYVM_FAULT_ROUNDS rounds for each deed, seed $STACYVM_FAULT_SEED"
# One by one: moments are counted from when a host begins, and a busy machine
# shifts them all to the same place.
exec cargo test -p stacyvm --test faults -- --test-threads=1 --nocapture host_killed
