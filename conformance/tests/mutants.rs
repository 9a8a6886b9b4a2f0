//! Every lie is found out: a suite that passes a liar has a hole.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::stream;
use stacyvm::provider::Provider;
use stacyvm::providers::mock::Mock;
use stacyvm::{Result, SandboxSpec};
use stacyvm_conformance::mutants::{Liar, Lie};
use stacyvm_conformance::{CASES, Case, Harness, Options, Outcome, Report, Subject, run};

/// Lies that no case looks for yet: their suites are still to be written.
const PENDING: &[(Lie, &str)] = &[
    (Lie::IgnoresOffset, "files"),
    (Lie::IgnoresModes, "files"),
    (Lie::IgnoresAppend, "files"),
    (Lie::IgnoresCreateNew, "files"),
    (Lie::FollowsLinks, "files"),
    (Lie::HidesFiles, "files"),
    (Lie::RenamesOver, "files"),
    (Lie::RemovesMissing, "files"),
    (Lie::RemovesDirectories, "files"),
    (Lie::IgnoresAttributes, "files"),
    (Lie::GlobsNothing, "files"),
    (Lie::WatchesNothing, "watch"),
    (Lie::CutsArchives, "tar"),
    (Lie::DialsNothing, "ports"),
];

/// Lies about what only a kernel has: `tests/embedded_mutants.rs` tells them there.
const OF_A_KERNEL: &[Lie] = &[
    Lie::MountsAllWritable,
    Lie::SharesVolumes,
    Lie::IgnoresMemory,
    Lie::IgnoresOpenFiles,
    Lie::IgnoresDisk,
    Lie::HidesLackOfMemory,
    Lie::GivesRights,
];

/// The quick ones first: a lie is dropped when the first suite has found it out.
const ORDER: &[&str] = &[
    "exec",
    "errors",
    "honesty",
    "lifecycle",
    "concurrency",
    "tty",
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

/// None: the one that tells the truth.
struct Lying(Option<Lie>);

#[async_trait::async_trait]
impl Harness for Lying {
    fn name(&self) -> &'static str {
        "a liar"
    }

    async fn open(&self) -> Result<Subject> {
        let mock: Arc<dyn Provider> = Arc::new(Mock::default());
        let provider = match self.0 {
            Some(lie) => Arc::new(Liar::new(mock, lie)),
            None => mock,
        };
        Subject::new(provider, SandboxSpec::image("scratch")).await
    }

    async fn reopen(&self, first: &Subject) -> Result<Subject> {
        let provider = Arc::clone(first.provider());
        match self.0 {
            // The one that is opened later is another one.
            Some(lie @ Lie::KnowsOnlyItsOwn) => {
                first.over(Arc::new(Liar::new(provider, lie))).await
            }
            _ => first.over(provider).await,
        }
    }
}

async fn reported(lie: Option<Lie>, suite: &str) -> Report {
    let harness: Arc<dyn Harness> = Arc::new(Lying(lie));
    let wanted = |case: &&Case| case.suite() == suite && !deviates(case.id);
    let cases: Vec<&Case> = CASES.iter().filter(wanted).collect();
    let options = Options {
        // One that hangs has been found out; the honest one may take its time.
        deadline: Duration::from_secs(if lie.is_some() { 15 } else { 60 }),
        jobs: 32,
    };
    run(&harness, &cases, &options).await
}

/// The cases of the first suite that finds the lie out.
async fn killers(lie: Lie) -> Vec<String> {
    for suite in ORDER {
        let report = reported(Some(lie), suite).await;
        let failed = report.cases.into_iter();
        let failed = failed.filter(|case| case.outcome == Outcome::Failed);
        let killers: Vec<String> = failed.map(|case| case.id).collect();
        if !killers.is_empty() {
            return killers;
        }
    }
    Vec::new()
}

/// What the mock itself fails (`tests/mock.rs`).
fn deviates(case: &str) -> bool {
    [
        "exec.bytes_that_are_no_text_arrive",
        "background.a_later_follower_gets_what_was_written",
        "background.an_ended_command_is_remembered",
    ]
    .contains(&case)
}

#[tokio::test(flavor = "multi_thread")]
async fn no_lie_survives() {
    let suites: BTreeSet<&str> = CASES.iter().map(Case::suite).collect();
    assert_eq!(
        suites,
        ORDER.iter().copied().collect(),
        "the suites in `ORDER`"
    );
    for suite in ORDER {
        // A case that fails in any event would find out every lie.
        let honest = reported(None, suite).await;
        assert_eq!(
            honest.count(Outcome::Failed),
            0,
            "{suite}: {:?}",
            honest.cases
        );
    }
    let is_pending = |lie: &&Lie| PENDING.iter().any(|(pending, _)| pending == *lie);
    let is_tried = |lie: &&Lie| !is_pending(lie) && !OF_A_KERNEL.contains(lie);
    let tried = Lie::ALL.iter().filter(is_tried);
    let all = stream::iter(tried).map(|lie| async move { (*lie, killers(*lie).await) });
    let found: Vec<(Lie, Vec<String>)> = all.buffered(4).collect().await;
    let mut survivors = Vec::new();
    for (lie, killers) in &found {
        println!("{lie:?} ({}): {}", lie.text(), killers.join(" "));
        if killers.is_empty() {
            survivors.push(*lie);
        }
    }
    for (lie, suite) in PENDING {
        println!(
            "test pending: {lie:?} ({}): the suite `{suite}` is still to be written",
            lie.text()
        );
    }
    assert_eq!(survivors, Vec::<Lie>::new(), "lies that no case found out");
}
