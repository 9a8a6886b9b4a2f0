#!/usr/bin/env bash
# Lints the workspace as users may build it: default features, none, each one
# alone, all. A feature that only compiles beside another one is found here.
set -euo pipefail
# shellcheck source=lib.sh
source "$(dirname "$0")/lib.sh"

runs=0
failed=0
lint() {
    say "clippy $*"
    runs=$((runs + 1))
    cargo clippy --locked --quiet --keep-going "$@" -- -D warnings || failed=$((failed + 1))
}

lint --workspace --all-targets
alone=0
while read -r member; do
    names=$(features "$member")
    [[ -n $names ]] || continue
    lint -p "$member" --no-default-features --all-targets
    # Beside the other features the tests are linted; alone, what users build.
    for name in $names; do
        lint -p "$member" --no-default-features --features "$name"
        alone=$((alone + 1))
    done
    lint -p "$member" --all-features --all-targets
done < <(members)
((alone > 0)) || die "no member of the workspace has a feature: the list could not be read"
((failed == 0)) || die "$failed of $runs combinations of features have warnings"
say "$runs combinations of features are clean"
