#!/usr/bin/env bash
# Does what docs/write-a-provider.md says, in an empty folder outside of the
# workspace: the page's commands, in its order, on the files of the example.
# Of the workspace only the crates `stacyvm` and `stacyvm-conformance` are
# there, under the names that the registry has for them, and no network.
set -euo pipefail
# The example's commands inherit what is ignored here, as SIGINT is of what a script
# has in the background.
if [[ -z ${STACYVM_EXAMPLE_SIGNALS:-} ]]; then
    STACYVM_EXAMPLE_SIGNALS=default exec env --default-signal "$0" "$@"
fi
# shellcheck source=lib.sh
source "$(dirname "$0")/lib.sh"

page=$root/docs/write-a-provider.md
example=$root/conformance/examples/processes
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
trap 'exit 130' INT TERM

# What a reader has not got: crates that no registry has yet, and a folder with
# what was built before.
mkdir "$work/.cargo"
cat >"$work/.cargo/config.toml" <<END
[build]
target-dir = "${CARGO_TARGET_DIR:-$root/target}/example"
incremental = false
[profile.dev]
debug = false
[net]
offline = true
[patch.crates-io]
stacyvm.path = "$root/stacyvm"
stacyvm-conformance.path = "$root/conformance"
END
unset CARGO_TARGET_DIR

# The page's commands: first those that make the crate, then those that test it.
awk -v to="$work/commands." '/^```/ { inside = ($0 == "```sh"); n += inside; next } inside { print > (to n) }' "$page"
grep -q 'cargo new' "$work/commands.1" && grep -q 'cargo test' "$work/commands.2" && [[ ! -e $work/commands.3 ]] ||
    die "the page's commands are not one block that makes a crate and one that tests it"

cd "$work"
# shellcheck source=/dev/null
source "$work/commands.1"
cp -r "$example/." .
# The versions that the workspace is tested with, as there is no network.
cp "$root/Cargo.lock" .
cargo fmt --check
cargo clippy --quiet --all-targets -- -D warnings
# shellcheck source=/dev/null
source "$work/commands.2"
