//! Docker engines whose policy forbids added Linux capabilities, by a proxy in front of
//! the one that `STACYVM_TEST_DOCKER_HOST` names (`scripts/docker-host.sh start`).
#![cfg(all(feature = "docker", unix))]
#![allow(clippy::unwrap_used, reason = "a test")]

mod docker_common;
#[path = "docker_common/policy.rs"]
mod policy;

use std::time::Duration;

use docker_common::{Host, IMAGE, cx};
use futures_util::TryStreamExt as _;
use stacyvm::provider::{Provider as _, Users};
use stacyvm::providers::docker::DockerProvider;
use stacyvm::sandbox::files::{Attributes, FileOperation, FileRequest, GuestPath};
use stacyvm::sandbox::spec::SandboxSpec;
use stacyvm::{ErrorKind, ExecEvent, ExecSpec, ExitStatus};

/// A store behind the policy, with sandboxes of these users.
async fn behind(users: Users) -> Option<(Host, policy::Policy)> {
    let address = std::env::var_os("STACYVM_TEST_DOCKER_HOST");
    let address = address.and_then(|address| address.into_string().ok());
    let place = tempfile::tempdir().unwrap();
    let engine = address.as_deref().unwrap_or("unix:///nowhere");
    let engine = engine.strip_prefix("unix://").unwrap();
    let policy = policy::Policy::before(engine, place.path());
    let host = Host::with(|config| {
        let auth = config.auth_file.clone().unwrap();
        config.host(&policy.host).auth_file(auth).users(users)
    });
    let host = host.await?;
    // It lives as long as what is in it.
    drop(place.keep());
    Some((host, policy))
}

#[tokio::test]
async fn an_engine_that_forbids_capabilities_says_which_setting_serves_it() {
    let Some((host, _policy)) = behind(Users::Many).await else {
        return;
    };
    let request = host.request(SandboxSpec::image(IMAGE));
    let error = host.provider.create(&cx(), &request).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::PermissionDenied, "{error:?}");
    assert_eq!(error.fact("field"), Some("docker.users"));
    assert!(error.message().contains("users: one"), "{error}");
    let said = error.fact("engine").unwrap();
    assert!(said.contains("authorization denied by plugin"), "{said}");
    host.end(&[]).await;
}

#[tokio::test]
async fn with_one_user_it_is_served_without_capabilities() {
    let Some((host, policy)) = behind(Users::One).await else {
        return;
    };
    let claims = host.provider.capabilities();
    assert_eq!((claims.users, claims.mount_volume), (Users::One, false));
    let id = host.sandbox(SandboxSpec::image(IMAGE)).await;
    let name = format!("stacyvm-{id}");
    let seen = host.docker.inspect_container(&name, None).await.unwrap();
    assert_eq!(seen.host_config.unwrap().cap_add, None);
    assert_eq!(seen.config.unwrap().user.as_deref(), Some("1000:1000"));
    let observed = host.provider.inspect(&cx(), &id).await.unwrap();
    assert_eq!(observed.effective["users"].value, "one, the agent's too");

    // Neither commands nor the agent have a capability or a way to one.
    let line = "for p in self 1; do grep -E '^(Cap(Prm|Eff|Amb)|NoNewPrivs|Seccomp):' \
                /proc/$p/status | tr -d '\\t' | tr '\\n' ' '; done; id -u; id -g";
    let none = "CapPrm:0000000000000000 CapEff:0000000000000000 CapAmb:0000000000000000 \
                NoNewPrivs:1 Seccomp:2 ";
    assert_eq!(host.sh(&id, line).await, format!("{none}{none}1000\n1000"));
    let line = "cd /workspace && echo x > f && stat -c '%u:%g %a' . f && pwd";
    assert_eq!(
        host.sh(&id, line).await,
        "1000:1000 755\n1000:1000 644\n/workspace"
    );
    // The agent's memory and files are nobody's inside.
    let line = "for f in mem environ fd/0 exe; do cat /proc/1/$f 2> /dev/null && echo $f; done; \
                kill -9 1; kill 1; sleep 0.1; echo lives";
    assert_eq!(host.sh(&id, line).await, "lives");
    // Where memory runs out what it starts goes before the agent, and nobody has it go first.
    let line = "cat /proc/1/oom_score_adj /proc/$PPID/oom_score_adj /proc/self/oom_score_adj; \
                for p in 1 $PPID; do (echo 999 > /proc/$p/oom_score_adj) 2> /dev/null && echo $p; \
                done; echo";
    assert_eq!(host.sh(&id, line).await, "0\n200\n200");

    // Another process of this user goes on with it.
    let config =
        stacyvm::providers::docker::DockerConfig::new(host.state.path(), host.instance.clone());
    let config = config.host(&policy.host).users(Users::One);
    let again = DockerProvider::open(config).await.unwrap();
    let read = ExecSpec::shell("cat /workspace/f");
    let session = again.exec(&cx(), &id, &read).await.unwrap();
    let events: Vec<_> = session.events.try_collect().await.unwrap();
    assert!(
        events.contains(&ExecEvent::Stdout("x\n".into())),
        "{events:?}"
    );
    host.end(&[&id]).await;
}

#[tokio::test]
async fn with_one_user_another_is_refused_before_any_effect() {
    let Some((host, _policy)) = behind(Users::One).await else {
        return;
    };
    let request = host.request(SandboxSpec::image(IMAGE).user("root"));
    let error = host.provider.create(&cx(), &request).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported);
    assert_eq!(error.fact("field"), Some("user"));
    assert_eq!(host.held().await, Vec::<String>::new());

    let id = host.sandbox(SandboxSpec::image(IMAGE)).await;
    let mut as_root = ExecSpec::shell("touch /tmp/ran");
    as_root.user = Some("root".to_owned());
    let error = host.provider.exec(&cx(), &id, &as_root).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported, "{error:?}");
    let path = || GuestPath::new("/tmp/made").unwrap();
    let make = |user: Option<&str>| FileRequest {
        user: user.map(str::to_owned),
        operation: FileOperation::MakeDir {
            path: path(),
            mode: 0o755,
            parents: false,
        },
    };
    let error = host.provider.file(&cx(), &id, &make(Some("root"))).await;
    assert_eq!(error.unwrap_err().kind(), ErrorKind::Unsupported);
    assert_eq!(host.sh(&id, "ls /tmp").await, "");
    host.provider.file(&cx(), &id, &make(None)).await.unwrap();
    let give_away = FileRequest {
        user: None,
        operation: FileOperation::SetAttributes {
            path: path(),
            attributes: Attributes {
                owner: Some("0".to_owned()),
                ..Attributes::default()
            },
            recursive: false,
            follow: false,
        },
    };
    let error = host.provider.file(&cx(), &id, &give_away).await;
    let kind = error.unwrap_err().kind();
    assert_eq!(kind, ErrorKind::PermissionDenied);
    assert_eq!(host.sh(&id, "stat -c %u /tmp/made").await, "1000");
    host.end(&[&id]).await;
}

#[tokio::test]
async fn with_one_user_a_deadline_takes_the_whole_tree() {
    let Some((host, _policy)) = behind(Users::One).await else {
        return;
    };
    let id = host.sandbox(SandboxSpec::image(IMAGE)).await;
    let line = "(setsid sh -c 'sleep 1007 & sleep 1007' &) ; trap '' TERM INT; sleep 1007";
    let mut spec = ExecSpec::shell(line);
    spec.timeout = Some(Duration::from_millis(500));
    let session = host.provider.exec(&cx(), &id, &spec).await.unwrap();
    let events: Vec<_> = session.events.try_collect().await.unwrap();
    let ended = ExitStatus::TimedOut {
        sandbox_ended: false,
    };
    assert_eq!(events.last(), Some(&ExecEvent::Exited(ended)));
    let line = "for p in /proc/[0-9]*; do tr '\\0' ' ' < $p/cmdline; done 2> /dev/null | \
                grep -c '[1]007' || true";
    assert_eq!(host.sh(&id, line).await, "0");
    host.end(&[&id]).await;
}

#[tokio::test]
async fn with_one_user_that_of_the_image_is_it() {
    let Some((host, _policy)) = behind(Users::One).await else {
        return;
    };
    let exported = host.docker.inspect_image(IMAGE).await.unwrap();
    assert!(exported.config.unwrap().user.unwrap_or_default().is_empty());
    let name = format!("stacyvm-test/one-user-{}:1", host.instance);
    let id = host.sandbox(SandboxSpec::image(IMAGE)).await;
    let config = bollard::models::ContainerConfig::default();
    let (repo, tag) = name.split_once(':').unwrap();
    let options = bollard::query_parameters::CommitContainerOptions {
        container: Some(format!("stacyvm-{id}")),
        repo: Some(repo.to_owned()),
        tag: Some(tag.to_owned()),
        changes: Some("USER 1234:77\nWORKDIR /srv/app".to_owned()),
        ..bollard::query_parameters::CommitContainerOptions::default()
    };
    host.docker.commit_container(options, config).await.unwrap();
    let other = host.sandbox(SandboxSpec::image(&name)).await;
    let line = "echo x > f && stat -c '%u:%g %n' . f && pwd";
    assert_eq!(
        host.sh(&other, line).await,
        "1234:77 .\n1234:77 f\n/srv/app"
    );
    let mut spec = SandboxSpec::image(IMAGE);
    spec.read_only_root = true;
    let read_only = host.sandbox(spec).await;
    assert_eq!(
        host.sh(&read_only, "echo y > /workspace/f; cat f").await,
        "y"
    );
    for id in [&id, &other, &read_only] {
        host.provider.destroy(&cx(), id).await.unwrap();
    }
    host.remove_image(&name).await;
    host.end(&[]).await;
}

#[tokio::test]
async fn with_one_user_a_snapshot_keeps_it() {
    let Some((host, _policy)) = behind(Users::One).await else {
        return;
    };
    let id = host.sandbox(SandboxSpec::image(IMAGE)).await;
    let snapshot = stacyvm::id::SnapshotId::random();
    host.provider.snapshot(&cx(), &id, &snapshot).await.unwrap();
    let mut spec = SandboxSpec::image(IMAGE);
    spec.source = stacyvm::sandbox::spec::Source::Snapshot(snapshot.to_string());
    let other = host.sandbox(spec).await;
    let line = "id -u; echo x > /workspace/f && stat -c %u:%g /workspace /workspace/f /home/user";
    assert_eq!(
        host.sh(&other, line).await,
        "1000\n1000:1000\n1000:1000\n1000:1000"
    );
    for id in [&id, &other] {
        host.provider.destroy(&cx(), id).await.unwrap();
    }
    host.provider
        .delete_snapshot(&cx(), &snapshot)
        .await
        .unwrap();
    host.end(&[]).await;
}
