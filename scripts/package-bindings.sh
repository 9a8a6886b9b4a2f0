#!/usr/bin/env bash
# Packs what users of Python or Node install, and installs it where there is no compiler, no
# network and none of our sources. As root the program of the package's README then makes a
# real sandbox there: the agent came with the package.
#
#   scripts/package-bindings.sh python    after scripts/python.sh build
#   scripts/package-bindings.sh node      after scripts/node.sh build
#
# It packs the debug build that is there; what is published is packed in the same way.
set -euo pipefail
# shellcheck source=lib.sh
source "$(dirname "$0")/lib.sh"

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
trap 'exit 130' INT TERM
mkdir "$work/bin" "$work/home"

# Runs a command with what these programs need and nothing else.
lacking() {
    (cd "$work" && env -i PATH="$work/bin" HOME="$work/home" STACYVM_STATE_DIR="$work/state" "$@")
}
# Links programs of this machine to where that is all there is. Without root a sandbox has its
# ids by two of them.
only() {
    local program
    for program in "$@" newuidmap newgidmap; do
        if have "$program"; then ln -sf "$(command -v "$program")" "$work/bin/"; fi
    done
    for program in cargo rustc cc gcc clang; do
        if lacking "$program" --version >/dev/null 2>&1; then die "$program is there"; fi
    done
}
# The first program of a README.
program() { sed -n "/^\`\`\`$1\$/,/^\`\`\`\$/p" "$2" | sed '1d; /^```$/,$d'; }
runs() {
    local said
    if ((EUID != 0)); then
        say "installed; not run: the embedded provider needs root"
        exit 0
    fi
    said=$(lacking "$@" | tr -s '[:space:]' ' ')
    [[ $said == '45 0 ' ]] || die "the program of the README said: $said"
    say "installed and run where nothing could be compiled: $(basename "$packed") ($(du -h "$packed" | cut -f1))"
}

case ${1:-} in
    python)
        bin=$root/target/python/bin
        (cd stacyvm-py && VIRTUAL_ENV=$root/target/python "$bin/maturin" build --quiet --locked \
            --profile dev --interpreter "$bin/python" --out "$work/packed")
        packed=$(echo "$work"/packed/*.whl)
        only sh
        "$bin/python" -m venv --without-pip "$work/venv"
        # Of this machine is the installer alone.
        "$bin/python" -m pip --python "$work/venv/bin/python" install --quiet --no-index --no-cache-dir "$packed"
        program python stacyvm-py/README.md >"$work/program.py"
        runs "$work/venv/bin/python" program.py
        ;;
    node)
        (cd stacyvm-node && npm pack --silent --ignore-scripts --pack-destination "$work") >/dev/null
        packed=$(echo "$work"/*.tgz)
        only sh node npm
        mkdir "$work/app"
        echo '{ "private": true }' >"$work/package.json"
        lacking npm install --silent --offline --no-audit --no-fund "$packed"
        program js stacyvm-node/README.md >"$work/program.mjs"
        runs node program.mjs
        ;;
    *) die "expected python or node" ;;
esac
