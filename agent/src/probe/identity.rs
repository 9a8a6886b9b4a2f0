//! Who it is for the kernel, and what it is told of the host.

use crate::answer::Answer;
use crate::{Attack, Told};

pub(crate) const ATTACKS: &[Attack] = &[
    ("identity.user_namespace", user_namespace),
    ("identity.hostname", hostname),
    ("identity.seccomp_filter", seccomp_filter),
    ("identity.core_dumps", core_dumps),
];

/// Whether the users here are those of the host.
fn user_namespace(_: &Told) -> Answer {
    let Ok(map) = std::fs::read_to_string("/proc/self/uid_map") else {
        return Answer::unable("the map cannot be read");
    };
    let same = map.lines().any(|line| {
        let numbers: Vec<&str> = line.split_whitespace().collect();
        numbers.len() == 3 && numbers[0] == numbers[1] && numbers[1] == "0"
    });
    if same {
        Answer::fired("root inside is root of the host")
    } else {
        Answer::silent(0, "they are others")
    }
}

fn hostname(told: &Told) -> Answer {
    let host = told.text("hostname");
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    match (host.is_empty(), name.trim_end() == host) {
        (true, _) => Answer::unable("it was not told the host's name"),
        (_, true) => Answer::fired("the name is the host's"),
        _ => Answer::silent(0, "it is another name"),
    }
}

fn seccomp_filter(_: &Told) -> Answer {
    match crate::capabilities::status("Seccomp").as_deref() {
        Some("2") => Answer::silent(0, "there is a filter"),
        Some(_) => Answer::fired("no filter of system calls is in force"),
        None => Answer::unable("the status cannot be read"),
    }
}

/// Whether a crash here starts what the host has set for crashes.
fn core_dumps(_: &Told) -> Answer {
    let text = std::fs::read_to_string("/proc/self/limits").unwrap_or_default();
    let Some(line) = text
        .lines()
        .find(|line| line.starts_with("Max core file size"))
    else {
        return Answer::unable("the limits cannot be read");
    };
    match line.split_whitespace().nth(5) {
        Some("0") => Answer::silent(0, "no core file may be written, and the limit holds"),
        // With 1 a handler of the host is not started, and a file cannot be written.
        Some("1") => Answer::silent(0, "the limit is one byte"),
        other => Answer::fired(format!("the hard limit is {}", other.unwrap_or("not told"))),
    }
}
