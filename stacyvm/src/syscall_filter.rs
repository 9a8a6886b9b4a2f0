//! The filter of system calls in the words of the OCI runtime specification,
//! which Docker reads too, from the table that the helper's own filter is made of.
//!
//! Runtimes make it by libseccomp, where conditions compare 64 bits and rules
//! of one call can only allow more: so every condition looks at the lower half
//! alone, and what is refused is said by what is allowed. In gVisor the first rule
//! that holds decides.

use serde_json::{Value, json};
use stacyvm_agent::confinement::system_calls::{
    AF_NETLINK, ALLOWED, CLONE_NEW, FAMILIES, MAKES_FILE, NETLINK_ROUTE, PERSONALITIES, SET_ID,
    SET_MODE, SET_SIGNAL, TERMINAL_REQUESTS,
};

const EPERM: u32 = 1;
const ENOSYS: u32 = 38;
const ALL: u32 = u32::MAX;
const ALLOW: &str = "SCMP_ACT_ALLOW";
const ERROR: &str = "SCMP_ACT_ERRNO";
const MASKED_EQUAL: &str = "SCMP_CMP_MASKED_EQ";

/// The bits of a mode that say what kind of file it is.
const KIND: u32 = 0o170_000;
/// None, a regular file, a pipe, a socket.
const NOT_DEVICES: [u32; 4] = [0, 0o100_000, 0o010_000, 0o140_000];
/// The calls that make nodes, with the argument that is the mode.
const MAKES_NODE: [(&str, usize); 2] = [("mknod", 1), ("mknodat", 2)];
/// The calls that signal the process or thread of their first argument.
const SIGNALS: [&str; 5] = [
    "kill",
    "tkill",
    "tgkill",
    "rt_sigqueueinfo",
    "rt_tgsigqueueinfo",
];

/// Argument number, the bits that are looked at, and what they must be.
type Condition = (usize, u32, u32);

/// The profile for this machine, also without set-id bits, or for gVisor, the one
/// kernel of its own that heeds it. gVisor answers `EPERM` whatever number a rule asks
/// for, for which no C library looks for another way to make threads; so there `clone3`
/// is allowed, with namespaces that are of that kernel alone. What Linux refuses by
/// itself and gVisor does not is refused: device nodes, and signals to process 1.
/// Requests that feed a terminal are not looked for there: gVisor knows none, and to
/// make their forty rules was a twentieth of a create.
pub(crate) fn profile(no_set_id: bool, own_kernel: bool) -> Value {
    let mut plain = Vec::new();
    let mut rules = Vec::new();
    if own_kernel {
        // Before what allows them.
        rules.push(rule(&SIGNALS, &[(0, ALL, 1)], ERROR));
        rules.push(rule(&["fcntl"], &[(1, ALL, SET_SIGNAL)], ERROR));
    }
    for row in ALLOWED {
        let number = if cfg!(target_arch = "aarch64") {
            row.2
        } else {
            row.1
        };
        if number < 0 {
            continue;
        }
        match conditions(row.0, no_set_id, own_kernel) {
            None => plain.push(row.0),
            Some(alternatives) => {
                let alternatives = alternatives.iter();
                rules.extend(alternatives.map(|alternative| rule(&[row.0], alternative, ALLOW)));
            }
        }
    }
    // What is in memory a filter cannot see; told that it does not exist, every
    // C library uses `clone`, and programs `openat`.
    let mut unseen = Vec::new();
    if !own_kernel {
        unseen.push("clone3");
    }
    if no_set_id {
        unseen.push("openat2");
    }
    plain.retain(|name| !unseen.contains(name));
    if !unseen.is_empty() {
        rules.push(json!({"names": unseen, "action": ERROR, "errnoRet": ENOSYS}));
    }
    rules.push(json!({"names": plain, "action": ALLOW}));
    let machine = if cfg!(target_arch = "aarch64") {
        "SCMP_ARCH_AARCH64"
    } else {
        "SCMP_ARCH_X86_64"
    };
    json!({
        "defaultAction": ERROR,
        "defaultErrnoRet": EPERM,
        "architectures": [machine],
        "syscalls": rules,
    })
}

/// The alternatives under which a call is allowed, each of conditions that
/// hold together; `None` where it always is.
fn conditions(name: &str, no_set_id: bool, own_kernel: bool) -> Option<Vec<Vec<Condition>>> {
    let one = |condition| vec![condition];
    if own_kernel && let Some((_, mode)) = MAKES_NODE.iter().find(|row| row.0 == name) {
        let set_id = if no_set_id { SET_ID } else { 0 };
        let kinds = NOT_DEVICES.iter();
        return Some(
            kinds
                .map(|kind| one((*mode, KIND | set_id, *kind)))
                .collect(),
        );
    }
    if no_set_id && let Some((_, mode, flags)) = SET_MODE.iter().find(|row| row.0 == name) {
        let mut all = vec![one((*mode as usize, SET_ID, 0))];
        all.extend(flags.map(|flags| one((flags as usize, MAKES_FILE, 0))));
        return Some(all);
    }
    Some(match name {
        "clone" => vec![one((0, CLONE_NEW, 0))],
        "socket" => {
            let mut all: Vec<_> = FAMILIES.iter().map(|f| one((0, ALL, *f))).collect();
            all.push(vec![(0, ALL, AF_NETLINK), (2, ALL, NETLINK_ROUTE)]);
            all
        }
        "prlimit64" => vec![one((0, ALL, 0))],
        "personality" => PERSONALITIES.iter().map(|p| one((0, ALL, *p))).collect(),
        "fcntl" if !own_kernel => neither([SET_SIGNAL; 2])
            .into_iter()
            .map(|(mask, bits)| one((1, mask, bits)))
            .collect(),
        "ioctl" if !own_kernel => neither(TERMINAL_REQUESTS)
            .into_iter()
            .map(|(mask, bits)| one((1, mask, bits)))
            .collect(),
        _ => return None,
    })
}

/// Masks and bits of which a value fulfils at least one just if it is neither
/// of the two.
fn neither([a, b]: [u32; 2]) -> Vec<(u32, u32)> {
    let apart = a ^ b;
    let common = (0..32).map(|n| 1_u32 << n).filter(|bit| apart & bit == 0);
    let mut all: Vec<_> = common.map(|bit| (bit, !a & bit)).collect();
    // Every way to fill the bits in which they are apart, but theirs.
    let mut bits = apart;
    loop {
        if bits != a & apart && bits != b & apart {
            all.push((apart, bits));
        }
        if bits == 0 {
            return all;
        }
        bits = (bits - 1) & apart;
    }
}

fn rule(names: &[&str], conditions: &[Condition], action: &str) -> Value {
    let argument = |(index, mask, bits): &Condition| json!({"index": index, "value": mask, "valueTwo": bits, "op": MASKED_EQUAL});
    let arguments: Vec<Value> = conditions.iter().map(argument).collect();
    let mut rule = json!({"names": names, "action": action, "args": arguments});
    if action == ERROR {
        rule["errnoRet"] = EPERM.into();
    }
    rule
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules(profile: &Value) -> &[Value] {
        profile["syscalls"].as_array().unwrap()
    }

    fn names(rule: &Value) -> impl Iterator<Item = &str> {
        let names = rule["names"].as_array().unwrap().iter();
        names.map(|name| name.as_str().unwrap())
    }

    /// What is decided by the first rule whose conditions hold, or the default.
    fn allows(profile: &Value, name: &str, arguments: [u64; 3]) -> bool {
        let mut rules = rules(profile).iter();
        let first = rules.find(|rule| {
            let conditions = rule["args"].as_array().map_or(&[][..], Vec::as_slice);
            names(rule).any(|n| n == name)
                && conditions.iter().all(|argument| {
                    assert_eq!(argument["op"], MASKED_EQUAL);
                    let number = |key: &str| argument[key].as_u64().unwrap();
                    let index = usize::try_from(number("index")).unwrap();
                    arguments[index] & number("value") == number("valueTwo")
                })
        });
        first.is_some_and(|rule| rule["action"] == ALLOW)
    }

    #[test]
    fn what_libseccomp_makes_refuses_nothing_by_condition() {
        for no_set_id in [false, true] {
            for rule in rules(&profile(no_set_id, false)) {
                assert!(rule["action"] == ALLOW || rule["args"].is_null(), "{rule}");
            }
        }
    }

    #[test]
    fn a_kernel_of_its_own_lets_threads_be_made() {
        let allows = |own_kernel| allows(&profile(false, own_kernel), "clone3", [0; 3]);
        assert!(allows(true) && !allows(false));
    }

    #[test]
    fn a_kernel_of_its_own_is_asked_for_all_of_a_terminal_in_one_rule() {
        let profile = profile(false, true);
        let of_ioctl = rules(&profile).iter();
        let of_ioctl = of_ioctl.filter(|rule| names(rule).any(|name| name == "ioctl"));
        assert_eq!(of_ioctl.count(), 1);
        assert!(allows(&profile, "ioctl", [0, 0x5413, 0]));
    }

    #[test]
    fn a_kernel_of_its_own_makes_no_device_and_signals_no_process_1() {
        let high = 0xFFFF_FFFF_0000_0000;
        for no_set_id in [false, true] {
            let own = profile(no_set_id, true);
            for name in SIGNALS {
                assert!(!allows(&own, name, [1, 9, 0]), "{name}");
                assert!(!allows(&own, name, [high | 1, 9, 0]), "{name}");
                for other in [0, 2, 3, 4097, u64::MAX, high | 2, 0xFFFF_FFFF] {
                    assert!(allows(&own, name, [other, 9, 0]), "{name} {other}");
                }
                assert!(allows(&profile(no_set_id, false), name, [1, 9, 0]));
            }
            for request in 0..2048 {
                for bits in [0, high] {
                    let seen = allows(&own, "fcntl", [3, bits | request, 9]);
                    assert_eq!(seen, request != 10, "{request}");
                }
            }
            for (kind, expected) in [
                (0, true),
                (0o100_000, true),
                (0o010_000, true),
                (0o140_000, true),
                (0o020_000, false),
                (0o060_000, false),
            ] {
                let mode = kind | 0o644;
                assert_eq!(allows(&own, "mknodat", [0, 0, mode]), expected, "{kind:o}");
                let with_set_id = allows(&own, "mknodat", [0, 0, kind | 0o4755]);
                assert_eq!(with_set_id, expected && !no_set_id, "{kind:o}");
            }
        }
    }

    #[test]
    fn the_profile_decides_as_the_helpers_filter_does() {
        let profile = profile(false, false);
        let high = 0x1_0000_0000_u64;
        for (name, arguments, expected) in [
            ("read", [0, 0, 0], true),
            ("mount", [0, 0, 0], false),
            ("unshare", [0, 0, 0], false),
            ("clone3", [0, 0, 0], false),
            ("clone", [0x0100_0000 | 0x11, 0, 0], true),
            ("clone", [0x1000_0000, 0, 0], false),
            ("clone", [high | 0x1000_0000, 0, 0], false),
            ("clone", [0x2_0000, 0, 0], false),
            ("socket", [1, 1, 0], true),
            ("socket", [16, 3, 0], true),
            ("socket", [16, 3, 9], false),
            ("socket", [17, 3, 0], false),
            ("socket", [38, 5, 0], false),
            ("prlimit64", [0, 7, 0], true),
            ("prlimit64", [1, 7, 0], false),
            ("personality", [0xFFFF_FFFF, 0, 0], true),
            ("personality", [0x4_0000, 0, 0], false),
            ("fcntl", [0, 10, 9], false),
            ("fcntl", [0, high | u64::from(SET_SIGNAL), 9], false),
            ("fcntl", [0, 8, 1], true),
            ("fcntl", [0, 1030, 0], true),
            ("ioctl", [0, 0x5412, 0], false),
            ("ioctl", [0, high | 0x5412, 0], false),
            ("ioctl", [0, 0x541C, 0], false),
            ("ioctl", [0, high | 0x541C, 0], false),
            ("ioctl", [0, 0x5413, 0], true),
            ("ioctl", [0, 0x541B, 0], true),
        ] {
            let seen = allows(&profile, name, arguments);
            assert_eq!(seen, expected, "{name} {arguments:x?}");
        }
        for near in 0_u64..0x1_0000 {
            let refused = near == 0x5412 || near == 0x541C;
            let seen = allows(&profile, "ioctl", [0, near, 0]);
            assert_eq!(seen, !refused, "{near:x}");
        }
    }

    #[test]
    fn set_id_bits_are_refused_where_they_are_asked_to_be() {
        let (strict, open) = (profile(true, false), profile(false, false));
        let high = 0x1_0000_0000_u64;
        for (name, arguments, refused) in [
            ("chmod", [0, 0o755, 0], false),
            ("chmod", [0, 0o1777, 0], false),
            ("chmod", [0, 0o4755, 0], true),
            ("chmod", [0, high | 0o2755, 0], true),
            ("fchmod", [0, 0o2000, 0], true),
            ("fchmodat", [0, 0, 0o4000], true),
            ("fchmodat2", [0, 0, 0o4000], true),
            ("creat", [0, 0o4755, 0], true),
            ("mknod", [0, 0o104_755, 0], true),
            ("mknodat", [0, 0, 0o102_755], true),
            ("open", [0, 0o100, 0o4755], true),
            ("open", [0, 0o20_200_002, 0o4755], true),
            ("open", [0, 0o100, 0o755], false),
            // Without a file to make it is whatever the register held.
            ("open", [0, 0, 0o4755], false),
            ("open", [0, 0o200_000, 0o7777], false),
            ("openat2", [0, 0, 0], true),
        ] {
            // The other machine has no such call.
            if ALLOWED.iter().any(|row| row.0 == name && row.2 < 0) && cfg!(target_arch = "aarch64")
            {
                continue;
            }
            assert!(allows(&open, name, arguments), "{name} {arguments:x?}");
            assert_eq!(
                allows(&strict, name, arguments),
                !refused,
                "{name} {arguments:x?}"
            );
        }
        assert!(allows(&strict, "read", [0, 0, 0]));
        assert!(!allows(&strict, "clone3", [0, 0, 0]));
    }

    #[test]
    fn no_call_is_allowed_with_and_without_conditions() {
        for no_set_id in [false, true] {
            let profile = profile(no_set_id, false);
            for rule in rules(&profile) {
                let free = rule["args"].is_null();
                let all_free = |n: &str| conditions(n, no_set_id, false).is_none();
                assert!(!free || names(rule).all(all_free));
            }
        }
    }
}
