#!/usr/bin/env bash
# Brings a machine to the point where `scripts/test.sh` can run everything.
#
#   scripts/setup.sh            install what is missing (needs root and apt)
#   scripts/setup.sh --check    only say what it would do
#
# It may be run again at any time: what is there is left alone. On a system
# without apt, or without root, it names what is missing and goes on, because
# most tests need none of it. It fails only when nothing can be built.
set -euo pipefail
# shellcheck source=lib.sh
source "$(dirname "$0")/lib.sh"

check=false
for argument in "$@"; do
    case $argument in
        --check) check=true ;;
        *) die "unknown argument $argument, expected --check" ;;
    esac
done

# A busybox for an image must not need a loader.
static_busybox() {
    local path
    path=$(command -v busybox) && ! ldd "$path" >/dev/null 2>&1
}
# What is needed to build youki is not where it is there.
has_venv() { python3 -c 'import ensurepip, venv' 2>/dev/null; }
for_youki() { have youki || "$@"; }
docker_host() { have dockerd || scripts/docker-host.sh status >/dev/null 2>&1; }

# package | test that says it is there | why
needs=(
    "build-essential|have cc|links the library; its static libc goes into the agent"
    "git|have git|lists the source files that are checked"
    "e2fsprogs|have mke2fs|makes the file systems of sandboxes with a disk limit"
    "uidmap|have newuidmap|maps the range of ids of a user without root"
    "iproute2|have ip|brings up the loopback of the private Docker host"
    "runc|have runc|runtime to test and to compare with"
    "crun|have crun|runtime to test and to compare with"
    "runsc|have runsc|gVisor, runtime to test and to compare with"
    "bubblewrap|have bwrap|to compare with"
    "busybox-static|static_busybox|the smallest test image"
    "libseccomp-dev|for_youki test -e /usr/include/seccomp.h|to build youki, runtime to test"
    "pkg-config|for_youki have pkg-config|to build youki"
    "skopeo|have skopeo|to read our images with, and to compare with"
    "docker-registry|have docker-registry|a registry on loopback, to pull images from"
    "apache2-utils|have htpasswd|the password of that registry"
    "openssl|have openssl|the certificate of that registry"
    "umoci|have umoci|makes images to test with, and to compare with"
    "debootstrap|have debootstrap|makes the Debian that packages are installed in, and that of the virtual machine"
    "dpkg-dev|have dpkg-scanpackages|makes the index of the packages that are installed there"
    "python3-pip|have pip3|downloads packages of Python to install there"
    "python3-venv|has_venv|the environment in which the Python package is built and tested"
    "nodejs|have node|runs the Node package, and checks the types of the Python one"
    "npm|have npm|installs what the Node package is built with"
    "strace|have strace|counts the system calls of a start"
    "docker.io|docker_host|Docker Engine, for the docker provider's tests"
    "docker-cli|have docker|talks to it where docker.io does not bring the program"
)
# The virtual machine is one of x86-64.
[[ $(uname -m) != x86_64 ]] || needs+=(
    "qemu-system-x86|have qemu-system-x86_64|boots the virtual machine of scripts/vm-test.sh, without the processor's help"
)

missing=()
for need in "${needs[@]}"; do
    IFS='|' read -r package present why <<<"$need"
    $present && continue
    # Up to Debian 12 docker.io holds the client as well.
    if [[ $package == docker-cli ]] && have apt-cache && ! apt-cache show docker-cli >/dev/null 2>&1; then
        continue
    fi
    say "missing: $package ($why)"
    missing+=("$package")
done

# Until this trap has run, services of new packages are not started: an engine
# of the system would add a bridge and packet filter rules to this machine.
policy=/usr/sbin/policy-rc.d
made_policy=false
trap '$made_policy && rm -f "$policy"' EXIT
hold_services() {
    [[ -e $policy ]] && return
    printf '#!/bin/sh\nexit 101\n' >"$policy"
    chmod 755 "$policy"
    made_policy=true
}

# The one of Debian 12 itself is of 2022 and cannot pass descriptors.
is_old_runsc() { grep -q '^VERSION_CODENAME=bookworm$' /etc/os-release 2>/dev/null; }

# Takes the one package, and adds no source to this system.
runsc_from_backports() (
    place=$(mktemp -d)
    trap 'rm -rf "$place"' EXIT
    mkdir -p "$place"/{parts,lists/partial,cache/archives/partial}
    echo "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] http://deb.debian.org/debian bookworm-backports main" \
        >"$place/parts/backports.list"
    options=(-o "Dir::Etc::sourceparts=$place/parts" -o Dir::Etc::sourcelist=/dev/null
        -o "Dir::State::lists=$place/lists" -o "Dir::Cache=$place/cache")
    cd "$place" && apt-get "${options[@]}" update -qq && apt-get "${options[@]}" download -qq runsc 2>/dev/null &&
        dpkg -i runsc_*.deb >/dev/null
)

install() {
    export DEBIAN_FRONTEND=noninteractive
    hold_services
    apt-get update -qq || say "could not refresh the package lists; trying with the old ones"
    # One by one: a package that this release does not have must not keep the others away.
    local package
    for package in "$@"; do
        if [[ $package == runsc ]] && is_old_runsc; then
            runsc_from_backports && say "installed: runsc, of the release's backports" ||
                say "could not install runsc; what needs it is not run"
        elif apt-get install -y -qq --no-install-recommends "$package" >/dev/null; then
            say "installed: $package"
            [[ $package != docker.io ]] || say "note: docker.io enables the system's engine at the next boot; \`systemctl disable docker.socket docker.service\` if you do not want it"
        else
            say "could not install $package; what needs it is not run"
        fi
    done
}

if ((${#missing[@]} == 0)); then
    say "system packages: nothing to do"
elif ! have apt-get; then
    say "no apt-get here: install these with the system's own tools, or go without"
elif $check; then
    say "would install: ${missing[*]}"
elif [[ $(id -u) != 0 ]]; then
    say "not root: \`sudo scripts/setup.sh\` would install ${missing[*]}"
else
    install "${missing[@]}"
fi

# The toolchain. Only the distribution's rustup is installed for you: nothing
# from the network is piped into a shell.
wanted=$(sed -n 's/^rust-version *= *"\(.*\)"/\1/p' Cargo.toml)
if ! have cargo; then
    if $check; then
        say "would install: rustup, and with it the stable toolchain"
    elif have apt-get && [[ $(id -u) == 0 ]] && apt-cache show rustup >/dev/null 2>&1; then
        install rustup
        rustup default stable
    fi
fi
if have cargo; then
    found=$(cargo --version | cut -d' ' -f2)
    oldest=$(printf '%s\n%s\n' "$wanted" "$found" | sort -V | head -n 1)
    [[ $oldest == "$wanted" ]] || die "rust $found is older than $wanted: \`rustup update stable\`"
    say "rust: $found"
elif ! $check; then
    die "no Rust toolchain: see https://rustup.rs, version $wanted or newer"
fi

# A minimal toolchain has neither.
for component in rustfmt clippy; do
    program=cargo-${component/rustfmt/fmt}
    if have "$program"; then
        continue
    elif $check; then
        say "would install: $component"
    elif have rustup && rustup component add "$component" >/dev/null 2>&1; then
        say "installed: $component"
    else
        say "missing: $component; what needs it fails"
    fi
done

# No distribution here has it as a package.
youki=0.7.0
build_youki() (
    place=$(mktemp -d)
    trap 'rm -rf "$place"' EXIT
    cargo install --quiet --locked --root "$place" --target-dir "$place/target" \
        --no-default-features --features v1,v2,seccomp "youki@$youki" &&
        command install -m 755 "$place/bin/youki" /usr/local/bin/youki
)
if have youki; then
    say "youki: there"
elif $check; then
    say "would build: youki $youki, runtime to test, into /usr/local/bin"
elif [[ $(id -u) == 0 ]] && say "building youki $youki, runtime to test; some minutes" && (cd / && build_youki >/dev/null 2>&1); then
    say "installed: youki $youki in /usr/local/bin"
else
    say "youki: missing; what needs it is not run"
fi

# Runs each test in a process of its own. Building it takes longer than our
# tests, so it is only taken where it comes ready-made.
if have cargo-nextest; then
    say "cargo-nextest: there"
elif $check; then
    have cargo-binstall && say "would install: cargo-nextest" || say "cargo-nextest: missing, \`cargo test\` is used"
elif have cargo-binstall && cargo binstall --no-confirm --locked cargo-nextest >/dev/null 2>&1; then
    say "installed: cargo-nextest"
else
    say "cargo-nextest: missing, \`cargo test\` is used (\`cargo install --locked cargo-nextest\` builds it)"
fi
