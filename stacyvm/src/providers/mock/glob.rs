//! Shell patterns over the tree.

use super::tree::{Credentials, ROOT, Right, Tree};
use super::users::Users;
use crate::error::{Error, ErrorKind, Result};
use crate::sandbox::files::FileEntry;

/// Finds paths by an absolute pattern, in the order of their names.
pub(super) fn glob(
    tree: &Tree,
    who: &Credentials,
    pattern: &[u8],
    limit: u32,
    users: &Users,
) -> Result<Vec<FileEntry>> {
    let parts: Vec<&[u8]> = pattern
        .split(|b| *b == b'/')
        .filter(|part| !part.is_empty())
        .collect();
    let mut search = Search {
        tree,
        who,
        users,
        limit: limit as usize,
        found: Vec::new(),
    };
    search.below(ROOT, b"", &parts)?;
    search.found.sort_by(|a, b| a.path.cmp(&b.path));
    search.found.dedup_by(|a, b| a.path == b.path);
    Ok(search.found)
}

struct Search<'a> {
    tree: &'a Tree,
    who: &'a Credentials,
    users: &'a Users,
    limit: usize,
    found: Vec<FileEntry>,
}

impl Search<'_> {
    fn take(&mut self, number: u64, path: &[u8]) -> Result<()> {
        if self.found.iter().any(|entry| entry.path == path) {
            return Ok(());
        }
        if self.found.len() >= self.limit {
            return Err(Error::new(
                ErrorKind::ResourceExhausted,
                format!("the pattern finds more than {} paths", self.limit),
            ));
        }
        self.found.push(self.tree.entry(number, path, self.users));
        Ok(())
    }

    fn below(&mut self, directory: u64, prefix: &[u8], parts: &[&[u8]]) -> Result<()> {
        let Some((part, rest)) = parts.split_first() else {
            return Ok(());
        };
        let readable = |right| self.tree.demand(self.who, directory, right, prefix).is_ok();
        let Some(entries) = self.tree.entries(directory) else {
            return Ok(());
        };
        if !readable(Right::Search) || !readable(Right::Read) {
            return Ok(());
        }
        if *part == b"**" {
            // No directory at all, or one more of any name. Links are not entered.
            self.below(directory, prefix, rest)?;
        }
        for (name, number) in entries {
            let path = [prefix, b"/", name.as_slice()].concat();
            if *part == b"**" {
                if name.starts_with(b".") {
                    continue;
                }
                if rest.is_empty() {
                    self.take(*number, &path)?;
                }
                self.below(*number, &path, parts)?;
            } else if matches(part, name) {
                if rest.is_empty() {
                    self.take(*number, &path)?;
                } else {
                    self.enter(*number, &path, rest)?;
                }
            }
        }
        Ok(())
    }

    /// Goes on below a name that was matched; a link to a directory is followed.
    fn enter(&mut self, number: u64, path: &[u8], rest: &[&[u8]]) -> Result<()> {
        let number = match self.tree.entries(number) {
            Some(_) => number,
            None => match self.tree.find(self.who, path, true) {
                Ok((number, _)) => number,
                Err(_) => return Ok(()),
            },
        };
        self.below(number, path, rest)
    }
}

/// Whether a name matches a part of a pattern. A leading dot is matched only
/// by a dot.
fn matches(pattern: &[u8], name: &[u8]) -> bool {
    if name.first() == Some(&b'.') && pattern.first() != Some(&b'.') {
        return false;
    }
    // The last `*` and what it had taken when it was met.
    let (mut p, mut n) = (0, 0);
    let mut star: Option<(usize, usize)> = None;
    while n < name.len() {
        if pattern.get(p) == Some(&b'*') {
            star = Some((p, n));
            p += 1;
        } else if let Some(next) = one(&pattern[p..], name[n]) {
            p += next;
            n += 1;
        } else if let Some((at, taken)) = star {
            star = Some((at, taken + 1));
            (p, n) = (at + 1, taken + 1);
        } else {
            return false;
        }
    }
    pattern[p..].iter().all(|b| *b == b'*')
}

/// How much of the pattern one byte matches; `None` if it does not.
fn one(pattern: &[u8], byte: u8) -> Option<usize> {
    match pattern {
        [b'?', ..] => Some(1),
        [b'\\', escaped, ..] => (*escaped == byte).then_some(2),
        [b'[', set @ ..] => {
            let (negated, set) = match set {
                [b'!' | b'^', rest @ ..] => (true, rest),
                _ => (false, set),
            };
            // A bracket at once after the opening one stands for itself.
            let Some(end) = set.iter().skip(1).position(|b| *b == b']').map(|e| e + 1) else {
                return (byte == b'[').then_some(1);
            };
            let mut members = &set[..end];
            let mut inside = false;
            while let Some((&first, rest)) = members.split_first() {
                if let [b'-', last, after @ ..] = rest {
                    inside |= (first..=*last).contains(&byte);
                    members = after;
                } else {
                    inside |= first == byte;
                    members = rest;
                }
            }
            (inside != negated).then_some(end + 2 + usize::from(negated))
        }
        [literal, ..] => (*literal == byte).then_some(1),
        [] => None,
    }
}

#[cfg(test)]
mod tests {
    use super::matches;

    #[test]
    fn patterns_match_as_in_a_shell() {
        for (pattern, name, expected) in [
            ("*.txt", "a.txt", true),
            ("*.txt", ".txt", false),
            (".*", ".txt", true),
            ("a?c", "abc", true),
            ("a?c", "ac", false),
            ("[a-c]x", "bx", true),
            ("[!a-c]x", "bx", false),
            ("[]]", "]", true),
            ("[", "[", true),
            ("a*b*c", "a1b2b3c", true),
            ("a*b*c", "a1b2", false),
            ("\\*", "*", true),
            ("\\*", "a", false),
            ("", "", true),
        ] {
            assert_eq!(
                matches(pattern.as_bytes(), name.as_bytes()),
                expected,
                "{pattern} {name}"
            );
        }
    }
}
