//! Finds paths by a pattern.

use std::collections::HashSet;

use rustix::fs::{CWD, OFlags};

use super::replies::Replies;
use super::{Answer, descent, entry, failure, list, path, pattern};
use crate::protocol::message::{Failure, FailureKind};

const EVERY_LEVEL: &[u8] = b"**";

/// One place to look at: the path so far, ending in a slash unless it is
/// complete, and the next component of the pattern.
type State = (Vec<u8>, usize);

/// Answers what matches, in name order within one directory. `**` stands for
/// any number of directories, at the end for everything below; it follows no
/// link and enters nothing hidden, and beside it no wildcard follows one. Directories that cannot be read are passed
/// over.
pub(super) fn glob(
    pattern: &[u8],
    limit: u32,
    replies: &mut Replies<'_>,
) -> Result<Answer, Failure> {
    let whole = path::check(pattern)?;
    let only_directories = whole.ends_with(b"/");
    let mut components: Vec<&[u8]> = whole
        .split(|byte| *byte == b'/')
        .filter(|component| !component.is_empty() && *component != b".")
        .collect();
    // Two in a row say the same as one.
    components.dedup_by(|next, before| *next == EVERY_LEVEL && *before == EVERY_LEVEL);
    let levels = components.iter().filter(|c| **c == EVERY_LEVEL).count();
    // With several `**` many ways lead to one place; each is looked at once.
    let mut seen: HashSet<State> = HashSet::new();
    let mut found = 0_u32;
    let mut states: Vec<State> = vec![(b"/".to_vec(), 0)];
    while let Some(state) = states.pop() {
        if levels > 1 && !seen.insert(state.clone()) {
            continue;
        }
        let (path, at) = state;
        let Some(component) = components.get(at) else {
            found = found.saturating_add(report(&path, only_directories, found < limit, replies));
            if found > limit {
                return Err(failure::new(
                    FailureKind::Exhausted,
                    format!("pattern matches more than the {limit} paths asked for"),
                    Some(whole),
                ));
            }
            continue;
        };
        let is_last = at + 1 == components.len();
        let next: Vec<State> = if *component == EVERY_LEVEL {
            every_level(&path, at, is_last)
        } else if pattern::is_magic(component) {
            // Beside `**`, links that lead in circles would have no end.
            let enters = |name: &[u8]| {
                levels == 0 || is_last || list::is_real_directory(CWD, &joined(&path, name, true))
            };
            names_in(&path, false)
                .into_iter()
                .filter(|name| pattern::matches(component, name) && enters(name))
                .map(|name| (joined(&path, &name, is_last), at + 1))
                .collect()
        } else {
            vec![(joined(&path, component, is_last), at + 1)]
        };
        states.extend(next.into_iter().rev());
    }
    Ok(Answer::Done)
}

/// No level; or one more, where the pattern's component stays.
fn every_level(path: &[u8], at: usize, is_last: bool) -> Vec<State> {
    let mut next = Vec::new();
    if !is_last {
        next.push((path.to_vec(), at + 1));
    }
    for name in names_in(path, true) {
        if name.starts_with(b".") {
            continue;
        }
        let below = joined(path, &name, true);
        let enters = list::is_real_directory(CWD, &below);
        if is_last {
            next.push((below.clone(), at + 1));
        }
        if enters {
            next.push(([&below[..], b"/"].concat(), at));
        }
    }
    next
}

fn joined(path: &[u8], name: &[u8], is_last: bool) -> Vec<u8> {
    let slash: &[u8] = if is_last { b"" } else { b"/" };
    [path, name, slash].concat()
}

/// The names in a directory; none where it cannot be read.
fn names_in(path: &[u8], no_link: bool) -> Vec<Vec<u8>> {
    let mut flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let mut path = path;
    if no_link {
        // With its slash the name would be followed all the same.
        path = path::trim(path);
        flags |= OFlags::NOFOLLOW;
    }
    descent::open_directory(CWD, path, flags)
        .and_then(descent::names)
        .unwrap_or_default()
}

/// Answers one path if it is there; how many were found, 0 or 1.
fn report(path: &[u8], only_directories: bool, send: bool, replies: &mut Replies<'_>) -> u32 {
    if only_directories && !path::is_directory(path) {
        return 0;
    }
    match entry::at(CWD, path, path.to_vec()) {
        Ok(entry) => {
            if send {
                replies.entry(entry);
            }
            1
        }
        Err(_) => 0,
    }
}
