#!/usr/bin/env bash
# Measures stacyvm beside its peers in one run and prints ratios.
#
#   scripts/bench.sh [--quick] [create|image|pool|exec|stream|idle|fork|destroy|crowd|abuse|rootless|wire|docker|bindings]...
#   scripts/bench.sh unpack          the import of an image beside skopeo and umoci
#
# Needs root, for the embedded provider and for runc. Peers that are missing
# are printed as `blocked`; scripts/setup.sh installs them. With a Docker
# engine (DOCKER_HOST, or the one of scripts/docker-host.sh) Docker is a peer too;
# STACYVM_BENCH_RUNTIME=runsc measures that runtime of it alone.
set -euo pipefail
cd "$(dirname "$0")/.."

if [ "${1:-}" = unpack ]; then
    exec cargo run --release -p stacyvm --example image_unpack
fi
cargo build --release -p stacyvm --features server --example bench
if [ -z "${DOCKER_HOST:-}" ] && host=$(scripts/docker-host.sh status 2>/dev/null | sed -n 's/^DOCKER_HOST=//p'); then
    export DOCKER_HOST=$host
fi
if [ -n "${DOCKER_HOST:-}" ] && docker version >/dev/null 2>&1; then
    export STACYVM_BENCH_IMAGE=${STACYVM_BENCH_IMAGE:-stacyvm-test/busybox}
fi
case " $* " in
    *" docker "*)
        # Client libraries of other languages, by the package managers of their languages.
        peers=$PWD/target/bench-peers
        if [ ! -x "$peers/py/bin/python" ]; then python3 -m venv "$peers/py"; fi
        if "$peers/py/bin/pip" install --quiet docker==7.2.0 llm-sandbox==0.3.46 &&
            npm install --silent --no-fund --no-audit --prefix "$peers/js" dockerode@5.0.1; then
            export STACYVM_BENCH_PEERS=$peers
        fi
        ;;
esac
case " $* " in
    *" bindings "*)
        # The packages as users install them, optimised, with a client of Docker beside each.
        export STACYVM_BENCH_PYTHON=$PWD/target/bench-python STACYVM_BENCH_NODE=$PWD/target/bench-node
        if [ ! -x "$STACYVM_BENCH_PYTHON/bin/python" ]; then python3 -m venv "$STACYVM_BENCH_PYTHON"; fi
        "$STACYVM_BENCH_PYTHON/bin/pip" install --quiet ./stacyvm-py docker==7.2.0
        mkdir -p "$STACYVM_BENCH_NODE"
        npm install --silent --no-fund --no-audit --prefix "$STACYVM_BENCH_NODE" ./stacyvm-node dockerode@5.0.1
        ;;
esac
STACYVM_STATE_DIR=$(mktemp -d)
export STACYVM_STATE_DIR
# A helper that was parked last is still going when the program ends.
trap 'rm -rf "$STACYVM_STATE_DIR" 2>/dev/null || { sleep 1; rm -rf "$STACYVM_STATE_DIR"; }' EXIT

# crun refuses a hybrid set-up of cgroups; without the `unified` mount, which
# is taken away in a mount namespace of this run alone, it works.
unshare --mount --propagation slave sh -c '
    if [ -d /sys/fs/cgroup/unified ]; then umount /sys/fs/cgroup/unified; fi
    exec target/release/examples/bench "$@"' bench "$@"
