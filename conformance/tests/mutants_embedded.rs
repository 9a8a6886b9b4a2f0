//! Lies around the embedded provider, each over a suite that finds it out: what a
//! kernel does does not hide them.

#[cfg(all(target_os = "linux", feature = "oci"))]
#[path = "embedded/harness.rs"]
mod harness;

#[cfg(all(target_os = "linux", feature = "oci"))]
mod linux {
    use std::sync::Arc;

    use stacyvm::ErrorKind;
    use stacyvm_conformance::mutants::{Hunt, Lie};
    use stacyvm_conformance::{CASES, Case, Harness, Level};

    use super::harness::Embedded;

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
        ("background", &[Lie::ForgetsReplay, Lie::ForgetsCommands]),
        (
            "files",
            &[
                Lie::IgnoresOffset,
                Lie::IgnoresModes,
                Lie::FollowsLinks,
                Lie::HidesFiles,
            ],
        ),
        ("tar", &[Lie::CutsArchives]),
        ("ports", &[Lie::DialsNothing]),
    ];

    #[tokio::test(flavor = "multi_thread")]
    async fn no_lie_survives_on_a_kernel() {
        let embedded: Arc<dyn Harness> = Arc::new(Embedded::default());
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
