//! The helper makes sandboxes, and leaves nothing of them behind.
#![allow(clippy::unwrap_used, missing_docs, reason = "tests")]

mod helper_support;

use helper_support::*;
use stacyvm_agent::helper_protocol::*;

#[test]
fn a_sandbox_starts_and_leaves_nothing() {
    let host = Host::new();
    let mut sandbox = host.launch(|_, _| {});
    let out = sandbox.sh("id -u; hostname; cat /etc/passwd | wc -l; pwd; ls /; cat /proc/self/mountinfo; grep -E 'Cap|Secc|NoNew' /proc/self/status");
    println!("{out}");
    assert!(out.starts_with("0\nprobe\n3\n/\n"), "{out}");
    assert!(!cgroups(&sandbox.id).is_empty());
    let (id, pid, path) = (sandbox.id.clone(), sandbox.report.pid, host.path.clone());
    assert_eq!(
        sandbox.destroy(),
        Ended {
            cause: EndCause::Destroyed,
            left: Vec::new()
        }
    );
    assert!(!exists(pid));
    assert_eq!(host.names(), Vec::<String>::new());
    assert_eq!(cgroups(&id), Vec::<std::path::PathBuf>::new());
    assert_eq!(traces(&path), Vec::<String>::new());
}
