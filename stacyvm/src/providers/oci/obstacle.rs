//! Why an ordinary user cannot have user namespaces on a host, and what helps.

use std::path::Path;

use rustix::thread::{CapabilitySet, capabilities};

/// A cause, and what to do about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Obstacle {
    pub(super) seen: String,
    pub(super) remedy: String,
}

/// What Docker is told so that a container can make namespaces and their `/proc`.
const OPEN: &str = "--security-opt seccomp=unconfined --security-opt systempaths=unconfined";

/// Present on kernels whose AppArmor can restrict user namespaces.
pub(super) const RESTRICTED: &str = "/proc/sys/kernel/apparmor_restrict_unprivileged_userns";
const MOST_NAMESPACES: &str = "/proc/sys/user/max_user_namespaces";

/// Where a helper lies that AppArmor can give rights to.
pub(super) const LIBEXEC: [&str; 2] = [
    "/usr/libexec/stacyvm/stacyvm-helper",
    "/usr/local/libexec/stacyvm/stacyvm-helper",
];

/// What root needs of its rights: to make mounts with mapped owners, to look at
/// the namespaces of what it starts, and to act for the users of a range.
const NEEDED: [(CapabilitySet, &str); 7] = [
    (CapabilitySet::SYS_ADMIN, "SYS_ADMIN"),
    (CapabilitySet::SYS_PTRACE, "SYS_PTRACE"),
    (CapabilitySet::SETUID, "SETUID"),
    (CapabilitySet::SETGID, "SETGID"),
    (CapabilitySet::CHOWN, "CHOWN"),
    (CapabilitySet::DAC_OVERRIDE, "DAC_OVERRIDE"),
    (CapabilitySet::FOWNER, "FOWNER"),
];

/// What root finds in its own rights and the kernel's settings.
pub(super) fn find_for_root() -> Option<Obstacle> {
    let own = capabilities(None).map_or(CapabilitySet::all(), |sets| sets.effective);
    lacking(own).or_else(foreign_proc).or_else(|| {
        in_settings(
            |name| {
                // The others are for users without root.
                let for_all = name == MOST_NAMESPACES;
                for_all.then(|| std::fs::read_to_string(name).ok())?
            },
            true,
        )
    })
}

/// As in a container that was started without more.
fn lacking(own: CapabilitySet) -> Option<Obstacle> {
    let missing: Vec<&str> = NEEDED
        .iter()
        .filter(|(needed, _)| !own.contains(*needed))
        .map(|(_, name)| *name)
        .collect();
    if missing.is_empty() {
        return None;
    }
    let add: Vec<String> = missing
        .iter()
        .map(|name| format!("--cap-add {name}"))
        .collect();
    Some(Obstacle {
        seen: format!(
            "not root's to make here: it lacks CAP_{}",
            missing.join(", CAP_")
        ),
        remedy: format!(
            "start the container that this process is in with more rights (docker: `{} {OPEN}`, or `--privileged`), or as an ordinary user with `{OPEN}` alone",
            add.join(" ")
        ),
    })
}

/// What a user without root finds in the kernel's settings. `installed`: the
/// helper's program is one that an administrator installed for this.
pub(super) fn find(installed: bool) -> Option<Obstacle> {
    foreign_proc().or_else(|| in_settings(|name| std::fs::read_to_string(name).ok(), installed))
}

/// As in a pid namespace that was made without a `/proc` of its own.
fn foreign_proc() -> Option<Obstacle> {
    let own = std::fs::read_link("/proc/self").is_ok_and(|link| is_own_proc(&link));
    (!own).then(|| Obstacle {
        seen:
            "not to be looked at: /proc is missing, or of another pid namespace than this process"
                .into(),
        remedy: "mount one of this namespace (`unshare --mount-proc`)".into(),
    })
}

fn is_own_proc(link: &Path) -> bool {
    link == Path::new(&std::process::id().to_string())
}

fn in_settings(read: impl Fn(&str) -> Option<String>, installed: bool) -> Option<Obstacle> {
    let is = |name: &str, value: &str| read(name).is_some_and(|text| text.trim() == value);
    if is(MOST_NAMESPACES, "0") {
        return Some(Obstacle {
            seen: "forbidden by sysctl user.max_user_namespaces".into(),
            remedy: "have the administrator set it to 1000 or more".into(),
        });
    }
    // Kernels of Debian and its kin.
    if is("/proc/sys/kernel/unprivileged_userns_clone", "0") {
        return Some(Obstacle {
            seen: "forbidden by sysctl kernel.unprivileged_userns_clone".into(),
            remedy: "have the administrator set it to 1".into(),
        });
    }
    // Kernels of Ubuntu: AppArmor gives them to programs of a profile.
    let unconfined = read("/proc/self/attr/current")
        .is_none_or(|profile| profile.trim_end_matches('\0').trim() == "unconfined");
    if is(RESTRICTED, "1") && unconfined && !installed {
        return Some(Obstacle {
            seen: "forbidden by AppArmor (sysctl kernel.apparmor_restrict_unprivileged_userns)"
                .into(),
            remedy: format!(
                "have the administrator run `stacyvm helper install`, which puts the helper at {} with a profile that allows them",
                LIBEXEC[0]
            ),
        });
    }
    None
}

/// What a helper's failure to make namespaces means where no setting explains it.
pub(super) fn explain(message: &str) -> Option<Obstacle> {
    let container = ["/.dockerenv", "/run/.containerenv"]
        .iter()
        .any(|path| Path::new(path).exists());
    let mounts = std::fs::read("/proc/self/mountinfo").unwrap_or_default();
    explain_in(message, container, is_chroot(&mounts))
}

/// Whether the root directory is not where the mount namespace has its own: then
/// none of the mounts that can be seen is at `/`. One that is itself a mount
/// cannot be told so.
fn is_chroot(mounts: &[u8]) -> bool {
    let mounts = crate::mountinfo::parse(mounts);
    !mounts.is_empty() && !mounts.iter().any(|mount| mount.point == Path::new("/"))
}

fn explain_in(message: &str, container: bool, chroot: bool) -> Option<Obstacle> {
    let of = |seen: &str, remedy: &str| {
        Some(Obstacle {
            seen: seen.into(),
            remedy: remedy.into(),
        })
    };
    // Docker's filter says of `clone3` that there is no such call.
    let denied = [
        "operation not permitted",
        "permission denied",
        "function not implemented",
    ]
    .iter()
    .any(|end| message.ends_with(end));
    if message.starts_with("make the namespaces") && message.contains("no space left") {
        return of(
            "used up for this user (sysctl user.max_user_namespaces)",
            "end sandboxes that nobody needs, or have the administrator raise it",
        );
    }
    if message.starts_with("make the namespaces") && denied && chroot {
        return of(
            "forbidden by the kernel below a chroot",
            "run this outside of chroot, or enter that root with pivot_root, as `systemd-nspawn` and containers do",
        );
    }
    if message.starts_with("make the namespaces") && denied && container {
        return of(
            "forbidden in the container that this process is in, or by the kernel below a chroot whose root is a mount of its own",
            &format!(
                "start that container with a seccomp profile that allows user namespaces (docker: `{OPEN}`), or run this outside of chroot"
            ),
        );
    }
    if message.starts_with("pivot the root") && denied {
        return of(
            "forbidden in the container that this process is in, or this is no root that can be left, as of chroot",
            &format!(
                "start the container with a seccomp profile that allows pivot_root (docker: `{OPEN}`), or run this outside of chroot"
            ),
        );
    }
    if message.starts_with("make the namespaces") && denied {
        return of(
            "forbidden by a security module or a filter of this process",
            "look for it in the kernel's log, and allow user namespaces to this program",
        );
    }
    if (message.starts_with("mount proc") || message.starts_with("make proc")) && denied {
        return of(
            "without a /proc of their own: parts of this host's are covered, so the kernel makes no other",
            "start the container that this process is in without masked paths (docker: `--security-opt systempaths=unconfined`)",
        );
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(settings: &[(&str, &str)], installed: bool) -> Option<String> {
        let read = |name: &str| {
            let found = settings.iter().find(|(file, _)| name.ends_with(file));
            found.map(|(_, text)| format!("{text}\n"))
        };
        in_settings(read, installed).map(|obstacle| obstacle.seen)
    }

    #[test]
    fn each_setting_is_named() {
        let ubuntu = "apparmor_restrict_unprivileged_userns";
        assert_eq!(with(&[("max_user_namespaces", "96364")], false), None);
        for (settings, named) in [
            (&[("max_user_namespaces", "0")][..], "max_user_namespaces"),
            (
                &[("unprivileged_userns_clone", "0")],
                "unprivileged_userns_clone",
            ),
            (&[(ubuntu, "1"), ("attr/current", "unconfined")], "AppArmor"),
            (&[(ubuntu, "1")], "AppArmor"),
        ] {
            let seen = with(settings, false).unwrap();
            assert!(seen.contains(named), "{seen}");
        }
        assert_eq!(with(&[(ubuntu, "0")], false), None);
        assert_eq!(with(&[(ubuntu, "1")], true), None, "an installed helper");
        let confined = [(ubuntu, "1"), ("attr/current", "my-app (unconfined)")];
        assert_eq!(with(&confined, false), None, "a profile of its own");
    }

    #[test]
    fn a_proc_of_another_namespace_is_told() {
        assert!(foreign_proc().is_none(), "tests have their own");
        let other = std::process::id() + 1;
        assert!(!is_own_proc(Path::new(&other.to_string())));
    }

    #[test]
    fn rights_that_root_lacks_are_named() {
        assert_eq!(lacking(CapabilitySet::all()), None);
        let found = lacking(CapabilitySet::all() - CapabilitySet::SYS_ADMIN).unwrap();
        assert!(found.seen.contains("CAP_SYS_ADMIN"), "{found:?}");
        assert!(!found.seen.contains("CAP_CHOWN"), "{found:?}");
        assert!(found.remedy.contains("--cap-add SYS_ADMIN "), "{found:?}");
    }

    #[test]
    fn a_failure_is_explained_by_where_it_happened() {
        let seen = |message, container| explain_in(message, container, false).map(|o| o.seen);
        let denied = "make the namespaces: operation not permitted";
        let contained = seen(denied, true).unwrap();
        assert!(contained.contains("container") && contained.contains("chroot"));
        assert!(seen(denied, false).unwrap().contains("security module"));
        let below = explain_in(denied, true, true).unwrap();
        assert!(below.seen.contains("chroot"), "{below:?}");
        let mounts = |point| format!("36 35 98:0 / {point} rw - ext4 /dev/root rw\n");
        assert!(is_chroot(mounts("/proc").as_bytes()));
        assert!(!is_chroot(mounts("/").as_bytes()) && !is_chroot(b""));
        let filtered = "make the namespaces: function not implemented";
        assert!(seen(filtered, true).unwrap().contains("container"));
        let full = "make the namespaces: no space left on device";
        assert!(seen(full, false).unwrap().contains("used up"));
        let proc = "mount proc: operation not permitted";
        assert!(seen(proc, true).unwrap().contains("/proc"));
        assert_eq!(seen("mount overlay: operation not permitted", false), None);
    }
}
