# Shared by the scripts beside it; sourced, never run.
# shellcheck shell=bash

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
cd "$root" || exit 1

# Messages go to standard error: standard output is for results that another
# program may read.
say() { printf '%s\n' "$*" >&2; }
step() { printf '\n== %s\n' "$*" >&2; }
die() {
    printf 'error: %s\n' "$*" >&2
    exit 1
}
have() { command -v "$1" >/dev/null 2>&1; }

# Names of the members of the workspace, one a line.
members() {
    cargo metadata --no-deps --offline --format-version 1 >/dev/null 2>&1 || cargo fetch >&2 || return 1
    cargo tree --workspace --depth 0 --prefix none | sed -n 's/^\([a-z][a-z0-9-]*\) v.*/\1/p' | sort -u
}

# The features of one member, one a line, `default` left out.
# cargo has no command that prints them, and a bare machine has no jq.
features() {
    local manifest
    manifest=$(cargo pkgid -p "$1" | sed 's/^path+file:\/\///; s/#.*//')/Cargo.toml
    awk '/^\[/ { inside = ($0 == "[features]") } inside && /^[a-z0-9_-]+ *=/ { sub(/ *=.*/, ""); print }' "$manifest" |
        grep -vx default || true
}
