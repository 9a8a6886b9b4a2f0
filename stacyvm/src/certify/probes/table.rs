//! The form of the table.

use crate::certify::{CheckLevel, Need, User};

/// Checks that mean the same when they fire.
pub(super) struct Group {
    pub(super) level: CheckLevel,
    pub(super) means: &'static str,
    pub(super) rows: &'static [Row],
}

/// One check.
pub(super) struct Row {
    pub(super) id: &'static str,
    pub(super) tries: &'static str,
    pub(super) needs: &'static [Need],
    /// Who it is tried as; `Root` only where there is one.
    pub(super) users: &'static [User],
    /// Why a kernel that is not Linux is not asked; empty where it is.
    pub(super) elsewhere: &'static str,
}

/// A check that every combination can be held to.
pub(super) const fn row(id: &'static str, tries: &'static str) -> Row {
    needing(id, tries, &[])
}

/// A check of something that a combination may not claim.
pub(super) const fn needing(id: &'static str, tries: &'static str, needs: &'static [Need]) -> Row {
    let users = &[User::Default, User::Root];
    Row {
        id,
        tries,
        needs,
        users,
        elsewhere: "",
    }
}

/// With these needs in place of its own.
pub(super) const fn with_needs(mut row: Row, needs: &'static [Need]) -> Row {
    row.needs = needs;
    row
}

/// A check of a mechanism of Linux, of which another kernel has a harmless likeness.
pub(super) const fn of_linux(
    id: &'static str,
    tries: &'static str,
    elsewhere: &'static str,
) -> Row {
    let mut row = needing(id, tries, &[Need::LinuxKernel]);
    row.elsewhere = elsewhere;
    row
}

/// A check that says nothing when root tries it.
pub(super) const fn not_as_root(id: &'static str, tries: &'static str) -> Row {
    let mut row = needing(id, tries, &[Need::Users]);
    row.users = &[User::Default];
    row
}
