#!/usr/bin/env bash
# Runs a command as an ordinary user. Root's machine need not have one: the
# account exists in a mount namespace that ends with the command.
#
#   scripts/rootless.sh --range COMMAND...    a user with a range in /etc/subuid
#   scripts/rootless.sh --single COMMAND...   a user without one
#
# Called by an ordinary user it runs the command as that user, whatever is said.
# Serves as cargo's `runner`, so that tests run without root (scripts/test.sh).
set -euo pipefail

kind=${1:?--range or --single}
shift
case $kind in
    --range) uid=61234 ;;
    --single) uid=61235 ;;
    *)
        echo "unknown argument $kind, expected --range or --single" >&2
        exit 2
        ;;
esac
if [[ $(id -u) != 0 ]]; then exec "$@"; fi

home=$(mktemp -d)
files=$(mktemp -d)
trap 'rm -rf "$home" "$files"' EXIT
chmod 755 "$files"
chown "$uid:$uid" "$home"
name=stacyvm-$uid
for file in passwd group subuid subgid; do
    touch "$files/$file"
    if [[ -e /etc/$file ]]; then cat "/etc/$file" >"$files/$file"; fi
done
echo "$name:x:$uid:$uid::$home:/bin/sh" >>"$files/passwd"
echo "$name:x:$uid:" >>"$files/group"
if [[ $kind == --range ]]; then
    for file in subuid subgid; do echo "$name:1610612736:65536" >>"$files/$file"; done
fi

# A missing file has nothing to be mounted on, and is missed by nobody but --range.
# shellcheck disable=SC2016
unshare --mount --propagation private sh -euc '
    files=$1 uid=$2
    shift 2
    for file in passwd group subuid subgid; do
        if [ -e "/etc/$file" ]; then mount --bind "$files/$file" "/etc/$file"; fi
    done
    exec setpriv --reuid "$uid" --regid "$uid" --clear-groups -- "$@"
' sh "$files" "$uid" env -u STACYVM_STATE_DIR -u STACYVM_CONFIG -u XDG_RUNTIME_DIR -u XDG_STATE_HOME -u XDG_CONFIG_HOME \
    HOME="$home" "$@"
