#!/usr/bin/env bash
# Packages the crates as for a registry, unpacks them in an empty folder, and
# builds there, without the workspace and without network, what a user would:
# the README's Rust example and the command line. As root both then make a
# real sandbox.
set -euo pipefail
# shellcheck source=lib.sh
source "$(dirname "$0")/lib.sh"

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
trap 'exit 130' INT TERM

# What the registry has not got: the crates themselves come from here.
crates=(stacyvm-agent stacyvm stacyvm-conformance stacyvm-cli)
version=$(cargo pkgid -p stacyvm | sed 's/.*[#@]//')
# Third-party crates are built once for all runs of this script.
target=${CARGO_TARGET_DIR:-$root/target}/package-test
# A prebuilt agent would hide one that cannot be built from its package.
unset STACYVM_AGENT_BINARY CARGO_TARGET_DIR
# Nobody debugs what is built here.
export CARGO_PROFILE_DEV_DEBUG=false

cargo package --workspace --quiet --offline --allow-dirty --no-verify --target-dir "$work/target"

needs() {
    local crate=$1 file
    shift
    for file in "$@"; do
        [[ -f $work/$crate-$version/$file && ! -L $work/$crate-$version/$file ]] ||
            die "the package $crate has no $file"
    done
}
for crate in "${crates[@]}"; do
    tar -xzf "$work/target/package/$crate-$version.crate" -C "$work"
    needs "$crate" Cargo.toml Cargo.lock README.md LICENSE
done
needs stacyvm-agent build.rs schema/generation-1.txt
needs stacyvm src/store/sqlite/schema.sql src/providers/oci/docs.md
rm -rf "$work/target"
# What profilers and editors drop, and anything that is no text.
strange=$(find "$work" -type f \( -name '*.profraw' -o -name '*~' -o -size +1M \))
[[ -z $strange ]] || die "a package holds $strange"

# The example as a user copies it: hidden lines of the documentation count too.
mkdir -p "$work/program/src"
sed -n '/^```rust$/,/^```$/p' README.md | sed '/^```/d; s/^# //' >"$work/program/src/main.rs"
grep -q 'fn main' "$work/program/src/main.rs" || die "the README has no Rust program"
cat >"$work/program/Cargo.toml" <<END
[package]
name = "program"
version = "0.0.0"
edition = "2024"

[dependencies]
stacyvm = "=$version"
rustix = { version = "1", features = ["process"] }
tokio = { version = "1", features = ["macros", "rt"] }

[workspace]
END
# The versions that the workspace is tested with, as there is no network.
cp Cargo.lock "$work/program/Cargo.lock"
cp Cargo.lock "$work/stacyvm-cli-$version/Cargo.lock"

build() {
    cargo build --quiet --offline --target-dir "$target" --manifest-path "$1/Cargo.toml" \
        --config "patch.crates-io.stacyvm.path='$work/stacyvm-$version'" \
        --config "patch.crates-io.stacyvm-agent.path='$work/stacyvm-agent-$version'" \
        --config "patch.crates-io.stacyvm-conformance.path='$work/stacyvm-conformance-$version'"
}
# Not from within the workspace: its settings must not reach these builds.
cd "$work"
build "$work/program"
build "$work/stacyvm-cli-$version"

# The points at which tests end a process are in no build that is shipped: not
# in the command line, nor in the program that it carries.
grep -q STACYVM_STATE_DIR "$target/debug/stacyvm" || die "the names in the program cannot be read"
for name in STACYVM_FAULT stacyvm-held helper.park.ledger create.intended; do
    if grep -q "$name" "$target/debug/stacyvm"; then die "the packaged program has points for faults: $name"; fi
done

if ((EUID != 0)); then
    say "built; not run: the embedded provider needs root"
    exit 0
fi
export STACYVM_STATE_DIR=$work/state
unset STACYVM_CONFIG
"$target/debug/program"
# It made exactly one sandbox and ended it.
ended=$("$target/debug/stacyvm" ls --all --quiet | wc -l)
living=$("$target/debug/stacyvm" ls --quiet | wc -l)
[[ $ended == 1 && $living == 0 ]] || die "the example made $ended sandboxes and left $living"
said=$("$target/debug/stacyvm" run -- echo 'from a package')
[[ $said == 'from a package' ]] || die "the packaged command line said: $said"
say "the packages build, and make sandboxes, outside the workspace"
