//! Lies around the embedded provider, each over a suite that finds it out: what a
//! kernel does does not hide them.

#[cfg(all(target_os = "linux", feature = "oci"))]
mod linux {
    use std::sync::Arc;

    use stacyvm::providers::oci::{Oci, OciConfig};
    use stacyvm::sandbox::spec::Lifetime;
    use stacyvm::{ErrorKind, Result, SandboxSpec};
    use stacyvm_conformance::mutants::{Hunt, Lie};
    use stacyvm_conformance::{CASES, Case, Harness, Level, Subject};
    use tempfile::TempDir;
    use tokio::sync::OnceCell;

    /// One state directory for all.
    struct Embedded {
        provider: OnceCell<Arc<Oci>>,
        /// Dropped last.
        state: TempDir,
    }

    #[async_trait::async_trait]
    impl Harness for Embedded {
        fn name(&self) -> &'static str {
            "embedded"
        }

        async fn open(&self) -> Result<Subject> {
            let open = async || {
                let config = OciConfig::new(self.state.path());
                Oci::open(config).await.map(Arc::new)
            };
            let provider = Arc::clone(self.provider.get_or_try_init(open).await?);
            Subject::new(provider, SandboxSpec::host().lifetime(Lifetime::Attached)).await
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
    ];

    #[tokio::test(flavor = "multi_thread")]
    async fn no_lie_survives_on_a_kernel() {
        let embedded: Arc<dyn Harness> = Arc::new(Embedded {
            provider: OnceCell::new(),
            state: TempDir::with_prefix("stacyvm-conformance-").expect("a temporary directory"),
        });
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
