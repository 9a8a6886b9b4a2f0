#!/usr/bin/env bash
# Kills hosts, helpers and agents, and fills disks, at each named point of their
# work; then kills hosts at random moments. The same for Docker, on engines of its
# own, which are killed as well, and misbehave in each call. Prints what the next
# start found and what was left. Needs root. The tests run a short form of the same.
#
#   scripts/faults.sh [ROUNDS] [SEED]    kills at each point (5)
set -euo pipefail
# shellcheck source=lib.sh
source "$(dirname "$0")/lib.sh"

rounds=${1:-5}
export STACYVM_FAULT_SEED=${2:-$(date +%s)}
log=$(mktemp)
trap 'rm -f "$log"' EXIT
failed=false

# One by one: moments are counted from when a host begins, and a busy machine
# shifts them all to the same place.
tests() {
    cargo test -p stacyvm --all-features --test "$1" -- --test-threads=1 --nocapture "$2" 2>&1 | tee -a "$log" |
        grep -vE '^(error: io error when listing tests|$)' || failed=true
}

say "$rounds rounds for each point, seed $STACYVM_FAULT_SEED"
STACYVM_FAULT_ROUNDS=$rounds tests faults points::
STACYVM_FAULT_ROUNDS=$rounds tests image_faults a_kill
STACYVM_FAULT_ROUNDS=$rounds tests image_registry killed::
STACYVM_FAULT_ROUNDS=$((rounds * 8)) tests faults host_killed::
if have dockerd; then
    # Any value: each test starts an engine of its own.
    export STACYVM_TEST_DOCKER_HOST=${STACYVM_TEST_DOCKER_HOST:-private}
    STACYVM_FAULT_ROUNDS=$rounds tests docker_faults host_killed::
    STACYVM_FAULT_ROUNDS=$rounds tests docker_faults agent_killed::
    STACYVM_FAULT_ROUNDS=$rounds tests docker_faults daemon_killed::
    STACYVM_FAULT_ROUNDS=1 tests docker_faults misbehaving::
else
    say "not run: faults of Docker: no dockerd"
fi
printf '\n== what was found\n'
grep -E ' points, .* rounds, .* wrong$|sandboxes found, and how often' "$log" || true
awk '/ points, .* rounds, .* wrong$/ { for (i = 1; i <= NF; i++) { if ($(i + 1) ~ /^points/) p += $i; if ($(i + 1) ~ /^rounds/) r += $i; if ($(i + 1) ~ /^wrong/) w += $i } }
    END { printf "%d points, %d rounds, %d wrong\n", p, r, w }' "$log"
if $failed; then die "a test failed"; fi
