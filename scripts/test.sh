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

# What is built once gains nothing by what would be built again.
export CARGO_INCREMENTAL=0
# Whatever opens the default state directory finds one of this run.
mkdir -m 700 "$work/state"
export STACYVM_STATE_DIR=$work/state
unset STACYVM_CONFIG

if $setup; then
    step setup
    scripts/setup.sh
fi

steps_failed=0
run() {
    local title=$1 began=$SECONDS result=ok
    shift
    step "$title"
    if ! "$@"; then
        result=failed
        steps_failed=$((steps_failed + 1))
    fi
    printf '%-7s %s (%s s)\n' "$result" "$title" $((SECONDS - began)) >>"$work/summary"
}
not_run() {
    say "not run: $*"
    printf 'not run %s\n' "$*" >>"$work/summary"
}

# A test that this machine lacks something for says `not run: <why>` and
# returns. Runners count it as passed; the last line counts it as skipped.
# Passed, failed and skipped of one runner:
note() { printf '%s %s %s\n' "$1" "$2" "$3" >>"$work/counts"; }
# How many lines of standard input say `not run: `; each reason goes into the summary.
declined() {
    sed -n 's/.*\(not run: .*\)/\1/p' >"$work/declined"
    sort "$work/declined" | uniq -c | sed 's/^ */        /' >>"$work/summary"
    wc -l <"$work/declined"
}

# Whoever started this in the background had Ctrl-C ignored, or by nohup the end of the
# terminal, and a shell cannot take that back for what it starts.
heeds_signals=()
if env --default-signal=HUP,INT,QUIT true 2>/dev/null; then heeds_signals=(env --default-signal=HUP,INT,QUIT); fi

# Runs a test runner, shows what it prints, and fails when no test ran.
runner() {
    local log=$work/log passed=true
    "${heeds_signals[@]}" "$@" 2>&1 | tee "$log" || passed=false
    sed -i 's/\x1b\[[0-9;]*m//g' "$log"
    grep -E '^ *Summary \[|^test result:|^[0-9]+ (passed|failed|skipped).* in [0-9.]+s|^[^a-z]* (pass|fail|skipped) [0-9]+$' "$log" | sed 's/^ */        /' >>"$work/summary" || true
    if ! grep -qE '^ *Summary \[.* [1-9][0-9]*(/[0-9]+)? tests? run:|^test result: .* [1-9][0-9]* (passed|failed)|^[1-9][0-9]* (passed|failed).* in [0-9.]+s|^[^a-z]* (pass|fail) [1-9]' "$log"; then
        say "no test ran: $*"
        note 0 1 0
        return 1
    fi
    $passed
}

# Of a runner that prints `test result: ok. 3 passed; 0 failed; 1 ignored; ...`
libtest() {
    local result=0 counts skipped
    if ! runner "$@"; then
        result=1
        libtest_failures "${*##*/}" <"$work/log" >>"$work/failures"
    fi
    counts=$(sed -nE 's/^test result: [^ ]+ ([0-9]+) passed; ([0-9]+) failed; ([0-9]+) ignored.*/\1 \2 \3/p' "$work/log" |
        awk '{ p += $1; f += $2; s += $3 } END { print p + 0, f + 0, s + 0 }')
    skipped=$(declined <"$work/log")
    read -r p f s <<<"$counts"
    note $((p - skipped)) "$f" $((s + skipped))
    return $result
}

# The suites of the conformance crate, each in one process as an outsider's are: some
# minutes faster than a process for each case, by the same programs.
in_one_process='binary_id(/^stacyvm-conformance::(mock|embedded|http_mock|http_embedded|http_python|python_package|node_package|docker.*)$/)'
suites() {
    local result=0 program
    if [[ ! -s $work/programs ]]; then
        cargo test --locked --no-run --workspace --exclude stacyvm-agent --all-features --message-format json |
            python3 -c '
import json, sys
for line in sys.stdin:
    what = json.loads(line)
    if "stacyvm-conformance" in what.get("package_id", "") or "/conformance#" in what.get("package_id", ""):
        if what.get("executable") and what["target"]["kind"] == ["test"]:
            print(what["target"]["name"], what["executable"])
' >"$work/programs"
    fi
    # What begins with `--` goes to the programs.
    local names=() options=()
    for word in "$@"; do
        if [[ $word == --* ]]; then options+=("$word"); else names+=("$word"); fi
    done
    for name in "${names[@]}"; do
        program=$(awk -v name="$name" '$1 == name { print $2 }' "$work/programs")
        say "conformance: $name"
        (cd conformance && libtest $as "${program:?no program of the suite $name}" "${options[@]}") || result=1
    done
    return $result
}
as=''

# Of pytest, which ends with `2 failed, 79 passed, 1 skipped in 14.06s`.
pytest_suite() {
    local result=0 line
    if ! runner scripts/python.sh test --quiet; then
        result=1
        grep -E -A 1 '^(FAILED|ERROR|E  ) ?' "$work/log" | tail -n 60 >>"$work/failures" || true
    fi
    line=$(grep -E '^[0-9]+ (passed|failed|skipped).* in [0-9.]+s' "$work/log" | tail -n 1)
    count() { sed -nE "s/(.*[^0-9]|^)([0-9]+) $1.*/\2/p" <<<"$line"; }
    declined <"$work/log" >/dev/null
    note "$(count passed | grep . || echo 0)" "$(count failed | grep . || echo 0)" "$(count skipped | grep . || echo 0)"
    return $result
}

# Of node:test, which ends with a line each of `pass 92`, `fail 0` and `skipped 3`.
node_suite() {
    local result=0
    if ! runner scripts/node.sh test; then
        result=1
        # What failed comes again at its end, after a line of its own.
        sed -n '/failing tests:$/,$p' "$work/log" | head -n 60 >>"$work/failures"
    fi
    count() { sed -nE "s/^[^a-z]* $1 ([0-9]+)$/\1/p" "$work/log" | tail -n 1 | grep . || echo 0; }
    declined <"$work/log" >/dev/null
    note "$(count pass)" "$(count fail)" "$(count skipped)"
    return $result
}

cargo_test() {
    libtest cargo test --locked --no-fail-fast "$@" -- --show-output
}

# The report has one <testcase> a test, with what it printed.
nextest() {
    local result=0 report line p f s skipped
    report=${target:?}/nextest/report/junit.xml
    rm -f "$report"
    # Tests wait for timers, engines and disks more than they compute.
    runner cargo nextest run --locked --profile report --test-threads $(($(nproc) + 1)) "$@" || result=1
    # `Summary [ 1.2s] 34 tests run: 33 passed (2 slow), 1 failed, 0 skipped`;
    # those that the filter of a command leaves out are no tests of it.
    line=$(grep -E '^ *Summary \[' "$work/log" | tail -n 1)
    p=$(sed -nE 's/.* ([0-9]+) passed.*/\1/p' <<<"$line")
    f=$(sed -E 's/.*run: //' <<<"$line" | grep -oE '[0-9]+ (failed|timed out|exec failed)' | awk '{ n += $1 } END { print n + 0 }')
    s=$(sed -nE 's/.* ([0-9]+) skipped.*/\1/p' <<<"$line")
    skipped=$(awk '/<testcase / { seen = 0 } /not run: / && !seen { seen = 1; sub(/.*not run: /, "not run: "); sub(/<.*/, ""); print }' "$report" 2>/dev/null | declined)
    note $((${p:-0} - skipped)) "$f" $((${s:-0} + skipped))
    if [[ ${f:-0} != 0 ]]; then failures "$report" >>"$work/failures" || true; fi
    return $result
}

# What each failed test of libtest's said by this command, to its last lines: between `---- NAME stdout ----`
# after `failures:` and the next of these or the list of names.
libtest_failures() {
    awk -v "by=$1" '
        function tell() { for (i = (n > 30 ? n - 29 : 1); i <= n; i++) print "    " substr(lines[i], 1, 400); n = 0 }
        /^failures:$/ { tell(); failed = 1; title = 0; next }
        /^test result:/ { tell(); failed = 0; title = 0 }
        failed && /^---- .* ----$/ { tell(); print "failed: " by ": " $0; title = 1; next }
        failed && title && NF { lines[++n] = $0 }
        END { tell() }'
}

# What each test of a report said that failed, to its last lines.
failures() {
    python3 - "$1" <<'PYTHON'
import sys, xml.etree.ElementTree as tree

for case in tree.parse(sys.argv[1]).iter("testcase"):
    failed = case.find("failure")
    if failed is None:
        failed = case.find("error")
    if failed is None:
        continue
    said = "\n".join(part.text or "" for part in [failed, *case.findall("system-out")])
    frame = lambda line: line.lstrip().startswith("at ") or line.split(":")[0].strip().isdigit()
    lines = [line for line in said.splitlines() if line.strip() and not frame(line)]
    print(f"failed: {case.get('classname')} {case.get('name')}")
    print("\n".join("    " + line[:400] for line in lines[-30:]))
PYTHON
}

tests() {
    if have cargo-nextest; then nextest "$@"; else cargo_test --lib --bins --tests "$@"; fi
}

docs() {
    local -x RUSTDOCFLAGS=-Dwarnings
    cargo doc --locked --quiet --no-deps --workspace --exclude stacyvm-agent --all-features &&
        cargo doc --locked --quiet --no-deps -p stacyvm-agent --features guest
}

# They build with cargo-fuzz alone (scripts/fuzz.sh); that they fit the code
# is seen without it, and without the C++ compiler that libFuzzer needs.
fuzz_targets() {
    CUSTOM_LIBFUZZER_PATH=/dev/null cargo check --locked --quiet --manifest-path agent/fuzz/Cargo.toml \
        --target-dir "${target:?}/fuzz-check"
}

run "format" cargo fmt --all --check
run "file sizes" scripts/size.sh
target=$(cargo metadata --locked --no-deps --format-version 1 | sed 's/.*"target_directory":"\([^"]*\)".*/\1/')
run "absent dependencies" scripts/deps.sh
run "licences and sources" scripts/licences.sh
if ! have cargo-deny; then
    not_run "advisories: no advisory database (no cargo-deny: \`cargo install --locked cargo-deny\`)"
elif ! cargo deny fetch db; then
    not_run "advisories: no advisory database (it could not be fetched)"
else
    run "advisories" cargo deny --all-features check
fi
run "clippy and features" scripts/features.sh
run "fuzz targets" fuzz_targets
run "documentation" docs

if output=$(scripts/docker-host.sh status 2>/dev/null); then
    export STACYVM_TEST_DOCKER_HOST=${output#DOCKER_HOST=}
elif
    # Before the call: an interrupted start has something to take back as well.
    started_docker=true
    output=$(scripts/docker-host.sh start)
then
    export STACYVM_TEST_DOCKER_HOST=${output#DOCKER_HOST=}
else
    unset STACYVM_TEST_DOCKER_HOST
    not_run "docker tests: no docker engine could be used or started"
fi

if output=$(scripts/debian-image.sh); then
    export STACYVM_TEST_DEBIAN=$output
else
    unset STACYVM_TEST_DEBIAN
    not_run "installing packages in a Debian: $output"
fi

# `--all-features` must not reach the agent: its feature `guest` builds the
# program itself, without the embedded bytes that everybody else needs.
if have cargo-nextest; then
    run "tests" nextest --workspace --exclude stacyvm-agent --all-features -E "not $in_one_process"
    run "conformance" suites mock http_mock http_python embedded http_embedded \
        docker docker_gvisor docker_gvisor_disk docker_one_user docker_engine_exec
else
    run "tests" tests --workspace --exclude stacyvm-agent --all-features
fi
run "tests without features" tests -p stacyvm --no-default-features --lib
run "tests of the agent" tests -p stacyvm-agent
run "tests of the program inside" tests -p stacyvm-agent --features guest
# The same tests as an ordinary user. Where they ran as one already, that was it.
without_root() (
    user=$1 which=$2
    # Root's engine: its socket is closed to them.
    unset STACYVM_TEST_DOCKER_HOST
    as="$root/scripts/rootless.sh $user"
    failed=0
    suites embedded --skip=probes. || failed=1
    tests --workspace --exclude stacyvm-agent --all-features \
        --config "target.'cfg(unix)'.runner = ['$root/scripts/rootless.sh', '$user']" -E "$which" || failed=1
    exit $failed
)
if [[ $(id -u) != 0 ]]; then
    say "these were the tests without root"
elif ! have cargo-nextest; then
    not_run "tests without root: no cargo-nextest"
else
    run "tests without root" without_root --range \
        'binary(/^(rootless|exec_contract|confinement|escape|host_directories|images|image_owners|namespaced_root|cli|copies|terminal)$/) | (binary(faults) & not test(/^points::/))'
    run "tests without root and a range of ids" without_root --single \
        'binary(/^(rootless|exec_contract|confinement|escape|images|namespaced_root|cli|copies)$/)'
fi
run "examples in the documentation" cargo_test --doc --workspace --exclude stacyvm-agent --all-features
if lacking=$(scripts/vm/image.sh); then
    run "tests in a virtual machine" libtest scripts/vm-test.sh
else
    not_run "tests in a virtual machine: $lacking"
fi
run "the example provider" libtest scripts/example.sh
if ! scripts/python.sh tools; then
    not_run "Python: its tools could not be installed (python3 with venv, and PyPI)"
else
    run "Python: build" scripts/python.sh build
    run "Python: what is generated, types" scripts/python.sh check
    run "Python" pytest_suite
    run "Python: its wheel" scripts/package-bindings.sh python
    if have cargo-nextest; then run "conformance through Python" suites python_package; fi
fi
if ! scripts/node.sh tools; then
    not_run "Node: its tools could not be installed (Node 20 or newer, npm, and its registry)"
else
    run "Node: build" scripts/node.sh build
    run "Node: what is generated, types" scripts/node.sh check
    run "Node" node_suite
    run "Node: its package" scripts/package-bindings.sh node
    if have cargo-nextest; then run "conformance through Node" suites node_package; fi
fi
run "packages" scripts/package-test.sh

step "summary"
cat "$work/summary"
# Last, since some who read this see its end alone.
if [[ -e $work/failures ]]; then cat "$work/failures"; fi
grep -E '^failed ' "$work/summary" || true
awk '{ p += $1; f += $2; s += $3 } END { printf "%d passed, %d failed, %d skipped\n", p, f, s }' "$work/counts"
((steps_failed == 0)) || die "$steps_failed steps failed"
