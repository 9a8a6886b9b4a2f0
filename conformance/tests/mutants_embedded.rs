//! Lies around the embedded provider, each over a suite that finds it out: what a
//! kernel does does not hide them.

#[cfg(all(target_os = "linux", feature = "oci"))]
mod linux {
    use std::path::{Path, PathBuf};
    use std::process::Command;
    use std::sync::Arc;

    use stacyvm::providers::oci::{Oci, OciConfig};
    use stacyvm::sandbox::spec::Lifetime;
    use stacyvm::{ErrorKind, Result, SandboxSpec};
    use stacyvm_conformance::mutants::{Hunt, Lie};
    use stacyvm_conformance::{CASES, Case, Harness, Level, Subject, as_host};
    use tempfile::TempDir;
    use tokio::sync::OnceCell;

    /// The state directory, in a host process of a case.
    const STATE: &str = "STACYVM_TEST_STATE";

    /// One state directory for all.
    struct Embedded {
        provider: OnceCell<Arc<Oci>>,
        state: PathBuf,
    }

    impl Embedded {
        fn at(state: &Path) -> Arc<dyn Harness> {
            Arc::new(Self {
                provider: OnceCell::new(),
                state: state.to_owned(),
            })
        }
    }

    /// Not a test of its own: a host process of a case.
    #[tokio::test(flavor = "multi_thread")]
    async fn host_entry() {
        if let Some(state) = std::env::var_os(STATE) {
            as_host(Embedded::at(state.as_ref())).await;
        }
    }

    #[async_trait::async_trait]
    impl Harness for Embedded {
        fn name(&self) -> &'static str {
            "embedded"
        }

        async fn open(&self) -> Result<Subject> {
            let open = async || {
                let config = OciConfig::new(&self.state);
                Oci::open(config).await.map(Arc::new)
            };
            let provider = Arc::clone(self.provider.get_or_try_init(open).await?);
            Subject::new(provider, SandboxSpec::host().lifetime(Lifetime::Attached)).await
        }

        fn host(&self) -> Result<Command> {
            let program = std::env::current_exe().expect("this program");
            let mut command = Command::new(program);
            command.args(["linux::host_entry", "--exact", "--nocapture"]);
            command.env(STATE, &self.state);
            Ok(command)
        }
    }

    /// Lies by the suite that they are tried on.
    const TRIED: &[(&str, &[Lie])] = &[
        (
            "exec",
            &[
                Lie::LosesLastByte,
                Lie::SwapsStreams,
                Lie::BreaksBytes,
                Lie::RepeatsOutput,
                Lie::EndsTwice,
                Lie::HidesCodes,
                Lie::HidesSignals,
                Lie::IgnoresEnv,
                Lie::IgnoresUser,
                Lie::IgnoresWorkdir,
                Lie::IgnoresArguments,
                Lie::NotFoundIsAnExit,
                Lie::LosesStdin,
            ],
        ),
        (
            "lifecycle",
            &[
                Lie::ForgetsSandboxes,
                Lie::SeesTheDead,
                Lie::DestroysNothing,
                Lie::SharesSandboxes,
            ],
        ),
        ("kill", &[Lie::LeavesTreeOnDrop, Lie::IgnoresTimeout]),
        (
            "files",
            &[
                Lie::IgnoresOffset,
                Lie::IgnoresModes,
                Lie::FollowsLinks,
                Lie::HidesFiles,
                Lie::EmptiesFirst,
                Lie::IgnoresFileUser,
                Lie::IgnoresAttributes,
                Lie::RenamesOver,
                Lie::RemovesMissing,
                Lie::UnsortsLists,
                Lie::HidesCauses,
                Lie::ClaimsNoFiles,
            ],
        ),
        (
            "tar",
            &[
                Lie::CutsArchives,
                Lie::FollowsExports,
                Lie::ClaimsNoArchives,
            ],
        ),
        (
            "ports",
            &[
                Lie::DialsNothing,
                Lie::EndsBothWays,
                Lie::GivesEndpoints,
                Lie::ClaimsNoDials,
            ],
        ),
        (
            "honesty",
            &[
                Lie::ForgetsSecrets,
                Lie::TellsSecrets,
                Lie::MakesTwo,
                Lie::DuplicatesOnRetry,
                Lie::TellsOneOrigin,
                Lie::TellsOtherTenants,
                Lie::RenewsWithUse,
                Lie::ClaimsOneSignal,
                Lie::ClaimsNoEnds,
                Lie::GivesAllAway,
            ],
        ),
        (
            "reattach",
            &[
                Lie::OutlivesItsOwner,
                Lie::EndsWithItsHost,
                Lie::ChangesNoLifetime,
            ],
        ),
    ];

    #[tokio::test(flavor = "multi_thread")]
    async fn no_lie_survives_on_a_kernel() {
        let state = TempDir::with_prefix("stacyvm-conformance-").expect("a temporary directory");
        let embedded = Embedded::at(state.path());
        if let Err(error) = embedded.open().await {
            assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
            println!("not run: {error}");
            return;
        }
        let must = |case: &&Case| case.level == Level::Must;
        let cases: Vec<Case> = CASES.iter().filter(must).copied().collect();
        let mut survivors = Vec::new();
        for (suite, lies) in TRIED {
            let hunt = Hunt::new(Arc::clone(&embedded), &cases, &[suite]).at_once(4, 8);
            let failed = hunt.failed_honestly().await;
            assert_eq!(failed, [], "cases that fail without a lie");
            let seen = hunt.first(lies).await;
            println!("{suite}: {seen}");
            survivors.extend(seen.survivors());
        }
        assert_eq!(survivors, [], "lies that no case found out");
        let tried: usize = TRIED.iter().map(|(_, lies)| lies.len()).sum();
        assert!(
            3 * tried >= Lie::ALL.len(),
            "{tried} of {} lies were tried, expected a third",
            Lie::ALL.len()
        );
    }
}
