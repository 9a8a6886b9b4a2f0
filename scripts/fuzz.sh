#!/usr/bin/env bash
# Feeds what reads hostile bytes with mutated ones, each target for a while.
#
#   scripts/fuzz.sh [SECONDS] [TARGET]...   seconds for each target (60)
#
# Needs `cargo install --locked cargo-fuzz` and a C++ compiler. The targets are
# those of agent/fuzz and stacyvm/fuzz. What they found interesting is kept in
# target/fuzz/corpus and is where the next run begins; an input that breaks
# something is kept in target/fuzz/artifacts, is named, and fails the run.
set -euo pipefail
# shellcheck source=lib.sh
source "$(dirname "$0")/lib.sh"

seconds=${1:-60}
[[ $seconds =~ ^[1-9][0-9]*$ ]] || die "SECONDS is '$seconds', expected a whole number above zero"
shift || true
have cargo-fuzz || die "cargo-fuzz is missing: cargo install --locked cargo-fuzz"
# The names of a crate's targets.
targets_of() { sed -n '/^\[\[bin\]\]/,$ s/^name = "\(.*\)"$/\1/p' "$1/Cargo.toml"; }
crates=(agent/fuzz stacyvm/fuzz)
mapfile -t known < <(for crate in "${crates[@]}"; do targets_of "$crate"; done)
targets=("${@:-${known[@]}}")
(($# > 0)) || targets=("${known[@]}")
for name in "${targets[@]}"; do
    printf '%s\n' "${known[@]}" | grep -qx -- "$name" || die "there is no target '$name', expected one of: ${known[*]}"
done

# Archives begin with real ones: no mutation of nothing is a header.
seed() {
    local corpus=$1 tree format long
    tree=$(mktemp -d)
    # Longer than the field of a name, and still sayable in the oldest format.
    long=$(printf 'd%.0s' {1..80})
    mkdir -p "$tree/t/$long/$long"
    echo one >"$tree/t/file"
    ln -s file "$tree/t/link"
    ln "$tree/t/file" "$tree/t/hard"
    echo two >"$tree/t/$long/$long/file"
    for format in ustar pax gnu; do
        tar --format="$format" -C "$tree" -b 1 -cf "$corpus/seed-$format" t
    done
    # What only layers of images have: holes and extended attributes.
    truncate -s 1M "$tree/t/holes"
    echo x >>"$tree/t/holes"
    tar --format=gnu -S -C "$tree" -b 1 -cf "$corpus/seed-holes-old" t/holes
    for format in 0.0 0.1 1.0; do
        tar --format=pax -S --sparse-version="$format" -C "$tree" -b 1 -cf "$corpus/seed-holes-$format" t/holes
    done
    tar --format=pax --pax-option=SCHILY.xattr.user.a:=b -C "$tree" -b 1 -cf "$corpus/seed-xattr" t/file
    rm -rf "$tree"
}

# The instrumentation has unstable flags; a stable compiler takes them so.
export RUSTC_BOOTSTRAP=1
build=$root/target/fuzz
# Files that targets make lie in memory, and go with this script.
TMPDIR=$(mktemp -d -p "$([[ -d /dev/shm ]] && echo /dev/shm || echo /tmp)" stacyvm-fuzz-XXXXXX)
export TMPDIR
trap 'rm -rf "$TMPDIR"' EXIT
failed=0
for name in "${targets[@]}"; do
    step "fuzz $name for $seconds s"
    corpus=$build/corpus/$name artifacts=$build/artifacts/$name/
    mkdir -p "$corpus" "$artifacts"
    case $name in tar | layer) seed "$corpus" ;; esac
    for crate in "${crates[@]}"; do
        if targets_of "$crate" | grep -qx -- "$name"; then break; fi
    done
    cargo fuzz run --fuzz-dir "$crate" --target-dir "$build" -s none "$name" "$corpus" -- \
        -max_total_time="$seconds" -timeout=10 -malloc_limit_mb=64 -max_len=16384 -use_value_profile=1 \
        -print_final_stats=1 -verbosity=0 -artifact_prefix="$artifacts" 2>&1 |
        sed '/^###### Recommended/,/^###### End of/d' >&2 || failed=$((failed + 1))
done
((failed == 0)) || die "$failed of ${#targets[@]} targets failed; the inputs are in target/fuzz/artifacts"
say "${#targets[@]} targets ran for $seconds s each, and nothing broke"
