#!/usr/bin/env bash
# Asserts what is absent: the program inside a sandbox stays small, and the
# library without features talks to no network and no database.
set -euo pipefail
# shellcheck source=lib.sh
source "$(dirname "$0")/lib.sh"

# package, cargo's feature arguments, then the crates that must not be there
absent() {
    local package=$1 arguments=$2 tree name found=0
    shift 2
    # shellcheck disable=SC2086  # several arguments in one word, on purpose
    tree=$(cargo tree -p "$package" $arguments -e normal --target all --prefix none --format '{lib}' | tr _ - | sort -u)
    [[ $tree == *"$package"* ]] || die "cargo tree does not list $package itself: nothing was checked"
    for name in "$@"; do
        if grep -qx -- "$name" <<<"$tree"; then
            say "$package $arguments must not depend on $name:"
            # shellcheck disable=SC2086
            cargo tree -p "$package" $arguments -e normal --target all -i "$name" >&2 || true
            found=1
        fi
    done
    ((found == 0)) || exit 1
    say "$package $arguments: $(wc -l <<<"$tree") crates, without $*"
}

# What must be there when it is asked for: else a renamed crate would pass.
present() {
    local package=$1 arguments=$2 name=$3
    # shellcheck disable=SC2086
    cargo tree -p "$package" $arguments -e normal --target all --prefix none --format '{lib}' | tr _ - | grep -x -- "$name" >/dev/null ||
        die "$package $arguments does not depend on $name: the checks above may look for the wrong names"
}

absent stacyvm-agent "--features guest" tokio serde serde-json rusqlite bollard hyper reqwest async-trait
present stacyvm-agent "--features guest" rustix
absent stacyvm "--no-default-features" bollard rusqlite libsqlite3-sys reqwest hyper rustls openssl native-tls flate2 zstd
absent stacyvm "--no-default-features --features image" bollard rusqlite libsqlite3-sys reqwest hyper rustls openssl native-tls
present stacyvm "--features image" zstd
present stacyvm "--features docker" bollard
present stacyvm "--features sqlite" rusqlite
