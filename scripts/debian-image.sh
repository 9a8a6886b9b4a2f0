#!/usr/bin/env bash
# Makes what the tests of `privileges: namespaced_root` install from: a minimal
# Debian as a root directory's archive, and a directory of packages that it lacks.
#
#   root.tar   the archive, with owners and set-id bits
#   mirror     packages of Debian with their index, and two of Python's, as a
#              wheel and as a source
#
# Prints the directory that holds them, or else, and fails, what this machine lacks
# to make it. It is made once: the directory, below target/debian, is named by the
# digest of this file. To have newer packages in it, remove it.
#
# STACYVM_DEBIAN_MIRROR names another mirror of Debian.
set -euo pipefail
# shellcheck source=lib.sh
source "$(dirname "$0")/lib.sh"

release=bookworm
made=$root/target/debian/$release-$(sha256sum <"$root/scripts/debian-image.sh" | cut -c 1-16)
# A server with a user of its own, set-id programs, groups, a service that is not
# there to be started, and Python's installer with all that it needs.
packages=(cron sudo openssh-client python3-pip)

lack() {
    printf '%s\n' "$*"
    exit 1
}
if [[ -e $made/root.tar ]]; then
    printf '%s\n' "$made"
    exit
fi
have debootstrap || lack "no debootstrap"
have dpkg-scanpackages || lack "no dpkg-scanpackages"
have pip3 || lack "no pip3"
[[ $(id -u) == 0 ]] || lack "making a Debian image needs root"

mkdir -p "$root/target/debian"
new=$(mktemp -d "$root/target/debian/new.XXXXXX")
# A directory of mktemp is closed to others, and an ordinary user reads these.
chmod 755 "$new"
tree=$new/tree
trap 'rm -rf "$new"' EXIT
mkdir -m 755 "$tree" "$new/mirror"

say "making the Debian image ($release); about a minute"
log=$new/log
debootstrap --variant=minbase "$release" "$tree" \
    "${STACYVM_DEBIAN_MIRROR:-http://deb.debian.org/debian}" >"$log" 2>&1 ||
    { tail -n 5 "$log" >&2; lack "debootstrap failed"; }

# What debootstrap itself downloaded is there already.
find "$tree/var/cache/apt/archives" -name '*.deb' -delete
cp /etc/resolv.conf "$tree/etc/resolv.conf"
chroot "$tree" sh -c '
    apt-get -q update &&
    apt-get -q -y --no-install-recommends --download-only install "$@"
' sh "${packages[@]}" >>"$log" 2>&1 || { tail -n 5 "$log" >&2; lack "packages could not be downloaded"; }
mv "$tree"/var/cache/apt/archives/*.deb "$new/mirror"
(cd "$new/mirror" && dpkg-scanpackages --multiversion . >Packages 2>>"$log")

python() { pip3 download -q --no-deps -d "$new/mirror" "$@" >>"$log" 2>&1; }
python six==1.16.0 && python --no-binary :all: docopt==0.6.2 ||
    { tail -n 5 "$log" >&2; lack "packages of Python could not be downloaded"; }

rm -rf "$tree"/var/lib/apt/lists/* "$tree"/var/cache/apt/*.bin "$tree/etc/resolv.conf"
echo 'deb [trusted=yes] file:/mirror ./' >"$tree/etc/apt/sources.list"
# Half of the files are for readers, whom a test has none of.
tar -C "$tree" --numeric-owner --sort=name --exclude=./dev --exclude=./usr/share/{doc,man,locale,zoneinfo} \
    -cf "$new/root.tar" .
rm -rf "$tree" "$log"
mv -T "$new" "$made"
trap - EXIT
printf '%s\n' "$made"
