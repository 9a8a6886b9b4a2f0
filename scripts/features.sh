#!/usr/bin/env bash
# Lints the workspace as users may build it: default features, none, each one
# alone. A feature that only compiles beside another one is found here.
set -euo pipefail
# shellcheck source=lib.sh
source "$(dirname "$0")/lib.sh"

lint() {
    say "clippy $*"
    cargo clippy --quiet --all-targets "$@" -- -D warnings
}

lint --workspace
runs=1
while read -r member; do
    names=$(features "$member")
    [[ -n $names ]] || continue
    lint -p "$member" --no-default-features
    runs=$((runs + 1))
    for name in $names; do
        lint -p "$member" --no-default-features --features "$name"
        runs=$((runs + 1))
    done
done < <(members)
((runs > 1)) || die "no member of the workspace has a feature: the list could not be read"
say "$runs combinations of features are clean"
