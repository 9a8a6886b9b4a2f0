//! What is refused, and what is filled in.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use super::World;
use crate::clock::{Clock as _, ManualClock};
use crate::engine::Engine;
use crate::engine::policy::Policy;
use crate::engine::testing::{Scripted, all_capabilities};
use crate::error::{Error, ErrorKind};
use crate::provider::{Capabilities, Level, OperationKind, Users};
use crate::sandbox::spec::{
    Lifetime, Mount, MountSource, Network, Port, Privileges, Profile, SandboxSpec, SecretReference,
    Source,
};
use crate::store::MemoryStore;

fn host() -> SandboxSpec {
    SandboxSpec::host()
}

fn with(change: impl FnOnce(&mut SandboxSpec)) -> SandboxSpec {
    let mut spec = host();
    change(&mut spec);
    spec
}

fn mounted(source: MountSource) -> SandboxSpec {
    host().mount(Mount {
        target: "/data".into(),
        source,
        writable: false,
        size_mib: None,
    })
}

fn sized(volume: &str) -> Mount {
    Mount {
        target: "/data".into(),
        source: MountSource::Volume(volume.into()),
        writable: true,
        size_mib: Some(64),
    }
}

/// A provider that can do everything but this.
fn without(change: impl FnOnce(&mut Capabilities)) -> Capabilities {
    let mut capabilities = all_capabilities();
    change(&mut capabilities);
    capabilities
}

async fn refusal(capabilities: Capabilities, spec: SandboxSpec) -> Error {
    let able = Scripted::new();
    let unable = Scripted::with(capabilities);
    let engine = Engine::builder()
        .provider("unable", Arc::clone(&unable) as _)
        .provider("able", Arc::clone(&able) as _)
        .build()
        .await
        .unwrap();
    let error = engine.create(spec.clone()).await.unwrap_err();
    assert_eq!(unable.count(OperationKind::Create), 0, "an effect: {error}");
    let all = super::super::Filter {
        all: true,
        ..Default::default()
    };
    assert!(
        engine.list(all).await.unwrap().is_empty(),
        "a record: {error}"
    );
    error
}

#[tokio::test]
async fn each_field_that_cannot_be_served_is_refused_and_named() {
    type Change = fn(&mut Capabilities);
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().to_str().unwrap().to_owned();
    let cases: Vec<(SandboxSpec, &str, &str, Change)> = vec![
        (host(), "source.image", "image_host", |c| {
            c.image_host = false;
        }),
        (
            SandboxSpec::image("/root-fs"),
            "source.image",
            "image_directory",
            |c| {
                c.image_directory = false;
            },
        ),
        (
            SandboxSpec::image("python:3"),
            "source.image",
            "image_registry",
            |c| {
                c.image_registry = false;
                c.image_store = false;
            },
        ),
        (
            SandboxSpec::image("oci:/layout"),
            "source.image",
            "image_store",
            |c| {
                c.image_store = false;
            },
        ),
        (
            with(|s| s.source = Source::Snapshot("p1".into())),
            "source.snapshot",
            "snapshot_disk",
            |c| {
                (c.snapshot_disk, c.snapshot_memory) = (false, false);
            },
        ),
        (host().env("A", "hunter2"), "env", "env", |c| c.env = false),
        (host().user("nobody"), "user", "users", |c| {
            c.users = Users::One;
        }),
        (
            with(|s| s.privileges = Privileges::NamespacedRoot),
            "privileges",
            "namespaced_root",
            |c| {
                c.namespaced_root = false;
            },
        ),
        (host().memory_mib(64), "memory_mib", "memory_limit", |c| {
            c.memory_limit = Level::Absent;
        }),
        (host().cpus(0.5), "cpus", "cpu_limit", |c| {
            c.cpu_limit = Level::Absent;
        }),
        (host().pids(10), "pids", "pids_limit", |c| {
            c.pids_limit = Level::Absent;
        }),
        (
            host().open_files(64),
            "open_files",
            "open_files_limit",
            |c| {
                c.open_files_limit = Level::Absent;
            },
        ),
        (host().disk_mib(64), "disk_mib", "disk_limit", |c| {
            c.disk_limit = Level::Absent;
        }),
        (
            mounted(MountSource::Host(path)),
            "mounts[0]",
            "mount_host",
            |c| c.mount_host = false,
        ),
        (
            mounted(MountSource::Tmpfs { size_mib: 1 }),
            "mounts[0]",
            "mount_tmpfs",
            |c| {
                c.mount_tmpfs = false;
            },
        ),
        (
            mounted(MountSource::Volume("v".into())),
            "mounts[0]",
            "mount_volume",
            |c| {
                c.mount_volume = false;
            },
        ),
        (
            with(|s| s.mounts.push(sized("v"))),
            "mounts[0].size_mib",
            "mount_volume_size",
            |c| c.mount_volume_size = false,
        ),
        (
            host().network(Network::None),
            "network",
            "network_none",
            |c| {
                c.network_none = Level::Absent;
            },
        ),
        (
            host().network(Network::Allow(vec!["example.org".into()])),
            "network",
            "network_allow",
            |c| {
                c.network_allow = Level::Absent;
            },
        ),
        (
            host().network(Network::Full),
            "network",
            "network_full",
            |c| c.network_full = false,
        ),
        (
            with(|s| s.ports.push(Port { guest: 80, host: 0 })),
            "ports[0]",
            "publish_ports",
            |c| {
                c.publish_ports = false;
            },
        ),
        (host().ttl(Duration::from_secs(9)), "ttl", "ttl", |c| {
            c.ttl = Level::Absent;
        }),
        (
            with(|s| s.idle_timeout = Some(Duration::from_secs(9))),
            "idle_timeout",
            "idle_timeout",
            |c| {
                c.idle_timeout = Level::Absent;
            },
        ),
        (
            host().lifetime(Lifetime::Attached),
            "lifetime",
            "attached_lifetime",
            |c| {
                c.attached_lifetime = false;
            },
        ),
        (
            with(|s| {
                s.secrets
                    .insert("KEY".into(), SecretReference::Env("PATH".into()));
            }),
            "secrets",
            "env",
            |c| c.env = false,
        ),
        (
            with(|s| s.read_only_root = true),
            "read_only_root",
            "read_only_root",
            |c| {
                c.read_only_root = Level::Absent;
            },
        ),
        (
            host().profile(Profile::Strict),
            "memory_mib",
            "memory_limit",
            |c| {
                c.memory_limit = Level::BestEffort;
            },
        ),
        (host().profile(Profile::Strict), "pids", "pids_limit", |c| {
            c.pids_limit = Level::Absent;
        }),
        (
            host().profile(Profile::Strict),
            "open_files",
            "open_files_limit",
            |c| {
                c.open_files_limit = Level::BestEffort;
            },
        ),
        (
            host().profile(Profile::Strict),
            "network",
            "network_none",
            |c| {
                c.network_none = Level::BestEffort;
            },
        ),
        (
            host().profile(Profile::Strict),
            "profile",
            "root_mapped",
            |c| {
                c.root_mapped = Level::BestEffort;
            },
        ),
        (
            host().profile(Profile::Strict),
            "profile",
            "syscall_filter",
            |c| {
                c.syscall_filter = Level::Absent;
            },
        ),
        (
            host().profile(Profile::Strict),
            "profile",
            "no_new_privileges",
            |c| {
                c.no_new_privileges = Level::BestEffort;
            },
        ),
    ];
    for (spec, field, need, change) in cases {
        let error = refusal(without(change), spec).await;
        assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
        assert_eq!(error.fact("field"), Some(field), "{error}");
        assert_eq!(error.fact("need"), Some(need), "{error}");
        assert_eq!(error.fact("could_serve"), Some("able (none)"), "{error}");
        assert_eq!(error.failed_provider(), Some("unable"));
        assert!(!format!("{error:?}").contains("hunter2"));
    }
    // What no provider serves yet, whatever it claims.
    let spec = with(|s| s.source = Source::Template("t1".into()));
    let error = refusal(without(|_| {}), spec).await;
    assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
    assert_eq!(error.fact("field"), Some("source.template"), "{error}");
}

#[tokio::test]
async fn what_no_provider_serves_says_so() {
    let spec = with(|s| s.source = Source::Template("t".into()));
    let error = refusal(all_capabilities(), spec).await;
    assert_eq!(error.kind(), ErrorKind::Unsupported);
    assert_eq!(error.fact("could_serve"), Some(""));
    let text = error.to_string();
    assert!(
        text.contains("no configured provider can serve it; leave it out"),
        "{text}"
    );
}

#[tokio::test]
async fn the_profile_fills_in_what_the_provider_can() {
    let world = World::new(Scripted::new()).await;
    world.engine.create(host().memory_mib(64)).await.unwrap();
    let spec = world.provider.request(0).spec;
    assert_eq!(spec.resources.memory_mib, Some(64));
    assert_eq!(spec.resources.pids, Some(1024));
    assert_eq!(spec.resources.open_files, Some(65_536));
    assert_eq!(spec.network, Some(Network::None));
    assert_eq!(spec.ttl, Some(Duration::from_hours(1)));

    let attached = host().lifetime(Lifetime::Attached);
    world.engine.create(attached).await.unwrap();
    assert_eq!(world.provider.request(1).spec.ttl, None);

    let bare = World::new(Scripted::with(Capabilities {
        image_host: true,
        ..Capabilities::default()
    }))
    .await;
    bare.engine.create(host()).await.unwrap();
    let spec = bare.provider.request(0).spec;
    assert_eq!(spec.resources.memory_mib, None);
    assert_eq!((spec.network, spec.ttl), (None, None));
}

async fn governed(policy: Policy) -> Engine {
    Engine::builder()
        .provider("scripted", Scripted::new() as _)
        .policy(policy)
        .build()
        .await
        .unwrap()
}

#[tokio::test]
async fn host_directories_outside_the_policy_are_refused() {
    let home = tempfile::tempdir().unwrap();
    let at = |name: &str| {
        let path = home.path().join(name);
        std::fs::create_dir_all(&path).unwrap();
        path
    };
    let (root, state, beside) = (at("root"), at("root/state"), at("beside"));
    let good = at("root/good");
    std::fs::write(root.join("file"), "").unwrap();
    std::os::unix::fs::symlink(&beside, root.join("way-out")).unwrap();
    std::os::unix::fs::symlink(&good, beside.join("way-in")).unwrap();
    let engine = governed(Policy {
        mount_roots: Some(vec![
            root.clone(),
            PathBuf::from("/proc"),
            PathBuf::from("/"),
        ]),
        state_dir: Some(state.clone()),
        ..Policy::default()
    })
    .await;
    let narrow = governed(Policy {
        mount_roots: Some(vec![root.clone()]),
        state_dir: Some(state.clone()),
        ..Policy::default()
    })
    .await;
    let mount = |engine: &Engine, path: PathBuf| {
        engine.create(mounted(MountSource::Host(path.to_str().unwrap().into())))
    };
    let denied = ErrorKind::PermissionDenied;
    for (engine, path, kind) in [
        (&engine, PathBuf::from("/"), denied),
        (&engine, PathBuf::from("/proc/self"), denied),
        (&engine, PathBuf::from("/../"), denied),
        (&engine, root.clone(), denied),
        (&engine, state.clone(), denied),
        (&engine, at("root/state/inner"), denied),
        (&narrow, beside.clone(), denied),
        (&narrow, root.join("way-out"), denied),
        (&narrow, root.join("good/../../beside"), denied),
        (&narrow, root.join("missing"), ErrorKind::NotFound),
        (&narrow, root.join("file"), ErrorKind::NotDirectory),
    ] {
        let error = mount(engine, path.clone()).await.unwrap_err();
        assert_eq!(error.kind(), kind, "{}: {error}", path.display());
        assert_eq!(error.fact("field"), Some("mounts[0].source.host"));
    }
    mount(&narrow, good.clone()).await.unwrap();
    mount(&narrow, beside.join("way-in")).await.unwrap();
    mount(&engine, beside).await.unwrap();
}

#[tokio::test]
async fn the_provider_is_given_the_directory_that_was_checked() {
    let home = tempfile::tempdir().unwrap();
    let real = std::fs::canonicalize(home.path()).unwrap().join("real");
    std::fs::create_dir(&real).unwrap();
    let link = home.path().join("link");
    std::os::unix::fs::symlink(&real, &link).unwrap();
    let world = World::new(Scripted::new()).await;
    let spec = mounted(MountSource::Host(link.to_str().unwrap().into()));
    world.engine.create(spec).await.unwrap();
    let given = world.provider.request(0).spec.mounts[0].source.clone();
    assert_eq!(given, MountSource::Host(real.to_str().unwrap().into()));
}

#[tokio::test]
async fn a_life_longer_than_the_policy_is_refused_and_no_end_becomes_the_longest() {
    let max = Duration::from_mins(1);
    let engine = governed(Policy {
        max_ttl: Some(max),
        ..Policy::default()
    })
    .await;
    let error = engine
        .create(host().ttl(Duration::from_secs(61)))
        .await
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::PermissionDenied);
    assert_eq!(error.fact("field"), Some("ttl"));
    let sandbox = engine
        .create(host().lifetime(Lifetime::Attached))
        .await
        .unwrap();
    assert!(sandbox.info().await.unwrap().ends.is_some());
    let error = sandbox.extend(Duration::from_secs(5)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::PermissionDenied);
    let error = sandbox.set_ttl(None).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::PermissionDenied);
    sandbox.set_ttl(Some(max / 2)).await.unwrap();
}

#[tokio::test]
async fn the_longest_life_counts_from_the_creation_however_often_it_is_extended() {
    let clock = Arc::new(ManualClock::at_ms(1_767_225_600_000));
    let store = Arc::new(MemoryStore::new());
    let provider = Scripted::new();
    let engine = async |max: u64| {
        Engine::builder()
            .provider("scripted", Arc::clone(&provider) as _)
            .clock(Arc::clone(&clock) as _)
            .store(Arc::clone(&store) as _)
            .policy(Policy {
                max_ttl: Some(Duration::from_secs(max)),
                ..Policy::default()
            })
            .build()
            .await
            .unwrap()
    };
    let secs = Duration::from_secs;
    let generous = engine(10).await;
    let sandbox = generous.create(host().ttl(secs(3))).await.unwrap();
    let born = clock.now();
    for passed in [2, 4, 6] {
        clock.advance(secs(2));
        let ends = sandbox.set_ttl(Some(secs(4))).await.unwrap();
        assert_eq!(ends, Some(born + secs(passed + 4)));
    }
    clock.advance(secs(1));
    let refused = [
        (sandbox.set_ttl(Some(secs(4))).await, "4s"),
        (sandbox.extend(secs(1)).await, "1s"),
        (sandbox.set_ttl(None).await, "none"),
    ];
    for (error, value) in refused {
        let error = error.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::PermissionDenied);
        assert_eq!(error.fact("field"), Some("ttl"));
        assert_eq!(error.fact("value"), Some(value));
        assert_eq!(error.fact("latest"), Some("2026-01-01T00:00:10.000Z"));
        assert!(error.to_string().contains("2026-01-01T00:00:10.000Z"));
        assert!(error.fact("remedy").unwrap().contains("policy.max_ttl"));
    }
    let ends = sandbox.info().await.unwrap().ends;
    assert_eq!(ends, Some(born + secs(10)));
    // A policy that has become stricter lets a life be shortened, no more.
    let strict = engine(1).await;
    let sandbox = strict.get(sandbox.id().as_str()).await.unwrap();
    sandbox.set_ttl(Some(secs(2))).await.unwrap();
    sandbox.extend(secs(1)).await.unwrap_err();
}

#[tokio::test]
async fn unknown_providers_and_options_of_unknown_providers_are_refused() {
    let world = World::new(Scripted::new()).await;
    let error = world
        .engine
        .create(host())
        .provider("dokcer")
        .await
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidArgument);
    assert_eq!(error.fact("field"), Some("provider"));
    assert_eq!(error.fact("expected"), Some("one of scripted"));
    let error = world.engine.provider("dokcer").await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidArgument);
    let known = world.engine.provider("scripted").await.unwrap();
    assert_eq!(known.info().name, "scripted");
    let spec = with(|s| {
        s.provider_options
            .insert("dokcer".into(), serde_json::json!({}));
    });
    let error = world.engine.create(spec).await.unwrap_err();
    assert_eq!(error.fact("field"), Some("provider_options"));
    let spec = with(|s| {
        s.provider_options
            .insert("scripted".into(), serde_json::json!({}));
    });
    world.engine.create(spec).await.unwrap();
}

#[tokio::test]
async fn secrets_reach_the_provider_and_nothing_else() {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), "hunter2\n").unwrap();
    let world = World::new(Scripted::new()).await;
    let spec = with(|s| {
        let path = file.path().to_str().unwrap().to_owned();
        s.secrets.insert("KEY".into(), SecretReference::File(path));
    });
    let sandbox = world.engine.create(spec).await.unwrap();
    let request = world.provider.request(0);
    let expected = BTreeMap::from([("KEY".to_owned(), "hunter2".to_owned())]);
    assert_eq!(request.secrets.expose(), &expected);
    let info = sandbox.info().await.unwrap();
    assert_eq!(info.env_names, ["KEY"]);
    let shown = format!(
        "{request:?}{info:?}{}",
        serde_json::to_string(&info).unwrap()
    );
    assert!(!shown.contains("hunter2"));

    let missing = SecretReference::Env("STACYVM_TEST_NOT_SET".into());
    let nowhere = SecretReference::File("/nowhere".into());
    let endless = SecretReference::File("/dev/zero".into());
    for (reference, kind) in [
        (missing, ErrorKind::NotFound),
        (nowhere, ErrorKind::NotFound),
        (endless, ErrorKind::InvalidArgument),
    ] {
        let spec = with(|s| {
            s.secrets.insert("KEY".into(), reference);
        });
        let error = world.engine.create(spec).await.unwrap_err();
        assert_eq!(error.kind(), kind, "{error}");
        assert_eq!(error.fact("field"), Some("secrets.KEY"));
    }
    let both = with(|s| {
        s.env.insert("KEY".into(), "x".into());
        s.secrets
            .insert("KEY".into(), SecretReference::Env("PATH".into()));
    });
    let error = world.engine.create(both).await.unwrap_err();
    assert_eq!(error.fact("field"), Some("secrets.KEY"));
    assert_eq!(world.provider.count(OperationKind::Create), 1);
}
