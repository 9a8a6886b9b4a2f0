#!/usr/bin/env bash
# A Docker engine for the tests.
#
#   scripts/docker-host.sh start [--debian]   prints DOCKER_HOST=...
#   scripts/docker-host.sh status             the same, or fails
#   scripts/docker-host.sh stop               leaves nothing
#
# An engine that runs already is used as it is; `stop` then removes from it
# only what `start` and the tests have added. Otherwise `start` starts one of
# its own in private mount, network and process namespaces: bridge, packet
# filter rules, mounts and containers end with them, whatever went wrong, and
# the system's engine, its data and its configuration are never touched. Its
# containers therefore reach no network beyond their own bridge, and process
# numbers that it reports are those of its namespace.
#
# Its own engine has the runtimes `runsc` (gVisor) and `kata` where they are
# installed; `runsc-hostnet`, which is gVisor with the network of its container, and
# `runsc-disk`, which is gVisor that writes to the container's layer.
# For the tests of what must be refused it has `kata-containers`,
# `false-kata` and `false-gvisor`, which are runc; `kata-gvisor`, which is gVisor;
# and `absent`, which has no program.
#
# Images: stacyvm-test/busybox from the system's static busybox, and with
# --debian stacyvm-test/debian (minimal, with python3) by debootstrap from
# STACYVM_DEBIAN_MIRROR or the mirror in the system's package sources.
#
# STACYVM_DOCKER_PRIVATE=NAME makes it an engine of its own by that name, whatever
# runs already, for tests that harm it. It ends with whoever holds the standard
# input of `start`, and `stop` takes it down without asking it. An engine that is
# killed comes again as soon as there is no file `down` in its directory. With it
# STACYVM_DOCKER_DATA_MIB gives its data a memory file system of this size, and
# STACYVM_DOCKER_LIVE_RESTORE=true has its containers survive it.
set -euo pipefail
# shellcheck source=lib.sh
source "$(dirname "$0")/lib.sh"

# One per checkout and user. The name can be guessed, so the owner is checked.
# Short, because names of sockets below it may have 107 bytes.
private=${STACYVM_DOCKER_PRIVATE:-}
name=stacyvm-docker-$(id -u)-$(printf %s "$root" | cksum | cut -d' ' -f1)${private:+-$private}
dir=/var/tmp/$name
socket=$dir/docker.sock

# The client, whatever context or TLS the environment sets for another engine.
docker_at() {
    local host=$1 unset=(-u DOCKER_CONTEXT -u DOCKER_HOST)
    shift
    [[ $host != unix://* ]] || unset+=(-u DOCKER_TLS_VERIFY)
    timeout 120 env "${unset[@]}" docker -H "$host" "$@"
}
answers() { docker_at "$1" version --format '{{.Server.Version}}' 2>/dev/null; }

# The engine that ran before us: the one the environment names, else the system's.
foreign() {
    [[ -z $private ]] && have docker || return 1
    local host=${DOCKER_HOST:-unix:///var/run/docker.sock}
    [[ $host != "unix://$socket" ]] && answers "$host" >/dev/null && printf '%s\n' "$host"
}

# The recorded process, unless its number has gone to another one since.
alive() {
    local pid start
    read -r pid start 2>/dev/null <"$dir/pid" || return 1
    [[ $(started "$pid") == "$start" ]]
}
# Field 22 of stat; the second field may hold spaces.
started() { sed 's/.*) //' "/proc/$1/stat" 2>/dev/null | cut -d' ' -f20; }

private_dir() {
    if ! mkdir -m 700 "$dir" 2>/dev/null; then
        [[ ! -L $dir && $(stat -c '%u %a' "$dir") == "$(id -u) 700" ]] || die "$dir is not a private directory of this user"
    fi
}

host_of() {
    if [[ -f $dir/foreign ]]; then
        cat "$dir/foreign"
    elif alive && answers "unix://$socket" >/dev/null; then
        printf 'unix://%s\n' "$socket"
    else
        return 1
    fi
}

start() {
    local debian=${1:-}
    have docker || die "no docker program: scripts/setup.sh installs it"
    [[ -d $dir ]] && ! host_of >/dev/null && stop
    private_dir
    if ! host_of >/dev/null; then
        local host
        if host=$(foreign); then
            say "using the engine at $host ($(answers "$host"))"
            printf '%s\n' "$host" >"$dir/foreign"
            agent_volumes "$host" >"$dir/volumes"
        else
            start_engine
        fi
    fi
    local host
    host=$(host_of)
    [[ -n $(docker_at "$host" images -q stacyvm-test/busybox) ]] || import_busybox "$host"
    if [[ $debian == --debian && -z $(docker_at "$host" images -q stacyvm-test/debian) ]]; then import_debian "$host"; fi
    printf 'DOCKER_HOST=%s\n' "$host"
}

start_engine() {
    [[ $(id -u) == 0 ]] || { rmdir "$dir"; die "starting a Docker engine needs root"; }
    have dockerd || { rmdir "$dir"; die "no dockerd: scripts/setup.sh installs it"; }
    mkdir -p "$dir/data"
    # containerd makes an empty one, which `stop` takes away again.
    [[ -e /opt/containerd ]] || touch "$dir/made-opt"
    configuration >"$dir/daemon.json"
    # A session of its own: Ctrl-C in the terminal does not reach it. The lock
    # of this script must not live on in it.
    local tied=/dev/null
    [[ -z $private ]] || tied=/dev/fd/8
    setsid unshare --mount --net --pid --fork --kill-child --mount-proc \
        "$root/scripts/docker-host.sh" inside >"$dir/log" 2>&1 <$tied 8<&- 9>&- &
    local pid=$!
    printf '%s %s\n' "$pid" "$(started "$pid")" >"$dir/pid"
    local version
    for _ in $(seq 240); do
        if version=$(answers "unix://$socket"); then
            say "started Docker Engine $version in $dir"
            return
        fi
        alive || break
        sleep 0.25
    done
    tail -n 15 "$dir/log" >&2
    stop
    die "dockerd did not come up"
}

# Beside runc: gVisor as `runsc` and Kata as `kata`, where they are installed, and
# runtimes that are not what they are called, which must be refused.
configuration() {
    local runc runsc all=() more=""
    [[ -z ${STACYVM_DOCKER_LIVE_RESTORE:-} ]] || more='"live-restore": true, '
    add() { all+=("$(printf '"%s": {"path": "%s"%s}' "$1" "$2" "${3:-}")"); }
    # Its own network stack refuses to start in the root network namespace of newer
    # kernels, and loopback needs none. Without --oci-seccomp it leaves filters of
    # system calls out.
    local arguments=', "runtimeArgs": ["--platform=systrap", "--network=none", "--oci-seccomp"]'
    if have runsc && [[ $(runsc help run 2>&1) == *-pass-fd* ]]; then
        runsc=$(command -v runsc)
        add runsc "$runsc" "$arguments"
        add kata-gvisor "$runsc" "$arguments"
        add runsc-hostnet "$runsc" "${arguments/=none/=host}"
        # It writes to the container's own layer, which snapshots are made of, and not to
        # a file of memory.
        add runsc-disk "$runsc" "${arguments/%]/, \"--overlay2=none\"]}"
    fi
    if have containerd-shim-kata-v2; then
        # Engines before 23.0 know no shims.
        all+=('"kata": {"runtimeType": "io.containerd.kata.v2"}')
    fi
    if runc=$(command -v runc); then
        mkdir -p "$dir/false"
        ln -sfn "$runc" "$dir/false/kata-runtime"
        ln -sfn "$runc" "$dir/false/runsc"
        add kata-containers "$runc"
        add false-kata "$dir/false/kata-runtime"
        add false-gvisor "$dir/false/runsc"
    fi
    add absent "$dir/false/absent"
    local IFS=,
    printf '{%s"runtimes": {%s}}\n' "$more" "${all[*]}"
}

# The first process of the namespaces. When it ends, the kernel ends the rest.
inside() {
    # What the engine and containerd write below /run and /etc/docker ends with
    # the namespace.
    mount -n -t tmpfs -o mode=755 tmpfs /run
    [[ -d /etc/docker ]] && mount -n -t tmpfs -o mode=755 tmpfs /etc/docker
    ip link set lo up
    if [[ -n $private ]]; then until_given_up <&0 & fi
    [[ -z ${STACYVM_DOCKER_DATA_MIB:-} ]] || mount -n -t tmpfs -o "mode=711,size=${STACYVM_DOCKER_DATA_MIB}m" tmpfs "$dir/data"
    local engine ended=""
    trap 'ended=true; kill -TERM $engine' TERM
    while [[ -z $ended ]]; do
        rm -f /run/docker.pid
        # cgroupfs everywhere: the systemd driver would leave scopes behind.
        dockerd --host "unix://$socket" --group "$(id -g)" --data-root "$dir/data" --exec-root /run/docker \
            --pidfile /run/docker.pid --config-file "$dir/daemon.json" \
            --exec-opt native.cgroupdriver=cgroupfs --cgroup-parent "/$name" </dev/null &
        engine=$!
        # `wait` returns early when the trap runs.
        while kill -0 "$engine" 2>/dev/null; do wait "$engine" || true; done
        [[ -n $private && ! -e /run/given-up ]] || break
        while [[ -e $dir/down && ! -e /run/given-up ]]; do sleep 0.02; done
    done
}

# Ends a private engine with whoever wanted it.
until_given_up() {
    cat >/dev/null || true
    touch /run/given-up
    kill -KILL "$(cat /run/docker.pid)" || true
}

agent_volumes() { docker_at "$1" volume ls -q --filter name=stacyvm-agent- | sort; }

import_busybox() {
    local busybox tree=$dir/busybox applet
    busybox=$(command -v busybox) || die "no busybox: scripts/setup.sh installs busybox-static"
    ! ldd "$busybox" >/dev/null 2>&1 || die "$busybox is not static: scripts/setup.sh installs busybox-static"
    rm -rf "$tree"
    mkdir -p "$tree"/{bin,sbin,dev,etc,home/user,proc,root,sys,tmp,usr/bin,usr/sbin,var/tmp,workspace}
    cp "$busybox" "$tree/bin/busybox"
    for applet in $("$busybox" --list); do
        [[ $applet == busybox ]] || ln -sf busybox "$tree/bin/$applet"
    done
    printf 'root:x:0:0:root:/root:/bin/sh\nuser:x:1000:1000:user:/home/user:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n' >"$tree/etc/passwd"
    printf 'root:x:0:\nuser:x:1000:\nnogroup:x:65534:\n' >"$tree/etc/group"
    chmod 1777 "$tree/tmp" "$tree/var/tmp"
    chmod 700 "$tree/root"
    add_image "$1" stacyvm-test/busybox tar -C "$tree" --numeric-owner --owner=0 --group=0 -c .
    rm -rf "$tree"
}

import_debian() {
    local tree=$dir/debian mirror
    have debootstrap || die "no debootstrap: scripts/setup.sh installs it"
    mirror=${STACYVM_DEBIAN_MIRROR:-$(cat /etc/apt/sources.list /etc/apt/sources.list.d/* 2>/dev/null |
        sed -n 's/^deb \(\[[^]]*\] \)\{0,1\}\(https\{0,1\}:[^ ]*\) .*/\2/p; s/^URIs: *\([^ ]*\).*/\1/p' | grep -v -e security -e ubuntu | head -n 1 || true)}
    rm -rf "$tree"
    debootstrap --variant=minbase --include=python3-minimal stable "$tree" "${mirror:-https://deb.debian.org/debian}" >"$dir/debootstrap.log" 2>&1 ||
        { tail -n 5 "$dir/debootstrap.log" >&2; die "debootstrap failed"; }
    rm -rf "$tree"/var/cache/apt/archives/*.deb "$tree"/var/lib/apt/lists/*
    add_image "$1" stacyvm-test/debian tar -C "$tree" --numeric-owner -c .
    rm -rf "$tree"
}

add_image() {
    local host=$1 image=$2
    shift 2
    "$@" | docker_at "$host" import --change 'CMD ["sh"]' - "$image:latest" >/dev/null
    printf '%s\n' "$image" >>"$dir/images"
    say "made image $image"
}

stop() {
    [[ -d $dir ]] || { say "no Docker host of this checkout"; return; }
    private_dir
    if [[ -f $dir/foreign ]]; then
        stop_using "$(cat "$dir/foreign")"
    elif alive && [[ -n $private ]]; then
        stop_namespace
    elif alive; then
        stop_engine
    fi
    remove_cgroups
    [[ ! -f $dir/made-opt ]] || rmdir /opt/containerd/* /opt/containerd 2>/dev/null || true
    rm -rf "$dir"
    [[ ! -e $dir ]] || die "$dir could not be removed"
    say "stopped; nothing is left"
}

stop_using() {
    local host=$1 image volume
    if ! answers "$host" >/dev/null; then
        say "the engine at $host is gone; nothing to take back"
        return
    fi
    while read -r image; do docker_at "$host" rmi -f "$image:latest" >/dev/null || true; done < <(cat "$dir/images" 2>/dev/null)
    while read -r volume; do
        docker_at "$host" volume rm "$volume" >/dev/null || say "volume $volume is in use and stays"
    done < <(agent_volumes "$host" | comm -13 "$dir/volumes" -)
}

stop_engine() {
    local pid child
    read -r pid _ <"$dir/pid"
    # Gone at once instead of after the engine's ten seconds for each.
    docker_at "unix://$socket" ps -aq | xargs -r -n 20 "$0" remove || say "the engine does not remove its containers; ending it anyway"
    child=$(cat "/proc/$pid/task/$pid/children" 2>/dev/null || true)
    [[ -z $child ]] || kill -TERM $child 2>/dev/null || true
    for _ in $(seq 120); do
        alive || return 0
        sleep 0.25
    done
    say "the engine did not end; killing its namespace"
    stop_namespace
}

stop_namespace() {
    local pid
    read -r pid _ <"$dir/pid"
    kill -KILL "$pid" || true
    for _ in $(seq 120); do
        alive || return 0
        sleep 0.25
    done
    die "process $pid cannot be killed"
}

# Those below our own parent only. A process that is being torn down keeps its
# cgroup busy for a moment.
remove_cgroups() {
    local group left frozen
    # What stands still cannot even be killed.
    for frozen in /sys/fs/cgroup/freezer/"$name"/*/freezer.state; do
        [[ ! -e $frozen ]] || echo THAWED >"$frozen" || true
    done
    for _ in $(seq 40); do
        left=0
        for group in /sys/fs/cgroup/"$name" /sys/fs/cgroup/*/"$name"; do
            [[ -d $group ]] || continue
            find "$group" -depth -type d -exec rmdir {} + 2>/dev/null || true
            [[ ! -d $group ]] || left=1
        done
        ((left)) || return 0
        sleep 0.25
    done
    die "a cgroup $name is still in use"
}

command=${1:-}
case $command in
    start | stop)
        # One of them at a time for this checkout; released when the script ends.
        exec 8<&0 9<"$root/scripts/docker-host.sh"
        flock 9
        "$command" "${2:-}"
        ;;
    status)
        host=$(host_of) || die "no Docker host: scripts/docker-host.sh start"
        printf 'DOCKER_HOST=%s\n' "$host"
        ;;
    inside) inside ;;
    remove) docker_at "unix://$socket" rm -f -v "${@:2}" >/dev/null ;;
    *) die "usage: scripts/docker-host.sh start [--debian] | status | stop" ;;
esac
