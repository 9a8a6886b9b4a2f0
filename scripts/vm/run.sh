#!/bin/bash
# Runs inside the virtual machine, from the disk of tests at /tests: each line
# of /tests/plan in its turn. What is printed here goes to the host; the last
# line says that all of it was.
#
# A line: WHO PROGRAM ARGUMENT...
# WHO: a user, in a cgroup that is root's while a manager of the user's own
# runs, as after a login; then what is different for this line, after a `+` each:
#   delegated      in a scope of that manager, where the user may make cgroups
#   alone          without such a manager
#   confined       under the profile of AppArmor in scripts/vm/no-namespaces
#   NAME=VALUE     with this sysctl
set -u
stty -F /dev/ttyS1 raw -echo 2>/dev/null
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
export TERM=dumb

as() {
    local user=$1 delegated=$2 id
    shift 2
    if [[ $user == root ]] && ! $delegated; then
        "$@"
        return
    fi
    id=$(id -u "$user")
    local identity=(setpriv --reuid "$id" --regid "$id" --init-groups env -i "USER=$user" "PATH=$PATH"
        "HOME=$(getent passwd "$user" | cut -d: -f6)")
    if $delegated; then
        "${identity[@]}" "XDG_RUNTIME_DIR=/run/user/$id" \
            systemd-run --user --scope --quiet -p Delegate=yes -- "$@"
    else
        "${identity[@]}" "$@"
    fi
}

runs=0
failed=0
while read -r who program arguments; do
    runs=$((runs + 1))
    IFS=+ read -ra parts <<<"$who"
    delegated=false
    confined=()
    restore=()
    [[ ${parts[0]} == root ]] || systemctl start "user@$(id -u "${parts[0]}").service"
    for part in "${parts[@]:1}"; do
        case $part in
            delegated) delegated=true ;;
            confined)
                apparmor_parser --replace /tests/no-namespaces
                confined=(aa-exec -p stacyvm-no-namespaces --)
                ;;
            alone) systemctl stop "user@$(id -u "${parts[0]}").service" ;;
            *=*)
                if before=$(sysctl -n "${part%%=*}" 2>/dev/null) && sysctl -qw "$part"; then
                    restore+=("${part%%=*}=$before")
                else
                    echo "not run: this kernel has no ${part%%=*}"
                    continue 2
                fi
                ;;
        esac
    done
    printf '\nvm: %s: %s %s\n' "$who" "$program" "$arguments"
    began=$SECONDS
    read -ra arguments <<<"$arguments"
    cd /tmp && as "${parts[0]}" "$delegated" "${confined[@]}" "/tests/bin/deps/$program" --color=never --test-threads=1 --show-output "${arguments[@]}" </dev/null
    code=$?
    ((code == 0)) || failed=$((failed + 1))
    for setting in "${restore[@]}"; do sysctl -qw "$setting"; done
    echo "vm: exit code $code after $((SECONDS - began)) s"
done </tests/plan
printf '\nvm: %s runs, %s failed\n' "$runs" "$failed"
sync
