#!/usr/bin/env bash
# The Python package in a virtual environment of its own (target/python).
#
#   scripts/python.sh tools    makes the environment
#   scripts/python.sh build    makes the environment, builds the package into it
#   scripts/python.sh check    what is generated is what is committed; mypy, pyright
#   scripts/python.sh test     its tests; more arguments go to pytest
#   scripts/python.sh generate writes what is generated
#
# It installs maturin, pytest, mypy and pyright there, from PyPI, and nothing
# elsewhere.
set -euo pipefail
# shellcheck source=lib.sh
source "$(dirname "$0")/lib.sh"

export VIRTUAL_ENV=$root/target/python
bin=$VIRTUAL_ENV/bin
package=$root/stacyvm-py

environment() {
    [[ -x $bin/pip ]] || python3 -m venv "$VIRTUAL_ENV" || return 1
    "$bin/pip" install --quiet --disable-pip-version-check -r "$package/requirements-dev.txt"
}

# As a debug build: what users install by pip is optimised.
build() { (cd "$package" && "$bin/maturin" develop --quiet --locked --profile dev); }

stubs() {
    local into=$1
    (cd "$package" && "$bin/maturin" generate-stubs --quiet --locked --profile dev --out "$into")
}

check() {
    local made failed=0
    made=$(mktemp -d)
    # shellcheck disable=SC2064  # the path as it is now
    trap "rm -rf '$made'" RETURN
    scripts/python-sync.py --check || failed=1
    stubs "$made"
    diff -u "$package/python/stacyvm/_native.pyi" "$made/stacyvm/_native.pyi" || failed=1
    (cd "$package" && "$bin/mypy" --strict python tests) || failed=1
    (cd "$package" && "$bin/pyright" --pythonpath "$bin/python" python tests) || failed=1
    ((failed == 0)) || die "the Python package has faults, or \`scripts/python.sh generate\` was not run"
}

case ${1:-} in
    tools) environment ;;
    build) environment && build ;;
    check) check ;;
    generate)
        scripts/python-sync.py
        made=$(mktemp -d)
        stubs "$made"
        mv "$made/stacyvm/_native.pyi" "$package/python/stacyvm/_native.pyi"
        rm -r "$made"
        ;;
    test)
        shift
        cd "$package"
        exec "$bin/python" -m pytest -rs "$@"
        ;;
    *) die "expected tools, build, check, generate or test" ;;
esac
