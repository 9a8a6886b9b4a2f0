#!/usr/bin/env bash
# Breaks the code that keeps a promise, and expects the promise's tests to fail:
# a test that passes whatever the code does holds nothing.
#
#   scripts/mutants.sh [ROW]...   rows of docs/specification.md (all that have a patch)
#
# scripts/mutants/ROW.patch says in its head what it breaks and which tests of
# the row must fail (`fails: file#function`); below stands a patch for `git apply`.
# Works on a clone of HEAD in target/mutants, with a target directory of its
# own, and changes nothing here. Needs what the tests need: root for most.
#
# A mutant is caught when all its tests fail by a panic of their own. One that
# does not compile, hangs or crashes the test program is a failure of this script.
set -euo pipefail
# shellcheck source=lib.sh
source "$(dirname "$0")/lib.sh"

patches=$root/scripts/mutants
scratch=$root/target/mutants
tree=$scratch/tree
# Seconds for the tests of one program; those that wait for a hang end earlier.
patience=240

rows=("$@")
if (($# == 0)); then
    mapfile -t rows < <(find "$patches" -name '*.patch' -printf '%f\n' | sed 's/\.patch$//' | sort -V)
fi
((${#rows[@]} > 0)) || die "there is no patch in scripts/mutants"
for row in "${rows[@]}"; do
    [[ -f $patches/$row.patch ]] || die "there is no scripts/mutants/$row.patch"
done

[[ -z $(git status --porcelain -uno) ]] || say "changes that are not committed are not seen; patches are"
mkdir -p "$scratch"
[[ -d $tree/.git ]] || git clone -q --shared --no-checkout "$root" "$tree"
git -C "$tree" fetch -q "$root" HEAD
git -C "$tree" checkout -qf --detach FETCH_HEAD
git -C "$tree" clean -qfd

work=$(mktemp -d)
trap 'git -C "$tree" checkout -qf . || true; rm -rf "$work"' EXIT
trap 'exit 130' INT TERM
export STACYVM_STATE_DIR=$work/state
unset STACYVM_CONFIG
export CARGO_TARGET_DIR=$scratch/target CARGO_PROFILE_DEV_DEBUG=0 CARGO_PROFILE_TEST_DEBUG=0

# The program inside, built for speed of building: the release build that is
# embedded otherwise would take most of the time.
agent() {
    local triple
    triple=$(rustc -vV | sed -n 's/^host: //p')
    (cd "$tree" && RUSTFLAGS='-Ctarget-feature=+crt-static -Crelocation-model=static' CARGO_PROFILE_DEV_OPT_LEVEL=1 \
        cargo build --locked --quiet -p stacyvm-agent --features guest --bin stacyvm-agent --target "$triple") || return 1
    export STACYVM_AGENT_BINARY=$CARGO_TARGET_DIR/$triple/debug/stacyvm-agent
}

# `file#function` as `cargo arguments|pattern of the test's name`
place() {
    local file=${1%%#*} name=${1#*#} package feature="" module
    case $file in
        agent/*) package=stacyvm-agent feature=" --features guest" ;;
        stacyvm-cli/*) package=stacyvm-cli ;;
        stacyvm/*) package=stacyvm feature=" --all-features" ;;
        *) die "no package for $file" ;;
    esac
    module=${file#*/}
    case $module in
        tests/*/*) printf '%s' "-p $package$feature --test $(cut -d/ -f2 <<<"$module")|^$(basename "$module" .rs)::$name\$" ;;
        tests/*) printf '%s' "-p $package$feature --test $(basename "$module" .rs)|^$name\$" ;;
        # The cases of a suite are tests of whoever passes it.
        */contract.rs) printf '%s' "-p $package$feature --lib|::$name\$" ;;
        src/*)
            module=${module#src/} module=${module%.rs} module=${module%/mod}
            local kind=--lib
            [[ $package == stacyvm-cli ]] && kind=--bins
            printf '%s' "-p $package$feature $kind|^${module//\//::}::(.*::)?$name\$"
            ;;
        *) die "no test program for $file" ;;
    esac
}

# Runs tests of a file of `file#function` lines. Writes `verdict file#function`
# lines: ok, failed (by a panic), lost (hung, crashed, not run, not found).
# Fails when something does not compile.
try() {
    local tests=$1 verdicts=$2 id target pattern names name log=$work/log
    : >"$verdicts"
    agent 2>"$work/build" || return 1
    while read -r id; do printf '%s|%s\n' "$(place "$id")" "$id"; done <"$tests" >"$work/places"
    while read -r target; do
        # Tests of the helper start an example, which no test program brings along.
        if [[ $target == *stacyvm-agent* ]]; then
            (cd "$tree" && cargo build --locked --quiet -p stacyvm-agent --features guest --examples) 2>"$work/build" </dev/null || return 1
        fi
        # shellcheck disable=SC2086  # several arguments in one word, on purpose
        (cd "$tree" && cargo test --locked --quiet $target --no-run) 2>"$work/build" </dev/null || return 1
        # shellcheck disable=SC2086
        (cd "$tree" && cargo test --locked --quiet $target -- --list) 2>/dev/null </dev/null | sed -n 's/: test$//p' >"$work/list"
        : >"$work/names"
        while IFS='|' read -r _ pattern id; do
            grep -E -- "$pattern" "$work/list" | sed "s|\$| $id|" >>"$work/names" || printf 'lost %s (not found)\n' "$id" >>"$verdicts"
        done < <(grep -F -- "$target|" "$work/places")
        mapfile -t names < <(cut -d' ' -f1 "$work/names")
        ((${#names[@]} > 0)) || continue
        # shellcheck disable=SC2086
        (cd "$tree" && timeout "$patience" cargo test --locked $target -- --exact --show-output --test-threads=2 "${names[@]}") >"$log" 2>&1 </dev/null || true
        while read -r name id; do
            # What this one printed.
            awk -v head="---- $name stdout ----" '$0 == head { on = 1; next } /^---- .* stdout ----$|^(failures|successes):$/ { on = 0 } on' "$log" >"$work/own"
            if grep -q "^test $name\( - should panic\)\? \.\.\. ok" "$log"; then
                if grep -q 'not run: ' "$work/own"; then
                    printf 'lost %s (%s)\n' "$id" "$(grep -om1 'not run: .*' "$work/own")"
                else
                    printf 'ok %s\n' "$id"
                fi
            elif grep -q "^test $name\( - should panic\)\? \.\.\. FAILED" "$log" && grep -q 'panicked at' "$work/own"; then
                printf 'failed %s\n' "$id"
                grep -A2 -m1 'panicked at' "$work/own" | sed 's/^/        /' | cut -c1-160 >>"$work/why"
            else
                printf 'lost %s (hung or crashed: %s)\n' "$id" "$(tail -n 1 "$log" | cut -c1-120)"
            fi
        done <"$work/names" >>"$verdicts"
    done < <(cut -d'|' -f1 "$work/places" | sort -u)
}

fails() { sed -n '/^diff --git /q; s/^fails: //p' "$patches/$1.patch"; }

step "all tests hold on unbroken code"
for row in "${rows[@]}"; do fails "$row"; done | sort -u >"$work/all"
if ! try "$work/all" "$work/before"; then
    cat "$work/build" >&2
    die "the tests do not compile without any mutant"
fi
if grep -v '^ok ' "$work/before" >&2; then die "these do not hold even without a mutant, so nothing can be learned from them"; fi
say "$(wc -l <"$work/before") tests hold"

caught=0 survived=0 unapplied=0 broken=0
for row in "${rows[@]}"; do
    step "$row: $(sed -n '1s/^[^ ]* //p' "$patches/$row.patch")"
    git -C "$tree" checkout -qf .
    fails "$row" >"$work/tests"
    if [[ ! -s $work/tests ]]; then
        say "names no test"
        broken=$((broken + 1))
    elif ! git -C "$tree" apply "$patches/$row.patch"; then
        say "did not apply"
        unapplied=$((unapplied + 1))
    else
        : >"$work/why"
        if ! try "$work/tests" "$work/after"; then
            cat "$work/build" >&2
            say "does not compile"
            broken=$((broken + 1))
            continue
        fi
        cat "$work/after" "$work/why" >&2
        if grep -q '^lost ' "$work/after"; then
            broken=$((broken + 1))
        elif grep -q '^ok ' "$work/after"; then
            survived=$((survived + 1))
        else
            caught=$((caught + 1))
        fi
    fi
done

step "summary"
((broken == 0)) || say "$broken mutants could not be judged"
printf '%d mutants: %d caught, %d survived, %d did not apply\n' "${#rows[@]}" "$caught" "$survived" "$unapplied"
((caught == ${#rows[@]}))
