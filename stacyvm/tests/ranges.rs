//! The users of a sandbox are those of no other sandbox of the machine.
#![cfg(all(target_os = "linux", feature = "oci"))]
#![allow(clippy::unwrap_used, reason = "tests")]

mod common;

use std::collections::BTreeSet;
use std::fs::File;
use std::path::PathBuf;

use common::{embedded, eventually, open, soon};
use stacyvm::sandbox::spec::Lifetime;
use stacyvm::{Sandbox, SandboxSpec};

/// The first of the users that a sandbox has on the host, as the kernel has it.
async fn first_user(sandbox: &Sandbox) -> u32 {
    let pid = sandbox.info().await.unwrap().host_pid.unwrap();
    let map = std::fs::read_to_string(format!("/proc/{pid}/uid_map")).unwrap();
    let words: Vec<u32> = map.split_whitespace().map(|w| w.parse().unwrap()).collect();
    assert!(words[0] == 0 && words[2] == 65_536, "{map}");
    words[1]
}

/// The file whose lock gives that range.
fn file_of(first: u32) -> PathBuf {
    format!("/run/stacyvm/range-{:04x}", (first - 0x7000_0000) / 65_536).into()
}

/// What the file says, if nobody has its lock; nothing where it has gone.
fn note_if_free(first: u32) -> Option<String> {
    let path = file_of(first);
    let file = match File::open(&path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Some(String::new()),
        opened => opened.unwrap(),
    };
    let free = file.try_lock().is_ok();
    free.then(|| std::fs::read_to_string(path).unwrap())
}

#[tokio::test]
async fn living_sandboxes_of_two_state_directories_never_share_users() {
    let (Some(one), Some(two)) = (embedded().await, embedded().await) else {
        return;
    };
    let create = |index: usize| {
        let engine = if index.is_multiple_of(2) { &one } else { &two }
            .engine
            .clone();
        let lifetime = if index.is_multiple_of(3) {
            Lifetime::Detached
        } else {
            Lifetime::Attached
        };
        tokio::spawn(
            engine
                .create(SandboxSpec::host().lifetime(lifetime))
                .into_future(),
        )
    };
    let mut sandboxes = Vec::new();
    for _ in 0..3 {
        let made: Vec<_> = (0..6).map(create).collect();
        for made in made {
            sandboxes.push(soon(made).await.unwrap().unwrap());
        }
    }
    let mut firsts = BTreeSet::new();
    for sandbox in &sandboxes {
        let first = first_user(sandbox).await;
        assert!(firsts.insert(first), "{first:#x} is shared");
        assert_eq!(note_if_free(first), None, "{first:#x} is not held");
    }
    for sandbox in sandboxes {
        sandbox.kill().await.unwrap();
    }
}

#[tokio::test]
async fn a_range_is_held_as_long_as_its_sandbox_and_not_longer() {
    let Some(host) = embedded().await else { return };
    let spec = SandboxSpec::host().lifetime(Lifetime::Detached);
    let sandbox = host.engine.create(spec).await.unwrap();
    let (id, first) = (sandbox.id().clone(), first_user(&sandbox).await);
    let common::Host { engine, state } = host;
    drop((sandbox, engine));
    let engine = open(state.path().to_path_buf()).await;
    let sandbox = engine.get(&id).await.unwrap();
    assert_eq!(note_if_free(first), None);
    assert_eq!(first_user(&sandbox).await, first);
    sandbox.kill().await.unwrap();
    // The helper answers before it ends; its end frees the lock.
    eventually("the range is free", async || note_if_free(first).is_some()).await;
    assert_eq!(note_if_free(first).as_deref(), Some(""));
}
