//! Every lie is found out: a suite that passes a liar has a hole.

use std::collections::BTreeSet;
use std::sync::Arc;

use stacyvm::providers::mock::Mock;
use stacyvm::{Result, SandboxSpec};
use stacyvm_conformance::mutants::{Hunt, Lie};
use stacyvm_conformance::{CASES, Case, Harness, Subject};

/// Lies about what only a kernel or another process has: `tests/mutants_kernel.rs` and
/// `tests/mutants_embedded.rs` tell them there.
const OF_A_KERNEL: &[Lie] = &[
    Lie::MountsAllWritable,
    Lie::SharesVolumes,
    Lie::IgnoresMemory,
    Lie::IgnoresOpenFiles,
    Lie::IgnoresDisk,
    Lie::HidesLackOfMemory,
    Lie::GivesRights,
    Lie::LeaksDescriptors,
    Lie::SharesDescriptors,
    Lie::EndsWithOutput,
    Lie::ClaimsFullNetworks,
    Lie::TrustsTitles,
    Lie::OutlivesItsOwner,
    Lie::EndsWithItsHost,
    Lie::ChangesNoLifetime,
];

/// The quick ones first: a lie is dropped when the first suite has found it out.
const ORDER: &[&str] = &[
    "exec",
    "errors",
    "honesty",
    "lifecycle",
    "concurrency",
    "tty",
    "files",
    "tar",
    "watch",
    "ports",
    "kill",
    "background",
    "labels",
    "snapshots",
    "mounts",
    "network",
    "reattach",
    "isolation",
    "usage",
    "hostile",
    "limits",
    "streaming",
    #[cfg(all(target_os = "linux", feature = "certify"))]
    "probes",
];

/// Cases that pin a promise or find out what no other finds out.
const NEEDED: usize = 160;

struct InMemory;

#[async_trait::async_trait]
impl Harness for InMemory {
    fn name(&self) -> &'static str {
        "mock"
    }

    async fn open(&self) -> Result<Subject> {
        Subject::new(Arc::new(Mock::default()), SandboxSpec::image("scratch")).await
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn no_lie_survives() {
    let suites: BTreeSet<&str> = CASES.iter().map(Case::suite).collect();
    let ordered: BTreeSet<&str> = ORDER.iter().copied().collect();
    assert_eq!(suites, ordered, "the suites in `ORDER`");
    // Most of the time is spent on those that hang.
    let hunt = Hunt::new(Arc::new(InMemory), &CASES, ORDER).at_once(24, 32);
    let failed = hunt.failed_honestly().await;
    assert_eq!(failed, [], "cases that fail without a lie");
    let lies = Lie::ALL.iter().filter(|lie| !OF_A_KERNEL.contains(lie));
    let seen = hunt.whole(&lies.copied().collect::<Vec<_>>()).await;
    println!("{seen}");
    assert_eq!(seen.survivors(), [], "lies that no case found out");
    let redundant = seen.redundant.map_or(0, |cases| cases.len());
    let needed = CASES.len() - redundant;
    assert!(needed >= NEEDED, "{needed} cases are needed");
}
