//! Which users and groups this process's user namespace knows.

/// The last id that an image may name.
#[cfg(all(feature = "image", target_os = "linux"))]
const LAST_OF_IMAGES: u32 = 65_535;

/// Whether a user of this number can be told from the others: in the first user
/// namespace all can, in another one those that are mapped.
pub(crate) fn is_mapped(uid: u32) -> bool {
    are_mapped("uid", uid, uid)
}

/// Whether these users and groups, whose ranges begin here, are mapped.
#[cfg(all(feature = "oci", target_os = "linux"))]
pub(crate) fn has_range(first_uid: u32, first_gid: u32, count: u32) -> bool {
    let last = |first: u32| first.saturating_add(count - 1);
    are_mapped("uid", first_uid, last(first_uid)) && are_mapped("gid", first_gid, last(first_gid))
}

/// Whether every user and group that an image may name is mapped.
#[cfg(all(feature = "image", target_os = "linux"))]
pub(crate) fn has_all_of_an_image() -> bool {
    are_mapped("uid", 0, LAST_OF_IMAGES) && are_mapped("gid", 0, LAST_OF_IMAGES)
}

fn are_mapped(kind: &str, first: u32, last: u32) -> bool {
    // A system without such a file has no user namespaces.
    std::fs::read_to_string(format!("/proc/self/{kind}_map"))
        .map_or(true, |map| covers(&map, first, last))
}

/// Lines of first inside, first outside and count.
fn covers(map: &str, first: u32, last: u32) -> bool {
    let mut ranges: Vec<(u64, u64)> = map
        .lines()
        .filter_map(|line| {
            let mut numbers = line.split_whitespace().map(|n| n.parse::<u64>().ok());
            let (inside, _, count) = (numbers.next()??, numbers.next()??, numbers.next()??);
            Some((inside, inside.saturating_add(count)))
        })
        .collect();
    ranges.sort_unstable();
    let mut next = u64::from(first);
    for (start, end) in ranges {
        if start <= next {
            next = next.max(end);
        }
    }
    next > last.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_mapped_by_their_numbers_inside() {
        let all = "         0          0 4294967295\n";
        assert!(covers(all, 0, 0) && covers(all, 0x7000_0000, 0x7000_0000));
        // In whatever order, and with an id of its own in the middle.
        let some = "1001 101001 64535\n0 100000 1000\n1000 501 1\n";
        assert!(covers(some, 0, 65_535) && covers(some, 1000, 1000));
        assert!(!covers(some, 0, 65_536) && !covers(some, 100_000, 100_000));
        let gap = "0 100000 1000\n1001 101001 64535\n";
        assert!(!covers(gap, 0, 65_535) && covers(gap, 1001, 65_535));
        assert!(!covers("", 0, 0));
        // A range of /etc/subuid that a nested namespace does not hold.
        assert!(!covers("0 0 65536\n", 100_000, 165_535));
    }
}
