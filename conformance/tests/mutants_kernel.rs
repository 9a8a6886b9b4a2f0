//! Lies about what a kernel holds are found out, each by the case that looks for it.

#![cfg(all(target_os = "linux", feature = "oci"))]

use std::sync::Arc;

use stacyvm::provider::Provider;
use stacyvm::providers::oci::{Oci, OciConfig};
use stacyvm::sandbox::spec::Lifetime;
use stacyvm::{Result, SandboxSpec};
use stacyvm_conformance::mutants::{Liar, Lie};
use stacyvm_conformance::{CASES, Case, Harness, Options, Outcome, Subject, run};
use tempfile::TempDir;

/// Each lie, and the case that finds it out.
const LIES: &[(Lie, &str)] = &[
    (
        Lie::MountsAllWritable,
        "mounts.a_host_directory_is_not_written_unless_said",
    ),
    (Lie::SharesVolumes, "mounts.a_volume_outlives_its_sandbox"),
    (
        Lie::IgnoresMemory,
        "limits.memory_of_one_is_not_taken_from_another",
    ),
    (Lie::IgnoresCpus, "limits.a_share_of_processors_is_held"),
    (
        Lie::IgnoresOpenFiles,
        "limits.open_files_beyond_the_limit_are_refused",
    ),
    (
        Lie::IgnoresDisk,
        "limits.a_full_disk_is_told_and_has_room_again",
    ),
    (Lie::HidesLackOfMemory, "limits.lack_of_memory_is_counted"),
    (
        Lie::ListsAllProcesses,
        "isolation.no_process_of_another_is_listed",
    ),
    (Lie::FreezesUsage, "usage.memory_rises_and_falls"),
    (
        Lie::KnowsOnlyItsOwn,
        "reattach.another_engine_finds_it_and_runs_in_it",
    ),
    #[cfg(feature = "certify")]
    (Lie::GivesRights, "probes.capabilities.bounding"),
];

/// None: the one that tells the truth.
struct Lying {
    lie: Option<Lie>,
    state: TempDir,
}

impl Lying {
    async fn provider(&self) -> Result<Arc<dyn Provider>> {
        let oci: Arc<dyn Provider> = Arc::new(Oci::open(OciConfig::new(self.state.path())).await?);
        Ok(match self.lie {
            Some(lie) => Arc::new(Liar::new(oci, lie)),
            None => oci,
        })
    }
}

#[async_trait::async_trait]
impl Harness for Lying {
    fn name(&self) -> &'static str {
        "an embedded liar"
    }

    async fn open(&self) -> Result<Subject> {
        let spec = SandboxSpec::host().lifetime(Lifetime::Attached);
        Subject::new(self.provider().await?, spec).await
    }

    async fn reopen(&self, first: &Subject) -> Result<Subject> {
        first.over(self.provider().await?).await
    }
}

async fn outcome(lie: Option<Lie>, case: &Case) -> (Outcome, String) {
    let state = TempDir::with_prefix("stacyvm-conformance-").expect("a temporary directory");
    let harness: Arc<dyn Harness> = Arc::new(Lying { lie, state });
    let report = run(&harness, &[case], &Options::default()).await;
    (report.cases[0].outcome, report.cases[0].evidence.clone())
}

#[tokio::test(flavor = "multi_thread")]
async fn no_lie_about_what_a_kernel_holds_survives() {
    let mut survivors = Vec::new();
    for (lie, id) in LIES {
        let case = CASES.iter().find(|case| case.id == *id);
        let case = case.unwrap_or_else(|| panic!("there is no case {id}"));
        let (honest, evidence) = outcome(None, case).await;
        assert_ne!(honest, Outcome::Failed, "{id}: {evidence}");
        if honest != Outcome::Passed {
            println!("not run: {lie:?}: {id}: {evidence}");
            continue;
        }
        let (lying, evidence) = outcome(Some(*lie), case).await;
        println!("{lie:?} ({}): {id}: {evidence}", lie.text());
        if lying != Outcome::Failed {
            survivors.push(*lie);
        }
    }
    assert_eq!(survivors, Vec::<Lie>::new(), "lies that no case found out");
}
