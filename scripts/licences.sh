#!/usr/bin/env bash
# The licence and the source of every crate that is built, tests included,
# against deny.toml. Offline, and without cargo-deny, whose advisory check this
# does not replace.
set -euo pipefail
# shellcheck source=lib.sh
source "$(dirname "$0")/lib.sh"

# The strings of `allow = [` in the section [licenses].
allowed=$(awk '/^\[/ { inside = ($0 == "[licenses]") } inside && /^ *"/ { gsub(/ WITH /, "+WITH+"); gsub(/[ ",]/, ""); print }' deny.toml)
[[ -n $allowed ]] || die "deny.toml allows no licence: the list could not be read"

# Whether an SPDX expression can be met with allowed licences alone. In SPDX as
# in shell arithmetic, AND binds closer than OR.
met() {
    local word expression='' words
    # `A/B` is what crates wrote before SPDX; `X WITH Y` is a licence of its own.
    words=$(sed 's/\// OR /g; s/ WITH /+WITH+/g; s/[()]/ & /g' <<<"$1")
    for word in $words; do
        case $word in
            OR) expression+='||' ;;
            AND) expression+='&&' ;;
            '(' | ')') expression+=$word ;;
            *) if grep -qxF -- "$word" <<<"$allowed"; then expression+=1; else expression+=0; fi ;;
        esac
    done
    [[ -n $expression ]] && ((expression))
}

# The judge itself, before it is believed.
for bad in '' 'GPL-3.0-only' 'MIT AND GPL-3.0-only' '(MIT OR GPL-3.0-only) AND SSPL-1.0' 'MIT WITH Unknown-exception'; do
    ! met "$bad" || die "the judge of licences accepts \`$bad\`"
done
for good in 'MIT' 'MIT/Apache-2.0' 'GPL-3.0-only OR MIT' '(MIT OR GPL-3.0-only) AND Unicode-3.0'; do
    met "$good" || die "the judge of licences refuses \`$good\`"
done

crates=$(cargo tree --locked --workspace --all-features --target all -e normal,build,dev --prefix none --no-dedupe --format '{p}|{l}' | sort -u | sed '/^$/d')
count=0
refused=0
while IFS='|' read -r crate licence; do
    count=$((count + 1))
    if ! met "$licence"; then
        say "$crate: licence \`$licence\` is not among those that deny.toml allows"
        refused=$((refused + 1))
    fi
done <<<"$crates"
((count > 50)) || die "cargo tree lists only $count crates: nothing was checked"

elsewhere=$(grep '^source = ' Cargo.lock | grep -vxF 'source = "registry+https://github.com/rust-lang/crates.io-index"' || true)
if [[ -n $elsewhere ]]; then
    say "Cargo.lock names other sources than crates.io: $elsewhere"
    refused=$((refused + 1))
fi
for crate in $(sed -n 's/.*{ crate = "\([^"]*\)".*/\1/p' deny.toml); do
    if grep -qxF "name = \"$crate\"" Cargo.lock; then
        say "Cargo.lock holds $crate, which deny.toml forbids"
        refused=$((refused + 1))
    fi
done
((refused == 0)) || die "$refused refusals"
say "$count crates, all under allowed licences and from crates.io"
