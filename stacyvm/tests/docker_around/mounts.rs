//! Directories of the host and volumes.

use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use std::sync::Arc;

use stacyvm::id::InstanceId;
use stacyvm::provider::{Provider, Reach, TidyRequest};
use stacyvm::providers::docker::{DockerConfig, DockerProvider};
use stacyvm::sandbox::spec::{Mount, MountSource, Network, Port, SandboxSpec};
use stacyvm::{ErrorKind, ExitStatus};
use tokio::net::{TcpListener, UnixStream};

use super::{Host, IMAGE, container, cx};

fn mount(target: &str, source: MountSource, writable: bool) -> Mount {
    Mount {
        target: target.to_owned(),
        source,
        writable,
        size_mib: None,
    }
}

fn of_host(path: &Path, writable: bool) -> SandboxSpec {
    let source = MountSource::Host(path.display().to_string());
    SandboxSpec::image(IMAGE).mount(mount("/srv/host", source, writable))
}

fn of_volume(name: &str, writable: bool) -> SandboxSpec {
    let source = MountSource::Volume(name.to_owned());
    SandboxSpec::image(IMAGE).mount(mount("/srv/volume", source, writable))
}

/// For everybody, with a file `a`.
fn directory() -> tempfile::TempDir {
    let made = tempfile::tempdir().unwrap();
    let path = made.path();
    std::fs::set_permissions(path, PermissionsExt::from_mode(0o777)).unwrap();
    std::fs::write(path.join("a"), "of the host").unwrap();
    made
}

fn only(names: &[&str]) -> TidyRequest {
    TidyRequest {
        volumes: true,
        only_volumes: Some(names.iter().map(|&name| name.to_owned()).collect()),
        ..TidyRequest::default()
    }
}

#[tokio::test]
async fn a_host_directory_gives_no_set_id_and_no_devices_either_way() {
    let Some(host) = Host::open().await else {
        return;
    };
    let place = directory();
    // A set-id program and a device of the host's own; without root there are none.
    let program = place.path().join("busybox");
    std::fs::copy("/bin/busybox", &program).unwrap();
    std::fs::set_permissions(&program, PermissionsExt::from_mode(0o4755)).unwrap();
    let device = place.path().join("device");
    let made = std::process::Command::new("mknod")
        .arg(&device)
        .args(["b", "7", "0"])
        .status();
    let devices = made.is_ok_and(|status| status.success());
    if devices {
        std::fs::set_permissions(&device, PermissionsExt::from_mode(0o666)).unwrap();
    } else {
        println!("not run: devices, which only root makes");
    }

    let id = host.sandbox(of_host(place.path(), true)).await;
    let (status, said) = host.sh_as(&id, "1000", "/srv/host/busybox id -u").await;
    assert_eq!((status.success(), said.as_str()), (true, "1000"));
    let (status, said) = host
        .sh_as(
            &id,
            "1000",
            "/srv/host/busybox cat /proc/self/status | grep Cap",
        )
        .await;
    assert!(
        status.success() && !said.contains("CapEff:\t0000000000000001"),
        "{said}"
    );
    if devices {
        for user in ["0", "1000"] {
            let (status, said) = host.sh_as(&id, user, "head -c 1 /srv/host/device").await;
            assert!(!status.success(), "{user} reads a device: {said}");
            assert!(said.contains("not permitted"), "{said}");
        }
    }
    // Nothing inside makes what would be a set-id program of the host.
    host.says(
        &id,
        "cp /bin/busybox /srv/host/own && chmod 755 /srv/host/own",
    )
    .await;
    for line in [
        "chmod 4755 /srv/host/own",
        "chmod g+s /srv/host/own",
        "mkdir -m 2777 /srv/host/d",
    ] {
        for user in ["0", "1000"] {
            host.sh_as(&id, user, line).await;
        }
    }
    let own = std::fs::metadata(place.path().join("own")).unwrap();
    assert_eq!(own.mode() & 0o6000, 0, "{:o}", own.mode());
    if let Ok(made) = std::fs::metadata(place.path().join("d")) {
        assert_eq!(made.mode() & 0o6000, 0, "{:o}", made.mode());
    }
    // Where no directory of the host is written, packages may set them.
    let other = host.sandbox(of_host(place.path(), false)).await;
    host.says(&other, "cp /bin/busybox /tmp/x && chmod 4755 /tmp/x")
        .await;

    let seen = host.provider.inspect(&cx(), &id).await.unwrap().effective;
    let told = &seen["host_directories"];
    assert!(told.value.ends_with("no set-id bits"), "{told:?}");
    let seen = host
        .provider
        .inspect(&cx(), &other)
        .await
        .unwrap()
        .effective;
    assert!(!seen["host_directories"].value.contains("set-id"));
    host.end(&[&id, &other]).await;
}

#[tokio::test]
async fn gvisor_empties_no_file_that_is_only_read() {
    let Some(host) = Host::with_runtime(Some("runsc")).await else {
        return;
    };
    let place = directory();
    let file = place.path().join("a");
    std::fs::set_permissions(&file, PermissionsExt::from_mode(0o666)).unwrap();
    let volume = MountSource::Volume("data".to_owned());
    let id = host.sandbox(of_volume("data", true)).await;
    host.says(&id, "echo kept > /srv/volume/a; chmod 666 /srv/volume/a")
        .await;
    let both = of_host(place.path(), false).mount(mount("/srv/volume", volume, false));
    let other = host.sandbox(both).await;
    for path in ["/srv/host", "/srv/volume"] {
        for user in ["0", "1000"] {
            // Its gofer emptied what the sandbox had seen before.
            for line in [
                "cat @/a && echo x > @/a",
                "cat @/a && : > @/a",
                "echo x >> @/a",
                "rm @/a",
                "touch @/b",
            ] {
                let line = line.replace('@', path);
                let (status, said) = host.sh_as(&other, user, &line).await;
                assert!(!status.success(), "{user}: {line}: {said}");
            }
        }
    }
    assert_eq!(std::fs::read_to_string(&file).unwrap(), "of the host");
    assert_eq!(host.says(&id, "cat /srv/volume/a").await, "kept");
    let seen = host
        .provider
        .inspect(&cx(), &other)
        .await
        .unwrap()
        .effective;
    assert!(seen.contains_key("host_directories"), "{seen:?}");

    // A volume that is only read is used as well.
    host.provider.destroy(&cx(), &id).await.unwrap();
    let tidied = host.provider.tidy(&cx(), &only(&["data"])).await.unwrap();
    assert!(tidied.gone.is_empty(), "{tidied:?}");
    // What shows them goes too where the sandbox ended unseen, and is named before.
    host.docker(&["rm", "-f", &container(&other)]).await;
    let left = host.provider.leftovers(&cx(), Reach::Own).await.unwrap();
    let kinds: Vec<_> = left.iter().map(|left| left.kind.as_str()).collect();
    assert_eq!(kinds, ["volume", "volume"], "{left:?}");
    host.provider.destroy(&cx(), &other).await.unwrap();
    let tidied = host.provider.tidy(&cx(), &only(&["data"])).await.unwrap();
    assert_eq!(tidied.gone.len(), 1);
    host.end(&[]).await;
}

#[tokio::test]
async fn what_is_mounted_is_what_was_asked_for() {
    let Some(host) = Host::open().await else {
        return;
    };
    let (place, elsewhere) = (directory(), directory());
    std::fs::create_dir(place.path().join("below")).unwrap();
    std::os::unix::fs::symlink(elsewhere.path(), place.path().join("link")).unwrap();
    let engine = host.engine.strip_prefix("unix://").unwrap().to_owned();
    let engine = Path::new(&engine).parent().unwrap().to_owned();
    for (path, kind) in [
        (place.path().join("missing"), ErrorKind::NotFound),
        (place.path().join("a"), ErrorKind::NotDirectory),
        (place.path().join("link"), ErrorKind::InvalidArgument),
        (engine, ErrorKind::PermissionDenied),
    ] {
        let error = host.refused(of_host(&path, true)).await;
        assert_eq!(error.kind(), kind, "{error}");
        assert_eq!(error.fact("field"), Some("mounts[0].source.host"));
    }
    assert!(!place.path().join("missing").exists(), "the engine made it");

    // An image whose link leads the mount elsewhere is told.
    let image = format!("stacyvm-test/link-{}", stacyvm::SandboxId::random());
    let maker = format!("around-{}", stacyvm::SandboxId::random());
    host.docker(&["run", "--name", &maker, IMAGE, "ln", "-s", "/etc", "/srv"])
        .await;
    host.docker(&["commit", &maker, &image]).await;
    let mut spec = of_host(&place.path().join("below"), false);
    spec.source = stacyvm::sandbox::spec::Source::Image(image.clone());
    let error = host.refused(spec).await;
    assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
    host.docker(&["rm", "-f", &maker]).await;
    host.docker(&["rmi", "-f", &image]).await;

    // Both ways, at once, in each other, over a path with odd letters.
    let odd = place.path().join("odd: name,with=\u{e4}");
    std::fs::create_dir(&odd).unwrap();
    std::fs::write(odd.join("b"), "odd").unwrap();
    let source = MountSource::Host(odd.display().to_string());
    let spec = of_host(place.path(), true).mount(mount("/srv/host/below", source, false));
    let id = host.sandbox(spec).await;
    assert_eq!(host.says(&id, "cat /srv/host/below/b").await, "odd");
    host.says(&id, "echo of the sandbox > /srv/host/new").await;
    let (status, _) = host.sh(&id, "echo x > /srv/host/below/new").await;
    assert!(!status.success());
    let new = std::fs::read_to_string(place.path().join("new")).unwrap();
    assert_eq!(new, "of the sandbox\n");
    assert!(!odd.join("new").exists());
    host.end(&[&id]).await;
}

#[tokio::test]
async fn volumes_are_the_stores_own_and_everybody_inside_writes_them() {
    let Some(host) = Host::open().await else {
        return;
    };
    let id = host.sandbox(of_volume("data", true)).await;
    let (status, said) = host.sh_as(&id, "1000", "echo kept > /srv/volume/a").await;
    assert_eq!(status, ExitStatus::Code { code: 0 }, "{said}");
    host.says(&id, "chmod 700 /srv/volume").await;
    host.provider.destroy(&cx(), &id).await.unwrap();
    assert_eq!(host.held().await.len(), 1, "the volume alone");

    // What somebody has set stays, and so does the content.
    let id = host.sandbox(of_volume("data", true)).await;
    assert_eq!(
        host.says(&id, "stat -c %a /srv/volume; cat /srv/volume/a")
            .await,
        "700\nkept"
    );

    // The same name in another store is another volume.
    let other = Host::open().await.unwrap();
    let there = other.sandbox(of_volume("data", true)).await;
    assert_eq!(other.says(&there, "ls -A /srv/volume").await, "");
    other.provider.destroy(&cx(), &there).await.unwrap();
    let all = TidyRequest {
        volumes: true,
        ..TidyRequest::default()
    };
    let tidied = other.provider.tidy(&cx(), &all).await.unwrap();
    assert_eq!(tidied.gone.len(), 1, "{tidied:?}");
    other.end(&[]).await;

    // One that is used stays; a dry run removes nothing.
    let use_ = host.provider.disk_use(&cx()).await.unwrap();
    let kinds: Vec<_> = use_
        .iter()
        .map(|u| (u.kind.as_str(), u.name.as_str()))
        .collect();
    assert_eq!(kinds, [("sandbox", id.as_str()), ("volume", "data")]);
    assert!(
        host.provider
            .tidy(&cx(), &all)
            .await
            .unwrap()
            .gone
            .is_empty()
    );
    host.provider.destroy(&cx(), &id).await.unwrap();
    let dry = TidyRequest {
        dry_run: true,
        ..only(&["data"])
    };
    assert_eq!(host.provider.tidy(&cx(), &dry).await.unwrap().gone.len(), 1);
    assert!(
        host.provider
            .tidy(&cx(), &only(&["other"]))
            .await
            .unwrap()
            .gone
            .is_empty()
    );
    assert_eq!(host.held().await.len(), 1);
    assert_eq!(
        host.provider
            .tidy(&cx(), &only(&["data"]))
            .await
            .unwrap()
            .gone
            .len(),
        1
    );

    // Somebody else's volume of that name is not touched.
    let name = format!("stacyvm-{}-data", host.instance);
    host.docker(&["volume", "create", &name]).await;
    let error = host.refused(of_volume("data", true)).await;
    assert_eq!(error.kind(), ErrorKind::Conflict, "{error}");
    assert_eq!(error.fact("field"), Some("mounts[0].source.volume"));
    host.docker(&["volume", "rm", &name]).await;
    host.end(&[]).await;
}

/// The engine over TCP, as one of another host is reached.
async fn over_tcp(engine: &str) -> String {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    let socket: Arc<str> = engine.strip_prefix("unix://").unwrap().into();
    tokio::spawn(async move {
        while let Ok((mut near, _)) = listener.accept().await {
            let socket = Arc::clone(&socket);
            tokio::spawn(async move {
                let mut far = UnixStream::connect(&*socket).await.unwrap();
                let _ = tokio::io::copy_bidirectional(&mut near, &mut far).await;
            });
        }
    });
    format!("tcp://{address}")
}

#[tokio::test]
async fn an_engine_that_is_reached_by_network_mounts_and_publishes_nothing() {
    let Some(host) = Host::open().await else {
        return;
    };
    let config = DockerConfig::new(host.state.path(), InstanceId::random());
    let config = config.host(over_tcp(&host.engine).await);
    let remote = Arc::new(DockerProvider::open(config).await.unwrap());
    let can = remote.capabilities();
    assert!(!can.mount_host && !can.mount_volume && !can.publish_ports && !can.endpoint);
    assert!(can.network_full);
    let host = Host {
        provider: remote,
        ..host
    };
    let place = directory();
    let mut ports = SandboxSpec::image(IMAGE).network(Network::Full);
    ports.ports.push(Port { guest: 80, host: 0 });
    for (spec, field) in [
        (of_host(place.path(), false), "mounts"),
        (of_volume("data", true), "mounts"),
        (ports, "ports"),
    ] {
        let error = host.refused(spec).await;
        assert_eq!(error.kind(), ErrorKind::Unsupported);
        assert_eq!(error.fact("field"), Some(field));
        assert!(error.to_string().contains("reached by network"), "{error}");
    }
    host.end(&[]).await;
}
