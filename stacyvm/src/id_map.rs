//! Which users this process's user namespace knows.

/// Whether a user of this number can be told from the others: in the first user
/// namespace all can, in another one those that are mapped.
pub(crate) fn is_mapped(uid: u32) -> bool {
    // A system without such a file has no user namespaces.
    std::fs::read_to_string("/proc/self/uid_map").map_or(true, |map| is_mapped_by(&map, uid))
}

/// Lines of first inside, first outside and count.
fn is_mapped_by(map: &str, uid: u32) -> bool {
    map.lines().any(|line| {
        let numbers: Vec<u64> = line
            .split_whitespace()
            .filter_map(|number| number.parse().ok())
            .collect();
        matches!(numbers[..], [first, _, count] if (first..first + count).contains(&uid.into()))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_user_is_mapped_by_its_number_inside() {
        let all = "         0          0 4294967295\n";
        assert!(is_mapped_by(all, 0) && is_mapped_by(all, 0x7000_0000));
        let some = "0 1000 1\n1 100000 65535\n";
        assert!(is_mapped_by(some, 0) && is_mapped_by(some, 65_535));
        assert!(!is_mapped_by(some, 65_536) && !is_mapped_by(some, 100_000));
        assert!(!is_mapped_by("", 0));
    }
}
