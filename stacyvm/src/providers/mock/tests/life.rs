use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use super::super::Mock;
use super::{Bench, bench, bench_on, code, drain, request, secs, settle};
use crate::clock::{Clock, ManualClock};
use crate::context::Context;
use crate::error::ErrorKind;
use crate::id::{SandboxId, SnapshotId, TenantId};
use crate::provider::{Isolation, Level, Provider, Secrets};
use crate::sandbox::exec::{ExecSpec, ExitStatus, SignalScope};
use crate::sandbox::files::WriteMode;
use crate::sandbox::spec::{
    Mount, MountSource, Network, Port, Privileges, Profile, SandboxSpec, Source,
};
use crate::sandbox::state::ObservedState;

#[tokio::test]
async fn what_needs_a_kernel_is_declined_before_any_effect() {
    let any = || SandboxSpec::image("any");
    let with = |change: &dyn Fn(&mut SandboxSpec)| {
        let mut spec = any();
        change(&mut spec);
        spec
    };
    let mount = Mount {
        target: "/m".into(),
        source: MountSource::Volume("v".into()),
        writable: false,
        size_mib: None,
    };
    let sized = Mount {
        size_mib: Some(64),
        ..mount.clone()
    };
    let cases = [
        (any().memory_mib(64), "memory_mib"),
        (any().cpus(1.0), "cpus"),
        (any().pids(64), "pids"),
        (any().open_files(64), "open_files"),
        (any().disk_mib(64), "disk_mib"),
        (any().mount(mount), "mounts"),
        (any().mount(sized), "mounts[0].size_mib"),
        (any().network(Network::None), "network"),
        (any().profile(Profile::Strict), "profile"),
        (SandboxSpec::image("/srv/root"), "image"),
        (
            with(&|s| s.source = Source::Template("t".into())),
            "template",
        ),
        (
            with(&|s| s.privileges = Privileges::NamespacedRoot),
            "privileges",
        ),
        (
            with(&|s| s.ports = vec![Port { guest: 80, host: 0 }]),
            "ports",
        ),
        (with(&|s| s.read_only_root = true), "read_only_root"),
    ];
    let mock = Mock::default();
    for (spec, field) in cases {
        let error = mock
            .create(&Context::default(), &request(spec))
            .await
            .unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
        assert_eq!(error.fact("field"), Some(field));
        assert_eq!(error.failed_operation(), "create");
    }
    assert!(mock.leftovers().is_empty());
}

#[tokio::test]
async fn it_is_never_offered_as_isolation() {
    let claims = Mock::default().capabilities();
    assert_eq!(claims.isolation, Isolation::None);
    for level in [
        claims.root_mapped,
        claims.syscall_filter,
        claims.no_new_privileges,
        claims.memory_limit,
        claims.cpu_limit,
        claims.pids_limit,
        claims.open_files_limit,
        claims.disk_limit,
        claims.network_none,
        claims.network_allow,
        claims.read_only_root,
    ] {
        assert_eq!(level, Level::Absent);
    }
    assert!(!claims.exec_tty && !claims.network_full && !claims.mount_host);
}

#[tokio::test]
async fn the_same_request_finds_the_same_sandbox() {
    let (mock, cx) = (Mock::default(), Context::default());
    let mut wanted = request(SandboxSpec::image("any"));
    let first = mock.create(&cx, &wanted).await.unwrap();
    assert_eq!(mock.create(&cx, &wanted).await.unwrap(), first);
    assert_eq!(mock.leftovers().len(), 1);
    wanted.spec = wanted.spec.env("A", "b");
    let error = mock.create(&cx, &wanted).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Conflict);
}

#[tokio::test]
async fn destroy_leaves_nothing_and_may_be_repeated() {
    let bench = bench().await;
    let session = bench
        .start(&ExecSpec::shell("setsid sleep 1000 & sleep 1000"))
        .await
        .unwrap();
    settle().await;
    bench.mock.destroy(&bench.cx, &bench.id).await.unwrap();
    bench.mock.destroy(&bench.cx, &bench.id).await.unwrap();
    bench
        .mock
        .destroy(&bench.cx, &SandboxId::random())
        .await
        .unwrap();
    assert!(bench.mock.leftovers().is_empty());
    let ran = drain(session).await.unwrap();
    assert_eq!(ran.status, Some(ExitStatus::SandboxGone));
    let error = bench.start(&ExecSpec::new(["true"])).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
}

#[tokio::test]
async fn a_sandbox_of_another_tenant_is_not_there() {
    let bench = bench().await;
    let other = Context::new(TenantId::new("other").unwrap());
    let error = bench.mock.inspect(&other, &bench.id).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
    bench.mock.destroy(&other, &bench.id).await.unwrap();
    bench.mock.inspect(&bench.cx, &bench.id).await.unwrap();
}

#[tokio::test]
async fn sandboxes_are_listed_in_pages() {
    let (mock, cx) = (Mock::default(), Context::default());
    let mut ids = Vec::new();
    for _ in 0..5 {
        ids.push(
            mock.create(&cx, &request(SandboxSpec::host()))
                .await
                .unwrap()
                .id,
        );
    }
    ids.sort();
    let mut listed = Vec::new();
    loop {
        let page = mock.list(&cx, listed.last(), 2).await.unwrap();
        assert!(page.len() <= 2);
        if page.is_empty() {
            break;
        }
        listed.extend(page.into_iter().map(|o| o.id));
    }
    assert_eq!(listed, ids);
}

async fn on_clock() -> (Arc<ManualClock>, Bench) {
    let clock = Arc::new(ManualClock::at_ms(1_000_000));
    let bench = bench_on(Mock::builder().clock(clock.clone()).build()).await;
    (clock, bench)
}

#[tokio::test]
async fn a_sandbox_ends_by_the_injected_clock() {
    let (clock, bench) = on_clock().await;
    let deadline = |ends| bench.mock.set_deadline(&bench.cx, &bench.id, ends);
    deadline(Some(clock.now() + secs(60))).await.unwrap();
    let session = bench
        .start(&ExecSpec::new(["sleep", "1000"]))
        .await
        .unwrap();
    clock.advance(secs(59));
    bench.shell("true").await;
    deadline(Some(clock.now() + secs(60))).await.unwrap();
    clock.advance(secs(59));
    assert_eq!(bench.shell("true").await.status, code(0));
    deadline(None).await.unwrap();
    clock.advance(secs(1_000_000));
    assert_eq!(bench.shell("true").await.status, code(0));
    deadline(Some(clock.now() + secs(1))).await.unwrap();
    clock.advance(secs(1));
    let error = bench.start(&ExecSpec::new(["true"])).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::SandboxGone);
    let observed = bench.mock.inspect(&bench.cx, &bench.id).await.unwrap();
    assert_eq!(observed.state, ObservedState::Ended);
    let ran = drain(session).await.unwrap();
    assert_eq!(ran.status, Some(ExitStatus::SandboxGone));
}

#[tokio::test]
async fn a_sandbox_ends_without_a_call() {
    let (mock, cx) = (Mock::default(), Context::default());
    let mut wanted = request(SandboxSpec::image("any"));
    wanted.ends = Some(SystemTime::now() + Duration::from_millis(50));
    mock.create(&cx, &wanted).await.unwrap();
    let spec = ExecSpec::new(["sleep", "1000"]);
    let session = mock.exec(&cx, &wanted.id, &spec).await.unwrap();
    let ran = tokio::time::timeout(secs(20), drain(session)).await;
    assert_eq!(ran.unwrap().unwrap().status, Some(ExitStatus::SandboxGone));
}

#[tokio::test(start_paused = true)]
async fn a_paused_sandbox_stands_still() {
    let bench = bench().await;
    let session = bench
        .start(&ExecSpec::shell("sleep 1; echo on > /tmp/on"))
        .await
        .unwrap();
    settle().await;
    for _ in 0..2 {
        bench.mock.pause(&bench.cx, &bench.id).await.unwrap();
    }
    tokio::time::sleep(secs(100)).await;
    assert!(bench.stat("/tmp/on").await.is_err());
    let observed = bench.mock.inspect(&bench.cx, &bench.id).await.unwrap();
    assert_eq!(observed.state, ObservedState::Paused);
    for _ in 0..2 {
        bench.mock.resume(&bench.cx, &bench.id).await.unwrap();
    }
    assert_eq!(drain(session).await.unwrap().status, code(0));
    bench.stat("/tmp/on").await.unwrap();
}

#[tokio::test]
async fn a_snapshot_keeps_the_files() {
    let bench = bench().await;
    bench
        .write("/tmp/a", WriteMode::Replace, "then")
        .await
        .unwrap();
    let snapshot = SnapshotId::random();
    let info = bench
        .mock
        .snapshot(&bench.cx, &bench.id, &snapshot)
        .await
        .unwrap();
    assert!(!info.memory);
    bench
        .write("/tmp/a", WriteMode::Replace, "now")
        .await
        .unwrap();
    let mut spec = SandboxSpec::host();
    spec.source = Source::Snapshot(snapshot.to_string());
    let wanted = request(spec);
    bench.mock.create(&bench.cx, &wanted).await.unwrap();
    let restored = Bench {
        mock: bench.mock.clone(),
        cx: bench.cx.clone(),
        id: wanted.id.clone(),
    };
    assert_eq!(restored.read(None, "/tmp/a").await.unwrap(), "then");
    for _ in 0..2 {
        bench
            .mock
            .delete_snapshot(&bench.cx, &snapshot)
            .await
            .unwrap();
    }
    let error = bench
        .mock
        .create(&bench.cx, &request(wanted.spec))
        .await
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
}

#[tokio::test]
async fn variables_and_secrets_reach_commands_and_nothing_else() {
    let mut wanted = request(SandboxSpec::image("any").env("PLAIN", "hunter1"));
    wanted.secrets = Secrets::new(BTreeMap::from([("TOKEN".into(), "hunter2".into())]));
    let bench = Bench {
        mock: Arc::new(Mock::default()),
        cx: Context::default(),
        id: wanted.id.clone(),
    };
    bench.mock.create(&bench.cx, &wanted).await.unwrap();
    assert_eq!(
        bench.shell("echo $PLAIN $TOKEN").await.out,
        "hunter1 hunter2\n"
    );
    let observed = bench.mock.inspect(&bench.cx, &bench.id).await.unwrap();
    let shown = format!("{:?} {observed:?} {:?}", bench.mock, bench.mock.log());
    assert!(!shown.contains("hunter"), "{shown}");
}

#[tokio::test]
async fn an_unknown_image_is_not_found() {
    let mock = Mock::builder().image("known").build();
    let cx = Context::default();
    mock.create(&cx, &request(SandboxSpec::image("known")))
        .await
        .unwrap();
    let error = mock
        .create(&cx, &request(SandboxSpec::image("other")))
        .await
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
    assert_eq!(mock.leftovers().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn idleness_ends_it_and_use_postpones_that() {
    let clock = Arc::new(ManualClock::at_ms(1_000_000));
    let mock = Mock::builder().clock(Arc::clone(&clock) as _).build();
    let cx = Context::default();
    let mut spec = SandboxSpec::image("any");
    spec.idle_timeout = Some(secs(10));
    let request = request(spec);
    mock.create(&cx, &request).await.unwrap();
    let state = async || mock.inspect(&cx, &request.id).await.unwrap();
    let pass = async |seconds| {
        clock.advance(secs(seconds));
        tokio::time::sleep(secs(seconds)).await;
    };
    pass(9).await;
    assert!(state().await.idle_ends.is_some());
    let mut long = ExecSpec::shell("sleep 1000000");
    long.background = true;
    let session = mock.exec(&cx, &request.id, &long).await.unwrap();
    pass(60).await;
    let seen = state().await;
    assert_eq!((seen.state, seen.idle_ends), (ObservedState::Running, None));
    mock.signal_exec(&cx, &request.id, &long.exec, 9, SignalScope::Tree)
        .await
        .unwrap();
    drop(session);
    pass(9).await;
    assert_eq!(state().await.state, ObservedState::Running);
    // What stands still is not in use, and a look is no use.
    mock.pause(&cx, &request.id).await.unwrap();
    pass(2).await;
    assert_eq!(state().await.state, ObservedState::Ended);
}
