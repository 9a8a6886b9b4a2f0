//! Lies about what a kernel holds are found out, each by the case that looks for it.

#![cfg(all(target_os = "linux", feature = "oci"))]

use std::sync::Arc;

use futures_util::{StreamExt as _, stream};
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
    (Lie::ClaimsFullNetworks, "network.full_has_a_route"),
    (
        Lie::ListsAllCommands,
        "isolation.no_command_of_another_is_listed",
    ),
    (
        Lie::SharesSandboxes,
        "isolation.no_process_of_another_is_seen_inside",
    ),
    (Lie::SharesSandboxes, "isolation.no_signal_reaches_another"),
    (Lie::SharesSandboxes, "isolation.no_directory_is_another_s"),
    (
        Lie::SharesSandboxes,
        "isolation.one_port_in_two_is_two_ports",
    ),
    (
        Lie::SharesSandboxes,
        "isolation.no_port_of_another_is_reached",
    ),
    (
        Lie::SharesSandboxes,
        "isolation.no_abstract_socket_of_another_is_reached",
    ),
    (
        Lie::SharesSandboxes,
        "isolation.no_shared_memory_of_another_is_seen",
    ),
    (Lie::SharesSandboxes, "isolation.each_has_a_name_of_its_own"),
    (
        Lie::HangsWhenAttacked,
        "hostile.signals_to_process_1_end_nothing_in_silence",
    ),
    (
        Lie::BreaksWhenAttacked,
        "hostile.signals_to_all_end_nothing_in_silence",
    ),
    (
        Lie::HangsWhenAttacked,
        "hostile.stopping_all_holds_up_no_end",
    ),
    (
        Lie::LeaksDescriptors,
        "hostile.a_command_has_no_descriptors_but_its_own",
    ),
    (
        Lie::EndsWithOutput,
        "hostile.a_command_may_close_all_descriptors",
    ),
    (
        Lie::BreaksWhenAttacked,
        "hostile.garbage_on_all_that_is_open_ends_nothing_in_silence",
    ),
    (
        Lie::FailsNeighbours,
        "hostile.garbage_on_every_socket_ends_nothing_in_silence",
    ),
    (
        Lie::SharesDescriptors,
        "hostile.descriptors_of_one_process_are_not_another_s",
    ),
    (Lie::TrustsTitles, "hostile.titles_of_processes_are_data"),
    (
        Lie::SignalsFirstProcess,
        "hostile.hidden_programs_hide_nothing_from_a_kill",
    ),
];

/// Some wait for what hangs; others measure, and are not to be crowded.
const AT_ONCE: usize = 3;

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

/// Suites of which every case is seen to fail: here, or where [`ELSEWHERE`] says.
const WHOLE: &[&str] = &["network", "isolation", "hostile"];

/// Cases of those suites that no lie around a provider reaches here, and why.
const ELSEWHERE: &[(&str, &str)] = &[
    ("network.none_", "no wrapper gives a sandbox a network"),
    ("network.an_allow_list_", "`tests/mutants.rs`"),
];

#[test]
fn of_some_suites_every_case_is_seen_to_fail() {
    let named = |id: &str| {
        LIES.iter().any(|(_, case)| *case == id)
            || ELSEWHERE.iter().any(|(prefix, _)| id.starts_with(prefix))
    };
    let of_those = CASES.iter().filter(|case| WHOLE.contains(&case.suite()));
    let missing: Vec<&str> = of_those
        .map(|case| case.id)
        .filter(|id| !named(id))
        .collect();
    assert_eq!(missing, Vec::<&str>::new(), "cases without a lie");
}

#[expect(clippy::print_stdout, reason = "a test says what it saw")]
async fn survives(lie: Lie, id: &str) -> bool {
    let case = CASES.iter().find(|case| case.id == id);
    let case = case.unwrap_or_else(|| panic!("there is no case {id}"));
    let (honest, evidence) = outcome(None, case).await;
    assert_ne!(honest, Outcome::Failed, "{id}: {evidence}");
    let (lying, told) = outcome(Some(lie), case).await;
    if honest != Outcome::Passed && lying != Outcome::Failed {
        println!("not run: {lie:?}: {id}: {evidence}");
        return false;
    }
    println!("{lie:?} ({}): {id}: {told}", lie.text());
    lying != Outcome::Failed
}

#[tokio::test(flavor = "multi_thread")]
async fn no_lie_about_what_a_kernel_holds_survives() {
    let all = stream::iter(LIES).map(|(lie, id)| async move {
        let survives = survives(*lie, id).await;
        survives.then_some((*lie, *id))
    });
    let survivors: Vec<_> = all
        .buffered(AT_ONCE)
        .filter_map(std::future::ready)
        .collect()
        .await;
    assert_eq!(survivors, [], "lies that no case found out");
}
