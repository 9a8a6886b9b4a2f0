//! What a stranger found once, and must not find again.
#![cfg(all(target_os = "linux", feature = "oci"))]

mod common;

use common::soon;
use stacyvm::sandbox::spec::Lifetime;
use stacyvm::{ErrorKind, SandboxSpec};

#[tokio::test]
async fn root_inside_cannot_touch_the_limits_of_the_agent() {
    let Some(host) = common::embedded().await else {
        return;
    };
    let sandbox = host.sandbox().await;
    let line = "prlimit --pid 1 --nofile=5:5; echo $?; prlimit --pid $$ --nofile; prlimit --nofile=64:64 true && echo own";
    let output = soon(sandbox.shell(line).user("root").output())
        .await
        .unwrap();
    let text = output.stdout_text();
    assert!(!text.starts_with("0\n"), "{text}");
    assert!(text.ends_with("own\n"), "{text}");
    let after = soon(sandbox.exec(["true"]).output()).await.unwrap();
    assert!(after.status.success());
}

#[tokio::test]
async fn a_limit_of_open_files_is_in_force_or_refused() {
    let Some(host) = common::embedded().await else {
        return;
    };
    let spec = SandboxSpec::host()
        .open_files(100_000)
        .lifetime(Lifetime::Attached);
    match host.engine.create(spec).await {
        Ok(sandbox) => {
            let limits = soon(sandbox.shell("ulimit -n; ulimit -Hn").output()).await;
            assert_eq!(limits.unwrap().stdout_text(), "100000\n100000\n");
        }
        // This host cannot: then it says so, and makes nothing.
        Err(error) => {
            assert_eq!(error.kind(), ErrorKind::Unsupported);
            assert_eq!(error.fact("field"), Some("open_files"));
        }
    }
}

#[tokio::test]
async fn the_limit_of_open_files_that_is_shown_is_the_one_that_holds() {
    let Some(host) = common::embedded().await else {
        return;
    };
    let asked = SandboxSpec::host().open_files(512);
    for spec in [SandboxSpec::host(), asked] {
        let sandbox = host
            .engine
            .create(spec.lifetime(Lifetime::Attached))
            .await
            .unwrap();
        let inside = soon(sandbox.shell("ulimit -Hn").output()).await.unwrap();
        let held: u64 = inside.stdout_text().trim().parse().unwrap();
        let info = sandbox.info().await.unwrap();
        assert_eq!(info.resources.open_files, Some(held));
        assert_eq!(info.effective["open_files_limit"].value, held.to_string());
        sandbox.kill().await.unwrap();
        // What is known of it afterwards is the same.
        let info = sandbox.info().await.unwrap();
        assert_eq!(info.resources.open_files, Some(held));
    }
}

#[tokio::test]
async fn a_root_directory_is_under_the_same_policy_as_a_mount() {
    let Some(host) = common::embedded().await else {
        return;
    };
    for image in ["/", "/proc", host.state.path().to_str().unwrap()] {
        let made = host.engine.create(SandboxSpec::image(image)).await;
        assert_eq!(
            made.unwrap_err().kind(),
            ErrorKind::PermissionDenied,
            "{image}"
        );
    }
}

#[tokio::test]
async fn options_that_the_provider_does_not_know_are_refused() {
    let Some(host) = common::embedded().await else {
        return;
    };
    let mut spec = SandboxSpec::host();
    spec.provider_options
        .insert("oci".into(), serde_json::json!({ "turbo": true }));
    let error = host.engine.create(spec).await.unwrap_err();
    assert_eq!(error.fact("field"), Some("provider_options.oci"));
}
