#!/usr/bin/env bash
# The Node package: builds, checks and tests it. May be run again at any time.
#
#   scripts/node.sh                    build, check, test
#   scripts/node.sh tools              installs what it is built and checked with
#   scripts/node.sh build [--release]  its tools, the native half, the JavaScript
#   scripts/node.sh check              types, and that generated files are the committed ones
#   scripts/node.sh test [FILE..]      its tests, or those of these files
#
# Without --release the native half has the dev profile.
set -euo pipefail
# shellcheck source=lib.sh
source "$(dirname "$0")/lib.sh"
cd stacyvm-node
have npm || die "npm is missing: install Node 20 or newer"

tools() {
    node -e 'process.exit(process.versions.node.split(".")[0] >= 20 ? 0 : 1)' ||
        die "node is $(node --version 2>/dev/null || echo missing), expected 20 or newer"
    # What is installed is of this lock file already, or is made so.
    if ! cmp -s package-lock.json node_modules/.of-lock; then
        npm ci --ignore-scripts --no-audit --no-fund >&2
        cp package-lock.json node_modules/.of-lock
    fi
}

build() {
    step "the Node package: build"
    tools
    npx --no-install napi build --platform --output-dir native "$@" >&2
    rm -rf dist
    npx --no-install tsc -p .
}

check() {
    step "the Node package: check"
    npx --no-install tsc -p examples
    npx --no-install tsc -p tests/e2b_programs --noEmit
    git diff --exit-code -- native package-lock.json ||
        die "generated files differ from the committed ones: commit what scripts/node.sh build made"
    [[ -z $(git ls-files --others --exclude-standard -- native) ]] || die "native/ has files that are not committed"
    if grep -oE '"resolved": "https?://[^/"]+' package-lock.json | grep -v '"https://registry.npmjs.org$'; then
        die "package-lock.json names another registry than registry.npmjs.org"
    fi
}

tests() {
    step "the Node package: test"
    if (($#)); then node --test "$@"; else node --test tests/*.test.mjs; fi
}

case ${1-} in
    tools | build | check) "$@" ;;
    test) shift && tests "$@" ;;
    "") build && check && tests ;;
    *) die "unknown argument $1, expected tools, build, check or test" ;;
esac
