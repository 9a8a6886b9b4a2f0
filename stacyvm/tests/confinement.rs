//! What a stranger found once, and must not find again.
#![cfg(all(target_os = "linux", feature = "oci"))]
#![allow(
    clippy::unwrap_used,
    clippy::print_stderr,
    reason = "a test that panics has failed, and one that cannot run says why"
)]

mod common;

use std::future::IntoFuture as _;

use common::soon;
use stacyvm::config::Config;
use stacyvm::engine::Engine;
use stacyvm::sandbox::spec::{Lifetime, MountSource};
use stacyvm::{ErrorKind, SandboxSpec};

#[tokio::test]
async fn root_inside_cannot_touch_the_limits_of_the_agent() {
    let Some(host) = common::embedded().await else {
        return;
    };
    if !host.has_users().await {
        return;
    }
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

/// A directory of the host, mounted once more for as long as this lives.
struct Alias(tempfile::TempDir);

impl Alias {
    fn of(path: &std::path::Path) -> Self {
        let place = tempfile::tempdir().unwrap();
        rustix::mount::mount_bind(path, place.path()).unwrap();
        Self(place)
    }
}

impl Drop for Alias {
    fn drop(&mut self) {
        let flags = rustix::mount::UnmountFlags::DETACH;
        rustix::mount::unmount(self.0.path(), flags).unwrap();
    }
}

#[tokio::test]
async fn another_name_of_a_refused_directory_is_refused_too() {
    if !common::is_root() {
        return;
    }
    let Some(host) = common::embedded().await else {
        return;
    };
    let state = host.state.path();
    for path in ["/".as_ref(), state, state.parent().unwrap()] {
        let alias = Alias::of(path);
        let name = alias.0.path().to_str().unwrap();
        let made = host.engine.create(SandboxSpec::image(name)).await;
        assert_eq!(
            made.unwrap_err().kind(),
            ErrorKind::PermissionDenied,
            "{path:?}"
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

#[tokio::test]
async fn a_paused_sandbox_refuses_what_it_cannot_answer() {
    let Some(host) = common::embedded().await else {
        return;
    };
    let sandbox = host.sandbox().await;
    soon(sandbox.exec(["true"]).output()).await.unwrap();
    if let Err(error) = sandbox.pause().await {
        assert_eq!(error.kind(), ErrorKind::Unsupported);
        eprintln!("not run: no freezer here");
        return;
    }
    let paused = |error: stacyvm::Error| {
        assert_eq!(error.kind(), ErrorKind::Conflict, "{error}");
        assert!(error.to_string().contains("resume"), "{error}");
    };
    paused(soon(sandbox.exec(["true"]).output()).await.unwrap_err());
    paused(soon(sandbox.files().read("/etc/passwd")).await.unwrap_err());
    paused(soon(sandbox.processes()).await.unwrap_err());
    // From another process, which has no connection yet.
    let other = common::open(host.state.path().to_path_buf()).await;
    let again = other.get(sandbox.id().as_str()).await.unwrap();
    paused(soon(again.exec(["true"]).output()).await.unwrap_err());
    soon(again.resume()).await.unwrap();
    for sandbox in [&sandbox, &again] {
        let line = sandbox.shell("pgrep -c true; echo on");
        let seen = soon(line.output()).await.unwrap();
        assert_eq!(seen.stdout_text(), "0\non\n", "what was refused runs");
    }
}

#[tokio::test]
async fn what_the_caller_asked_for_is_not_lowered() {
    let Some(host) = common::embedded().await else {
        return;
    };
    let preferred = host.sandbox().await;
    let held = preferred
        .info()
        .await
        .unwrap()
        .resources
        .open_files
        .unwrap();
    let spec = SandboxSpec::host().open_files(65_536);
    match host.engine.create(spec.lifetime(Lifetime::Attached)).await {
        Ok(sandbox) => {
            let inside = soon(sandbox.shell("ulimit -Hn").output()).await.unwrap();
            assert_eq!(inside.stdout_text(), "65536\n");
        }
        // As many as the profile asks for; it got fewer.
        Err(error) => {
            assert_eq!(error.fact("field"), Some("open_files"));
            assert!(held < 65_536, "{held}");
        }
    }
}

#[tokio::test]
async fn what_a_helper_cannot_be_told_is_refused_at_once() {
    let Some(host) = common::embedded().await else {
        return;
    };
    let value = "x".repeat(100_000);
    let large = SandboxSpec::host().env("A", &value).env("B", &value);
    let mut many = SandboxSpec::host();
    for number in 0..130 {
        many.mounts.push(stacyvm::sandbox::spec::Mount {
            target: format!("/m{number}"),
            source: MountSource::Host("/usr".into()),
            writable: false,
            size_mib: None,
        });
    }
    for (spec, field) in [(large, "spec"), (many, "mounts")] {
        let made = soon(
            host.engine
                .create(spec.lifetime(Lifetime::Attached))
                .into_future(),
        );
        let error = made.await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidArgument, "{error}");
        assert_eq!(error.fact("field"), Some(field), "{error}");
    }
}

#[tokio::test]
async fn a_sandbox_that_ended_says_so_whatever_is_asked() {
    let Some(host) = common::embedded().await else {
        return;
    };
    let sandbox = host.sandbox().await;
    soon(sandbox.exec(["true"]).output()).await.unwrap();
    let other = common::open(host.state.path().to_path_buf()).await;
    let again = other.get(sandbox.id().as_str()).await.unwrap();
    soon(sandbox.kill()).await.unwrap();
    for sandbox in [&sandbox, &again] {
        let answers = [
            soon(sandbox.exec(["true"]).output()).await.map(drop),
            soon(sandbox.execs()).await.map(drop),
            soon(sandbox.files().read("/etc/passwd")).await.map(drop),
            soon(sandbox.processes()).await.map(drop),
            soon(sandbox.usage()).await.map(drop),
            soon(sandbox.dial(80)).await.map(drop),
            soon(sandbox.pause()).await,
            soon(sandbox.extend(std::time::Duration::from_secs(5)))
                .await
                .map(drop),
        ];
        for (number, answer) in answers.into_iter().enumerate() {
            let kind = answer.map_err(|error| error.kind());
            assert_eq!(kind, Err(ErrorKind::SandboxGone), "call {number}");
        }
        soon(sandbox.kill()).await.unwrap();
    }
}

#[tokio::test]
async fn an_installed_helper_is_used_and_gives_root_inside_nothing() {
    let place = tempfile::tempdir().unwrap();
    let written = stacyvm::providers::oci::install_helper(place.path()).unwrap();
    let state = tempfile::tempdir().unwrap();
    let open = async |helper: &std::path::Path| {
        let mut config = Config::for_state_dir(state.path());
        config.helper = Some(helper.to_owned());
        Engine::open(config).await.unwrap()
    };
    let engine = open(&written[0]).await;
    let spec = SandboxSpec::host().lifetime(Lifetime::Attached);
    let sandbox = engine.create(spec.clone()).await.unwrap();
    let agent = sandbox.info().await.unwrap().host_pid.unwrap();
    let helper = common::residue::parent(agent);
    if common::is_root() {
        let program = std::fs::read_link(format!("/proc/{helper}/exe")).unwrap();
        assert_eq!(program, written[0]);
    }
    // The file can be read by everybody; what the agent executes must not be.
    let owner = soon(
        sandbox
            .exec(["stat", "-c", "%u", "/proc/1/environ"])
            .output(),
    );
    assert_eq!(owner.await.unwrap().stdout_text(), "65534\n");
    sandbox.kill().await.unwrap();

    for other in ["/bin/true", "helper", "/no/such/file"] {
        let engine = open(other.as_ref()).await;
        let error = engine.create(spec.clone()).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidArgument, "{other}");
        assert_eq!(error.fact("field"), Some("helper"), "{other}");
    }
}
