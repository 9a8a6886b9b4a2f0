#!/usr/bin/env bash
# Everything that must hold before a change is merged. The README's test command.
#
#   scripts/test.sh              installs what is missing first (scripts/setup.sh)
#   scripts/test.sh --no-setup   takes the machine as it is
#
# All steps run. A summary at the end repeats the closing lines of the test
# runners and lists what failed, and what this machine could not run. An
# engine that was started for the tests is gone afterwards.
set -euo pipefail
# shellcheck source=lib.sh
source "$(dirname "$0")/lib.sh"

setup=true
for argument in "$@"; do
    case $argument in
        --no-setup) setup=false ;;
        *) die "unknown argument $argument, expected --no-setup" ;;
    esac
done

work=$(mktemp -d)
started_docker=false
finish() {
    # `if`, not `&&`: a false condition here would become the exit code.
    if $started_docker; then scripts/docker-host.sh stop || true; fi
    rm -rf "$work"
}
trap finish EXIT
trap 'exit 130' INT TERM

if $setup; then
    step setup
    scripts/setup.sh
fi

failed=0
run() {
    local title=$1
    shift
    step "$title"
    if "$@"; then
        printf 'ok      %s\n' "$title" >>"$work/summary"
    else
        printf 'failed  %s\n' "$title" >>"$work/summary"
        failed=$((failed + 1))
    fi
}
not_run() {
    say "not run: $*"
    printf 'not run %s\n' "$*" >>"$work/summary"
}

# Runs a test runner, shows what it prints, keeps its closing lines and its
# number of tests, and fails when that is zero.
counted() {
    local log=$work/log count passed=true
    "$@" 2>&1 | tee "$log" || passed=false
    sed -i 's/\x1b\[[0-9;]*m//g' "$log"
    # nextest: "Summary [ 1.2s] 34 tests run: ..."; cargo: "test result: ok. 34 passed; ..."
    grep -E '^ *Summary \[|^test result:' "$log" | sed 's/^ */        /' >>"$work/summary" || true
    count=$(sed -nE 's/^ *Summary \[[^]]*\] +([0-9]+)(\/[0-9]+)? tests? run:.*/\1/p; s/^test result: [^ ]+ ([0-9]+) passed;.*/\1/p' "$log" |
        awk '{ sum += $1 } END { print sum + 0 }')
    printf '%s\n' "$count" >>"$work/counts"
    if ((count == 0)); then
        say "no test ran: $*"
        return 1
    fi
    $passed
}

tests() {
    if have cargo-nextest; then
        counted cargo nextest run --no-fail-fast "$@"
    else
        counted cargo test --no-fail-fast --lib --bins --tests "$@"
    fi
}

docs() {
    export RUSTDOCFLAGS=-Dwarnings
    cargo doc --quiet --no-deps --workspace --exclude stacyvm-agent --all-features &&
        cargo doc --quiet --no-deps -p stacyvm-agent --features guest
}

run "format" cargo fmt --all --check
run "file sizes" scripts/size.sh
run "absent dependencies" scripts/deps.sh
if have cargo-deny; then
    run "licences and advisories" cargo deny --all-features check
else
    not_run "licences and advisories: no cargo-deny (\`cargo install --locked cargo-deny\`)"
fi
run "clippy" scripts/features.sh
run "documentation" docs

if output=$(scripts/docker-host.sh status 2>/dev/null); then
    export STACYVM_TEST_DOCKER_HOST=${output#DOCKER_HOST=}
elif output=$(scripts/docker-host.sh start); then
    started_docker=true
    export STACYVM_TEST_DOCKER_HOST=${output#DOCKER_HOST=}
else
    unset STACYVM_TEST_DOCKER_HOST
    not_run "docker tests: no docker engine could be used or started"
fi

# `--all-features` must not reach the agent: its feature `guest` builds the
# program itself, without the embedded bytes that everybody else needs.
run "tests" tests --workspace --exclude stacyvm-agent --all-features
run "tests of the agent" tests -p stacyvm-agent
run "tests of the program inside" tests -p stacyvm-agent --features guest
# The README's example opens the default state directory: not the user's own.
run "examples in the documentation" counted env STACYVM_STATE_DIR="$work/state" cargo test --doc --workspace --exclude stacyvm-agent --all-features
run "packages" scripts/package-test.sh

step "summary"
cat "$work/summary"
total=$(awk '{ sum += $1 } END { print sum + 0 }' "$work/counts" 2>/dev/null || echo 0)
((failed == 0)) || die "$failed steps failed"
printf 'all steps passed, %s tests ran\n' "$total"
