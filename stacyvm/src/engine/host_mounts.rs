//! What is mounted where on this host.

use std::path::{Path, PathBuf};

/// The mounts that this process sees; none on a system without `mountinfo`.
#[derive(Debug, Default)]
pub(super) struct HostMounts(Vec<(PathBuf, String)>);

impl HostMounts {
    pub(super) async fn look() -> Self {
        let text = tokio::fs::read_to_string("/proc/self/mountinfo").await;
        Self::parse(&text.unwrap_or_default())
    }

    /// `36 35 98:0 /shown /point rw,noatime shared:1 - ext4 /dev/root rw`.
    fn parse(text: &str) -> Self {
        let mount = |line: &str| {
            let (facts, source) = line.split_once(" - ")?;
            let point = unescape(facts.split(' ').nth(4)?);
            Some((point, source.split(' ').next()?.to_owned()))
        };
        Self(text.lines().filter_map(mount).collect())
    }

    /// The kind of the file system that a path is on.
    pub(super) fn kind_at(&self, path: &Path) -> Option<&str> {
        let above = self.0.iter().filter(|(point, _)| path.starts_with(point));
        // Of several on one point the last one is seen.
        above
            .max_by_key(|(point, _)| point.components().count())
            .map(|(_, kind)| kind.as_str())
    }

    /// What is mounted below a path, with its kind.
    pub(super) fn below<'a>(&'a self, path: &'a Path) -> impl Iterator<Item = (&'a Path, &'a str)> {
        self.0
            .iter()
            .filter(move |(point, _)| point != path && point.starts_with(path))
            .map(|(point, kind)| (point.as_path(), kind.as_str()))
    }
}

/// Blanks, tabs, line feeds and backslashes are three octal digits.
fn unescape(text: &str) -> PathBuf {
    let mut plain = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('\\') {
        plain.push_str(&rest[..at]);
        let digits = rest.get(at + 1..at + 4);
        if let Some(byte) = digits.and_then(|digits| u8::from_str_radix(digits, 8).ok()) {
            plain.push(char::from(byte));
            rest = &rest[at + 4..];
        } else {
            plain.push('\\');
            rest = &rest[at + 1..];
        }
    }
    plain.push_str(rest);
    plain.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_mounted_below_a_path_is_found() {
        let mounts = HostMounts::parse(
            "1 0 8:1 / / rw shared:1 - ext4 /dev/sda1 rw\n\
             2 1 0:5 / /srv/a\\040b/proc rw - proc proc rw\n\
             3 1 0:6 / /srv/a\\040bc rw - tmpfs none rw\n\
             4 1 0:7 / /srv/a\\040bc rw - sysfs none rw\n\
             nonsense\n",
        );
        let below: Vec<_> = mounts.below(Path::new("/srv/a b")).collect();
        assert_eq!(below, [(Path::new("/srv/a b/proc"), "proc")]);
        assert_eq!(mounts.below(Path::new("/srv/a b/proc")).count(), 0);
        assert_eq!(mounts.kind_at(Path::new("/srv/a b/x")), Some("ext4"));
        assert_eq!(mounts.kind_at(Path::new("/srv/a b/proc/1")), Some("proc"));
        assert_eq!(mounts.kind_at(Path::new("/srv/a bc")), Some("sysfs"));
    }
}
