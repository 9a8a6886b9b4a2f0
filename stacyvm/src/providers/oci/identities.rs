//! Who the users of sandboxes are on this host: as root a private range for
//! each sandbox, for others the range that `/etc/subuid` and `/etc/subgid` give
//! them, and without such a range themselves alone.

use std::os::fd::BorrowedFd;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use stacyvm_agent::helper_protocol::{Delegated, RANGE, Users};

use super::ranges::{Range, Ranges};
use crate::error::Result;

/// Where the two set-id programs are; the last is that of NixOS.
const DIRECTORIES: [&str; 5] = [
    "/usr/bin",
    "/bin",
    "/usr/local/bin",
    "/usr/sbin",
    "/run/wrappers/bin",
];

/// Where identities come from.
#[derive(Debug)]
pub(super) enum Identities {
    /// Root takes ranges of the machine.
    Private(Ranges),
    /// All sandboxes of this user share its range.
    Delegated(Delegated),
    /// There is this user alone, for the reason that is told.
    Single(String),
}

/// What one helper is given.
#[derive(Debug)]
pub(super) struct Identity {
    pub(super) users: Users,
    range: Option<Range>,
}

impl Identity {
    /// The lock of a private range.
    pub(super) fn lock(&self) -> Option<BorrowedFd<'_>> {
        self.range.as_ref().map(Range::lock)
    }
}

/// Whether this is root with the users of a whole machine, and not of a user
/// namespace such as those of rootless containers.
pub(super) fn is_host_root() -> bool {
    rustix::process::geteuid().is_root() && crate::id_map::is_mapped(super::ranges::LAST)
}

impl Identities {
    /// What this host has for this user.
    pub(super) fn look() -> Self {
        let uid = rustix::process::geteuid();
        if is_host_root() {
            return Self::Private(Ranges::of_this_machine());
        }
        if uid.is_root() {
            return Self::Single("root of a user namespace has no range of users to give".into());
        }
        match delegated(uid.as_raw()) {
            Ok(range) => Self::Delegated(range),
            Err(reason) => Self::Single(reason),
        }
    }

    /// Takes away what helpers that were killed left of theirs.
    pub(super) fn sweep(&self) {
        if let Self::Private(ranges) = self {
            ranges.sweep();
        }
    }

    /// For a helper that parks: `start` is any number. `own` is which user
    /// inside is this one, where that makes a difference.
    pub(super) fn take(&self, start: u32, own: Option<u32>) -> Result<Identity> {
        Ok(match self {
            Self::Private(ranges) => {
                let range = ranges.take(start)?;
                Identity {
                    users: Users::Private {
                        first: range.first(),
                    },
                    range: Some(range),
                }
            }
            Self::Delegated(range) => Identity {
                users: Users::Delegated(Delegated {
                    own,
                    ..range.clone()
                }),
                range: None,
            },
            Self::Single(_) => Identity {
                users: Users::Single,
                range: None,
            },
        })
    }

    /// Whose files a sandbox that was left has, where this user may not remove
    /// them all: those of others, and what lies in directories that are closed.
    pub(super) fn of_leftovers(&self) -> Option<Users> {
        match self {
            Self::Private(_) => None,
            // This user's files are its own to remove, whoever they are inside.
            Self::Delegated(range) => Some(Users::Delegated(Delegated {
                own: None,
                ..range.clone()
            })),
            Self::Single(_) => Some(Users::Single),
        }
    }

    /// The users of a sandbox that has this one inside, beside others.
    pub(super) fn of_own(&self, own: Option<u32>) -> Option<Users> {
        match self {
            Self::Delegated(range) if own.is_some() => Some(Users::Delegated(Delegated {
                own,
                ..range.clone()
            })),
            _ => None,
        }
    }

    /// Whether a sandbox has users beside its first.
    pub(super) fn are_many(&self) -> bool {
        !matches!(self, Self::Single(_))
    }
}

/// The ranges of a user, or why it has none that can be used.
fn delegated(uid: u32) -> std::result::Result<Delegated, String> {
    if has_no_new_privileges() {
        return Err("no_new_privs is set, so newuidmap has no rights".into());
    }
    let account = account_of(uid);
    if let Some((_, gid)) = &account
        && *gid != rustix::process::getegid().as_raw()
    {
        return Err(
            "the current group is not the account's own, so newgidmap refuses; leave it (newgrp, Group=)".into(),
        );
    }
    let name = account.map(|(name, _)| name);
    let range = |file: &str| {
        let text = std::fs::read_to_string(file).unwrap_or_default();
        range_of(&text, name.as_deref(), uid)
            .ok_or_else(|| format!("no range of {RANGE} for uid {uid} in {file}"))
    };
    let (first_uid, first_gid) = (range("/etc/subuid")?, range("/etc/subgid")?);
    held(first_uid, first_gid)?;
    Ok(Delegated {
        first_uid,
        first_gid,
        own: None,
        newuidmap: set_id_program("newuidmap")?,
        newgidmap: set_id_program("newgidmap")?,
    })
}

/// Refuses a range that newuidmap cannot map: of ids that the user namespace
/// of this process does not have itself.
fn held(first_uid: u32, first_gid: u32) -> std::result::Result<(), String> {
    if crate::id_map::has_range(first_uid, first_gid, RANGE) {
        return Ok(());
    }
    Err(format!(
        "this process is in a user namespace without {RANGE} users from {first_uid} and groups from {first_gid} (/proc/self/uid_map and gid_map), so newuidmap cannot map them"
    ))
}

fn has_no_new_privileges() -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mut lines = status.lines();
    lines.any(|line| {
        line.strip_prefix("NoNewPrivs:")
            .is_some_and(|v| v.trim() == "1")
    })
}

/// The name and the group of a local account.
pub(super) fn account_of(uid: u32) -> Option<(String, u32)> {
    let accounts = std::fs::read_to_string("/etc/passwd").unwrap_or_default();
    accounts.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        let is_meant = fields.nth(1)? == uid.to_string();
        let gid = fields.next()?.parse().ok()?;
        is_meant.then(|| (name.to_owned(), gid))
    })
}

/// The beginning of the first range that is large enough; `subuid(5)`.
fn range_of(text: &str, name: Option<&str>, uid: u32) -> Option<u32> {
    let uid = uid.to_string();
    text.lines().find_map(|line| {
        let mut fields = line.split(':');
        let owner = fields.next()?;
        let first: u32 = fields.next()?.trim().parse().ok()?;
        let count: u32 = fields.next()?.trim().parse().ok()?;
        let fits = count >= RANGE && first >= RANGE && first.checked_add(count - 1).is_some();
        ((Some(owner) == name || owner == uid) && fits).then_some(first)
    })
}

/// The absolute path of a program that may map what others may not: by a set-id
/// bit, or by file capabilities.
fn set_id_program(name: &str) -> std::result::Result<String, String> {
    let found = DIRECTORIES
        .iter()
        .map(|directory| Path::new(directory).join(name))
        .find(|path| has_rights(path));
    let path: PathBuf = found.ok_or_else(|| {
        format!("{name} is not there with the rights that it needs; install the package uidmap or shadow-utils")
    })?;
    Ok(path.to_string_lossy().into_owned())
}

fn has_rights(path: &Path) -> bool {
    let Ok(meta) = std::fs::metadata(path) else {
        return false;
    };
    let set_id = meta.permissions().mode() & 0o4000 != 0;
    let capable = rustix::fs::getxattr(path, "security.capability", &mut [0_u8; 64][..]).is_ok();
    meta.is_file() && meta.uid() == 0 && (set_id || capable)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_is_found_by_name_or_number_and_must_be_large() {
        let text = "root:1:65536\n\
            other:100000:65536\n\
            me:200000:1000\n\
            me:70000:4294967295\n\
            nonsense\n\
            me:300000:65536\n\
            501:400000:131072\n";
        assert_eq!(range_of(text, Some("me"), 500), Some(300_000));
        assert_eq!(range_of(text, None, 501), Some(400_000));
        assert_eq!(range_of(text, Some("nobody"), 502), None);
        assert_eq!(range_of(text, Some("root"), 502), None, "begins at 1");
    }

    #[test]
    fn a_range_that_this_namespace_lacks_is_told() {
        // The last id is none.
        let told = held(u32::MAX - 10, u32::MAX - 10).unwrap_err();
        assert!(
            told.contains("newuidmap") && told.contains("uid_map"),
            "{told}"
        );
        assert_eq!(held(0, 0).is_ok(), crate::id_map::has_range(0, 0, RANGE));
    }

    #[test]
    fn an_ordinary_program_maps_nothing() {
        assert!(!has_rights(Path::new("/bin/true")));
        assert!(
            set_id_program("no-such-program")
                .unwrap_err()
                .contains("uidmap")
        );
    }

    #[test]
    fn the_own_user_is_inside_only_where_it_is_asked_for() {
        let range = Delegated {
            first_uid: 100_000,
            first_gid: 100_000,
            own: None,
            newuidmap: "/usr/bin/newuidmap".into(),
            newgidmap: "/usr/bin/newgidmap".into(),
        };
        let identities = Identities::Delegated(range);
        let own = |asked| match identities.take(7, asked).unwrap().users {
            Users::Delegated(range) => range.own,
            other => panic!("{other:?}"),
        };
        assert_eq!((own(None), own(Some(1000))), (None, Some(1000)));
        let Some(Users::Delegated(left)) = identities.of_leftovers() else {
            panic!("none")
        };
        assert_eq!(left.own, None);
    }
}
