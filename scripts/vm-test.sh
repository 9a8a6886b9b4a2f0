#!/usr/bin/env bash
# Runs tests in a virtual machine that is an ordinary host: cgroups of version
# 2, systemd, AppArmor, users without rights. Software emulation serves, so
# that it needs no rights of the processor's, but patience.
#
#   scripts/vm-test.sh                the list in scripts/vm/tests, or of STACYVM_VM_TESTS
#   scripts/vm-test.sh WHO PROGRAM [FILTER]...
#                                     these tests of one program, as one line of it
#   scripts/vm-test.sh --shell        a console of the machine, as root; `poweroff` ends it
#
# The programs are those that the host's tests are; they come on a disk of
# their own, which cannot be written. No change to the machine's disk is kept.
# The machine's own messages are in target/vm/console.log afterwards.
set -euo pipefail
# shellcheck source=lib.sh
source "$(dirname "$0")/lib.sh"

# Seconds after which a machine that has not ended counts as one that hangs.
patience=${STACYVM_VM_PATIENCE:-1200}
shell=false
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

case ${1-} in
    --shell) shell=true ;;
    -*) die "unknown argument $1, expected --shell or WHO PROGRAM [FILTER]..." ;;
esac
if $shell || (($# == 0)); then
    sed 's/ *#.*//; /^$/d' "${STACYVM_VM_TESTS:-scripts/vm/tests}" >"$work/plan"
elif (($# == 1)); then
    die "what is to run as $1? expected WHO PROGRAM [FILTER]..."
else
    printf '%s\n' "$*" >"$work/plan"
fi

image=$(scripts/vm/image.sh) || die "$image"

# Names and paths of the test programs that cargo's messages on standard input tell of.
programs() { sed -n 's/.*"target":{.*"name":"\([^"]*\)".*"executable":"\([^"]*\)".*/\1 \2/p'; }

step "build"
wanted=$(awk '{ print $2 }' "$work/plan" | sort -u)
of_agent='^(helper|exec|connection|stacyvm_agent)$'
tests=()
for program in $(grep -vE "$of_agent" <<<"$wanted" || true); do
    if [[ $program == stacyvm ]]; then tests+=(--lib); else tests+=(--test "$program"); fi
done
{
    # With the features that the whole workspace is tested with, so that it is
    # built once.
    if ((${#tests[@]})); then
        cargo test --locked --quiet --workspace --exclude stacyvm-agent --all-features --no-run --message-format=json "${tests[@]}"
    fi
    if grep -qE "$of_agent" <<<"$wanted"; then
        cargo test --locked --quiet -p stacyvm-agent --features guest --no-run --message-format=json
    fi
} | programs >"$work/programs"

# The same places to each other as where cargo put them: tests look for the
# agent of theirs in `examples`.
disk=$work/disk
mkdir -p "$disk/bin/deps" "$disk/bin/examples"
chmod 755 "$work" "$disk"
while read -r name path; do
    case $path in
        */examples/*) strip --strip-debug -o "$disk/bin/examples/$name" "$path" ;;
        */deps/*) if grep -qx "$name" <<<"$wanted"; then strip --strip-debug -o "$disk/bin/deps/$name" "$path"; fi ;;
    esac
done <"$work/programs"
for program in $wanted; do
    [[ -e $disk/bin/deps/$program ]] || die "there is no test program $program"
done
cp scripts/vm/run.sh "$disk/run"
cp scripts/vm/no-namespaces "$disk/"
cp "$work/plan" "$disk/plan"
mke2fs -q -t ext4 -O ^has_journal -m 0 -d "$disk" "$work/tests.ext4" "$(($(du -sm "$disk" | cut -f1) * 5 / 4 + 16))M"

console=$root/target/vm/console.log
machine=(
    qemu-system-x86_64 -machine q35 -accel tcg,thread=multi -cpu max -smp 2 -m 2048
    -nodefaults -no-user-config -no-reboot -display none -nic none
    -kernel "$image/kernel" -initrd "$image/initrd"
    -drive "file=$image/disk,format=raw,if=virtio,cache=unsafe,snapshot=on"
    -drive "file=$work/tests.ext4,format=raw,if=virtio,readonly=on"
)
command="root=/dev/vda rw console=ttyS0 quiet panic=-1 oops=panic"

if $shell; then
    step "the machine; its tests are in /tests"
    "${machine[@]}" -serial mon:stdio -serial null -append "$command systemd.mask=stacyvm-tests.service"
    exit
fi

step "the machine"
result=0
timeout --foreground "$patience" "${machine[@]}" -serial "file:$console" -serial stdio \
    -append "$command systemd.mask=serial-getty@ttyS0.service" </dev/null | tee "$work/output" || result=$?
runs=$(wc -l <"$work/plan")
last=$(grep "^vm: " "$work/output" | tail -n 1)
if ((result == 124)); then
    say "the machine did not end within $patience s"
elif [[ $last != "vm: $runs runs, 0 failed" ]]; then
    [[ $last == "vm: $runs runs, "* ]] || result=1
else
    exit "$result"
fi
tail -n 20 "$console" >&2
die "tests in the machine failed, or it did not run all $runs lines"
