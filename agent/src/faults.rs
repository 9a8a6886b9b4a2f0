//! Named points at which a test ends or stops a process of stacyvm.
//!
//! Only the feature `faults` has them, which is for this project's own tests: a
//! build without it has neither the points nor their names. One point of a
//! process is armed, by [`arm`] or by the variable [`VARIABLE`], as
//! `NAME[*HIT][=stop]`: at the hit of that number (the first) the process is
//! killed, or stopped until somebody lets it go on.

use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use rustix::process::{Signal, getpid, kill_process};

/// What arms a point of the helper or the agent: a host hands it on to both.
pub const VARIABLE: &str = "STACYVM_FAULT";

/// The title of a first process that waits to be killed: within its own
/// namespace nobody can.
pub const HELD: &str = "stacyvm-held";

/// The points of the helper.
pub const HELPER: &[&str] = &[
    "helper.begun",
    "helper.park.directory",
    "helper.park.lock",
    "helper.park.socket",
    "helper.park.ledger",
    "helper.park.cgroups",
    "helper.park.child",
    "helper.park.ids",
    "helper.park.data",
    "helper.parked",
    "helper.launch.heard",
    "helper.launch.child-told",
    "helper.launch.ledger",
    "helper.launch.directory-named",
    "helper.launch.named",
    "helper.launch.listening",
    "helper.launch.agent-told",
    "helper.ready",
    "helper.detached",
    "helper.claimed",
    "helper.asked",
    "helper.connection",
    "helper.end",
    "helper.end.killed",
    "helper.end.cgroups",
    "helper.end.directory",
];

/// The points of a helper that copies a layer.
pub const LAYER: &[&str] = &["helper.layer.file", "helper.layer.copied"];

/// The points of the first process inside: before and after it is the agent.
pub const AGENT: &[&str] = &[
    "agent.child.ids",
    "agent.child.mounts",
    "agent.child.parked",
    "agent.child.launch",
    "agent.child.rights",
    "agent.begun",
    "agent.configured",
    "agent.ready",
    "agent.connection",
    "agent.exec.asked",
    "agent.exec.forked",
    "agent.exec.ended",
    "agent.claimed",
    "agent.input",
    "agent.file.asked",
    "agent.connection-lost",
];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Act {
    Kill,
    Stop,
}

#[derive(Debug)]
struct Fault {
    name: String,
    /// How often the point is still passed until it is this one; 0 when over.
    hit: u32,
    act: Act,
}

fn armed() -> MutexGuard<'static, Option<Fault>> {
    static ARMED: OnceLock<Mutex<Option<Fault>>> = OnceLock::new();
    let armed = ARMED.get_or_init(|| Mutex::new(selected().as_deref().and_then(parse)));
    armed.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The value of [`VARIABLE`] that this process was started with.
pub fn selected() -> Option<String> {
    std::env::var_os(VARIABLE)?.into_string().ok()
}

fn parse(text: &str) -> Option<Fault> {
    let (point, act) = match text.split_once('=') {
        None => (text, Act::Kill),
        Some((point, "stop")) => (point, Act::Stop),
        Some(_) => return None,
    };
    let (name, hit) = match point.split_once('*') {
        None => (point, 1),
        Some((name, hit)) => (name, hit.parse().ok()?),
    };
    Some(Fault {
        name: name.to_owned(),
        hit,
        act,
    })
}

/// Arms a point of this process; hits count from here on.
///
/// # Panics
///
/// On a text that is none of the form above.
pub fn arm(text: &str) {
    let fault = parse(text);
    assert!(fault.is_some(), "`{text}` is no NAME[*HIT][=stop]");
    *armed() = fault;
}

/// Says that this process is at a point.
#[expect(
    clippy::disallowed_methods,
    reason = "what comes next is a signal from outside"
)]
pub fn reach(name: &str) {
    let act = {
        let mut armed = armed();
        let Some(fault) = armed.as_mut().filter(|f| f.name == name && f.hit > 0) else {
            return;
        };
        fault.hit -= 1;
        if fault.hit > 0 {
            return;
        }
        fault.act
    };
    let hour = Duration::from_hours(1);
    if getpid().as_raw_nonzero().get() == 1 {
        let _ = rustix::thread::set_name(c"stacyvm-held");
        std::thread::sleep(hour);
    }
    match act {
        Act::Kill => {
            let _ = kill_process(getpid(), Signal::KILL);
            std::thread::sleep(hour);
        }
        Act::Stop => {
            let _ = kill_process(getpid(), Signal::STOP);
            // Another thread may have been the one that took the signal.
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fault_is_a_name_a_hit_and_an_act() {
        let read = |text| parse(text).map(|f| (f.name, f.hit, f.act));
        assert_eq!(read("a.b"), Some(("a.b".into(), 1, Act::Kill)));
        assert_eq!(read("a.b*3"), Some(("a.b".into(), 3, Act::Kill)));
        assert_eq!(read("a.b*2=stop"), Some(("a.b".into(), 2, Act::Stop)));
        assert_eq!(read("a.b=go"), None);
        assert_eq!(read("a.b*x"), None);
    }
}
