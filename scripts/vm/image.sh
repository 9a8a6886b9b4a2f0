#!/usr/bin/env bash
# Makes the virtual machine that scripts/vm-test.sh boots: a Debian with its
# cloud kernel, systemd, cgroups of version 2 alone, AppArmor, and the users
#
#   tester   uid 1000, ranges of subordinate ids, a user manager of systemd
#   plain    uid 1001, no ranges of ids, a user manager as well
#
# Prints the directory that holds `kernel`, `initrd` and `disk`, or else, and
# fails, what this machine lacks to make it. It is made once: the directory,
# below target/vm, is named by the digest of this file. To have newer packages
# in it, remove it.
#
# STACYVM_VM_RELEASE names another release of Debian than the default, and
# STACYVM_DEBIAN_MIRROR another mirror.
set -euo pipefail
# shellcheck source=../lib.sh
source "$(dirname "$0")/../lib.sh"

release=${STACYVM_VM_RELEASE:-bookworm}
key=$release-$(sha256sum <"$root/scripts/vm/image.sh" | cut -c 1-16)
image=$root/target/vm/$key

lack() {
    printf '%s\n' "$*"
    exit 1
}
[[ $(uname -m) == x86_64 ]] || lack "the virtual machine is one of x86-64, this is $(uname -m)"
have qemu-system-x86_64 || lack "no qemu-system-x86_64"
have mke2fs || lack "no mke2fs"
if [[ -e $image/disk ]]; then
    printf '%s\n' "$image"
    exit
fi
have debootstrap || lack "no debootstrap"
[[ $(id -u) == 0 ]] || lack "making its image needs root"

packages=(
    # The system: a manager with users' sessions and delegation, a kernel and
    # what loads its modules.
    systemd-sysv dbus dbus-user-session libpam-systemd
    linux-image-cloud-amd64 initramfs-tools kmod udev
    # What the embedded provider looks for: ranges of ids for ordinary users,
    # file systems with a limit, and AppArmor as on most hosts.
    uidmap e2fsprogs apparmor
    # What tests call inside.
    procps python3 busybox-static
)

mkdir -p "$root/target/vm"
new=$(mktemp -d "$root/target/vm/new.XXXXXX")
# A directory of mktemp is closed to others; what becomes the root must not be.
tree=$new/tree
trap 'rm -rf "$new"' EXIT
mkdir -m 755 "$tree"

say "making the virtual machine's image ($release); about two minutes"
include=$(IFS=, && printf %s "${packages[*]}")
debootstrap --variant=minbase --include="$include" "$release" "$tree" \
    "${STACYVM_DEBIAN_MIRROR:-http://deb.debian.org/debian}" >"$new/log" 2>&1 ||
    { tail -n 5 "$new/log" >&2; lack "debootstrap failed"; }

echo vm >"$tree/etc/hostname"
echo "127.0.0.1 localhost vm" >"$tree/etc/hosts"
echo "/dev/vdb /tests ext4 ro 0 0" >"$tree/etc/fstab"
mkdir "$tree/tests"
# The drivers of this one machine: a small initrd is there sooner.
echo MODULES=list >"$tree/etc/initramfs-tools/conf.d/stacyvm"
printf '%s\n' virtio_pci virtio_blk >>"$tree/etc/initramfs-tools/modules"
chroot "$tree" update-initramfs -u >>"$new/log" 2>&1

for user in tester plain; do
    chroot "$tree" useradd --create-home --shell /bin/bash "$user"
done
sed -i /^plain:/d "$tree/etc/subuid" "$tree/etc/subgid"
mkdir -p "$tree/var/lib/systemd/linger"
touch "$tree"/var/lib/systemd/linger/{tester,plain}

units=$tree/etc/systemd/system
cat >"$units/stacyvm-tests.service" <<'UNIT'
[Unit]
Description=Tests of stacyvm
After=systemd-logind.service systemd-user-sessions.service apparmor.service
RequiresMountsFor=/tests

[Service]
Type=oneshot
ExecStart=/bin/bash /tests/run
StandardInput=null
StandardOutput=tty
StandardError=inherit
TTYPath=/dev/ttyS1
ExecStopPost=/bin/sh -c 'systemctl poweroff --force --force >/dev/null 2>&1'
UNIT
mkdir -p "$units/multi-user.target.wants" "$units/serial-getty@ttyS0.service.d"
ln -s ../stacyvm-tests.service "$units/multi-user.target.wants/"
# For `scripts/vm-test.sh --shell`, where the console is whoever calls it.
cat >"$units/serial-getty@ttyS0.service.d/login.conf" <<'UNIT'
[Service]
ExecStart=
ExecStart=-/sbin/agetty --autologin root --keep-baud 115200,57600,38400,9600 - $TERM
UNIT
# What a machine that lives for minutes needs not.
for unit in apt-daily.timer apt-daily-upgrade.timer dpkg-db-backup.timer e2scrub_all.timer \
    e2scrub_reap.service fstrim.timer getty@tty1.service systemd-timesyncd.service; do
    ln -sf /dev/null "$units/$unit"
done

cp "$tree"/boot/vmlinuz-* "$new/kernel"
cp "$tree"/boot/initrd.img-* "$new/initrd"
rm -rf "$tree"/var/cache/apt/* "$tree"/var/lib/apt/lists/* "$tree"/usr/share/{doc,locale,man}
# No journal: each boot writes to a layer above it that is thrown away.
mke2fs -q -t ext4 -O ^has_journal -m 0 -d "$tree" "$new/disk" 2G >>"$new/log"
rm -rf "$tree"
chmod 755 "$new"

# Another run may have been quicker, and then its image is the one.
if [[ ! -e $image ]]; then mv -T "$new" "$image"; fi
for other in "$root/target/vm/$release"-*; do
    [[ $other == "$image" ]] || rm -rf "$other"
done
printf '%s\n' "$image"
