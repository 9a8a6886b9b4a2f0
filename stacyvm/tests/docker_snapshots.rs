//! Snapshots of the Docker provider, on a real engine with runc and, where its disk is
//! saved, with gVisor.
#![cfg(all(target_os = "linux", feature = "docker", feature = "image"))]
#![allow(
    clippy::unwrap_used,
    clippy::print_stderr,
    reason = "a test that panics has failed, and one that cannot run says why"
)]

#[path = "common/archive.rs"]
mod archive;
mod docker_common;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bollard::models::ContainerConfig;
use bollard::query_parameters::CommitContainerOptions;
use bytes::Bytes;
use docker_common::{Host, IMAGE, SOON, cx, eventually};
use futures_util::TryStreamExt as _;
use stacyvm::id::{SandboxId, SnapshotId, TenantId};
use stacyvm::provider::{CreateRequest, Provider, Reach, Secrets, SnapshotInfo, TidyRequest};
use stacyvm::sandbox::spec::{Lifetime, SandboxSpec, Source};
use stacyvm::sandbox::state::ObservedState;
use stacyvm::{Context, ErrorKind, ExecSpec, Result};

/// What snapshots of these tests are made of: with variables, an entrypoint and a label.
async fn image(host: &Host) -> String {
    let name = format!("stacyvm-test/saved:{}", host.instance);
    let container = host.sandbox(SandboxSpec::image(IMAGE)).await;
    let exported = format!("stacyvm-{container}");
    let root: Vec<Bytes> = host
        .docker
        .export_container(&exported)
        .try_collect()
        .await
        .unwrap();
    host.provider.destroy(&cx(), &container).await.unwrap();
    let changes = [
        "ENV PATH=/bin:/sbin OF_IMAGE=yes",
        "USER user",
        "WORKDIR /srv",
        "ENTRYPOINT [\"/bin/e\"]",
        "CMD [\"c\"]",
        "LABEL of.image=yes",
    ];
    host.import(&name, root.concat(), &changes).await;
    name
}

fn from(snapshot: &SnapshotId) -> SandboxSpec {
    let mut spec = SandboxSpec::image(IMAGE);
    spec.source = Source::Snapshot(snapshot.to_string());
    spec
}

async fn save(host: &Host, id: &SandboxId) -> Result<SnapshotInfo> {
    let (cx, snapshot) = (cx(), SnapshotId::random());
    let saved = host.provider.snapshot(&cx, id, &snapshot);
    let saved = tokio::time::timeout(SOON, saved).await.expect("hangs")?;
    assert_eq!(saved.id, snapshot);
    Ok(saved)
}

async fn delete(host: &Host, snapshot: &SnapshotId) {
    let deleted = host.provider.delete_snapshot(&cx(), snapshot).await;
    deleted.unwrap();
}

fn has(bytes: &[u8], part: &[u8]) -> bool {
    let (first, rest) = part.split_first().unwrap();
    let mut at = 0;
    while let Some(found) = bytes[at..].iter().position(|b| b == first) {
        at += found + 1;
        if bytes[at..].starts_with(rest) {
            return true;
        }
    }
    false
}

#[tokio::test]
async fn what_is_saved_is_the_disk_and_nothing_of_ours() {
    let Some(host) = Host::open().await else {
        return;
    };
    let image = image(&host).await;
    let spec = SandboxSpec::image(&image).env("VARIABLE", "hunter1-of-the-spec");
    let mut request = host.request(spec.label("team", "x"));
    request.secrets = Secrets::new(BTreeMap::from([("S".into(), "hunter3-secret".into())]));
    let id = host.make(&request).await;
    let line = "umask 027; mkdir -p d/e; echo content > d/e/f; ln -s e d/link; chmod 4750 d/e/f; \
                echo gone > /tmp/in-memory; test -n \"$S\" && echo $VARIABLE";
    let mut root = ExecSpec::shell("chmod 777 /srv");
    root.user = Some("0".into());
    let session = host.provider.exec(&cx(), &id, &root).await.unwrap();
    session.events.try_collect::<Vec<_>>().await.unwrap();
    assert_eq!(host.sh(&id, line).await, "hunter1-of-the-spec");

    let saved = save(&host, &id).await.unwrap();
    assert!(!saved.memory);
    let bytes = saved.size_bytes.unwrap();
    assert!(bytes < 1 << 20, "{bytes} bytes are not the sandbox's own");
    // What it ran under goes on, and on.
    assert_eq!(
        host.sh(&id, "cat d/e/f; echo later > d/e/f").await,
        "content"
    );
    let state = host.provider.inspect(&cx(), &id).await.unwrap().state;
    assert_eq!(state, ObservedState::Running);

    // All of the image, its own record and every layer of it.
    let exported = host
        .exported(&format!("stacyvm-snapshot:{}", saved.id))
        .await;
    assert!(
        has(&exported, b"content\n"),
        "the export has no layers to look at"
    );
    let ticket = host.state.path().join(format!("{id}.ticket"));
    let ticket: serde_json::Value =
        serde_json::from_slice(&std::fs::read(ticket).unwrap()).unwrap();
    let key = ticket["key"].as_str().unwrap();
    let raw: Vec<u8> = (0..key.len())
        .step_by(2)
        .map(|at| u8::from_str_radix(&key[at..at + 2], 16).unwrap())
        .collect();
    let agent = stacyvm_agent::AGENT;
    for (what, part) in [
        ("a variable of the spec", &b"hunter1"[..]),
        ("a secret", b"hunter3"),
        ("the key", key.as_bytes()),
        ("the key's bytes", &raw),
        ("the agent", &agent[agent.len() / 2..agent.len() / 2 + 256]),
        ("a memory file system", b"in-memory"),
        ("the agent's socket", b"agent.sock"),
    ] {
        assert!(!has(&exported, part), "{what} is in the snapshot");
    }

    host.provider.destroy(&cx(), &id).await.unwrap();
    let restored = host.sandbox(from(&saved.id)).await;
    let line = "cat d/e/f; stat -c '%a %u' d/e/f; readlink d/link; echo $OF_IMAGE-$VARIABLE-$S; \
                id -un; pwd; cat /etc/group | head -n 1; ls /tmp";
    let expected = "content\n4750 1000\ne\nyes--\nuser\n/srv\nroot:x:0:";
    assert_eq!(host.sh(&restored, line).await, expected);
    let seen = host.provider.inspect(&cx(), &restored).await.unwrap();
    assert_eq!(seen.effective["image_command"].value, r#"["/bin/e","c"]"#);
    let labels = host
        .docker
        .inspect_container(
            &format!("stacyvm-{restored}"),
            None::<bollard::query_parameters::InspectContainerOptions>,
        )
        .await
        .unwrap()
        .config
        .unwrap()
        .labels
        .unwrap();
    assert_eq!(labels["of.image"], "yes");
    assert_eq!(labels["stacyvm.sandbox"], restored.to_string());
    assert_eq!(labels.get("team").map(String::as_str), Some(""));

    // A snapshot of what was restored is one again.
    host.sh(&restored, "echo second > d/second").await;
    let second = save(&host, &restored).await.unwrap();
    host.provider.destroy(&cx(), &restored).await.unwrap();
    delete(&host, &saved.id).await;
    let again = host.sandbox(from(&second.id)).await;
    assert_eq!(
        host.sh(&again, "cat d/e/f d/second").await,
        "content\nsecond"
    );
    host.provider.destroy(&cx(), &again).await.unwrap();
    delete(&host, &second.id).await;
    // The first was kept by the second.
    sweep_old(&host).await;
    host.remove_image(&image).await;
    host.end(&[]).await;
}

/// What cannot be swept yet because of its age is taken away, so that tests leave nothing.
async fn sweep_old(host: &Host) {
    for id in host.held().await {
        host.remove_image(&id).await;
    }
}

#[tokio::test]
async fn a_snapshot_is_its_tenants_and_no_image() {
    let Some(host) = Host::open().await else {
        return;
    };
    let id = host.sandbox(SandboxSpec::image(IMAGE)).await;
    let saved = save(&host, &id).await.unwrap();
    let other = Context::new(TenantId::new("other").unwrap());
    let request = host.request(from(&saved.id));
    let error = host.provider.create(&other, &request).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound, "{error:?}");
    host.provider
        .delete_snapshot(&other, &saved.id)
        .await
        .unwrap();
    // Nor by its name, nor by its id, nor in another store.
    let name = format!("stacyvm-snapshot:{}", saved.id);
    let image = host.docker.inspect_image(&name).await.unwrap().id.unwrap();
    for name in [&name, &image] {
        let request = host.request(SandboxSpec::image(name));
        let error = host.provider.create(&cx(), &request).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::PermissionDenied, "{error:?}");
    }
    let elsewhere = Host::open().await.unwrap();
    let request = elsewhere.request(from(&saved.id));
    let error = elsewhere
        .provider
        .create(&cx(), &request)
        .await
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound, "{error:?}");
    delete(&elsewhere, &saved.id).await;
    let theirs = elsewhere.sandbox(SandboxSpec::image(IMAGE)).await;
    let taken = elsewhere.provider.snapshot(&cx(), &theirs, &saved.id).await;
    assert_eq!(taken.unwrap_err().kind(), ErrorKind::Conflict);
    elsewhere.end(&[&theirs]).await;

    // The same again is the same, and of another sandbox it is none.
    host.sh(&id, "echo later > /workspace/later").await;
    let again = host.provider.snapshot(&cx(), &id, &saved.id).await.unwrap();
    assert_eq!(again, saved);
    let restored = host.sandbox(from(&saved.id)).await;
    assert_eq!(host.sh(&restored, "ls /workspace").await, "");
    let taken = host.provider.snapshot(&cx(), &restored, &saved.id).await;
    assert_eq!(taken.unwrap_err().kind(), ErrorKind::Conflict);
    host.provider.destroy(&cx(), &restored).await.unwrap();
    delete(&host, &saved.id).await;
    host.end(&[&id]).await;
}

#[tokio::test]
async fn what_was_restored_goes_on_without_its_snapshot_and_takes_it_along() {
    let Some(host) = Host::open().await else {
        return;
    };
    let id = host.sandbox(SandboxSpec::image(IMAGE)).await;
    host.sh(&id, "echo saved > /workspace/a").await;
    let saved = save(&host, &id).await.unwrap();
    host.provider.destroy(&cx(), &id).await.unwrap();
    // A dead sandbox's snapshot is nobody's leftover.
    assert_eq!(
        host.provider.leftovers(&cx(), Reach::Own).await.unwrap(),
        []
    );
    let (one, two) = (
        host.sandbox(from(&saved.id)).await,
        host.sandbox(from(&saved.id)).await,
    );
    delete(&host, &saved.id).await;
    assert!(
        !host
            .has_image(&format!("stacyvm-snapshot:{}", saved.id))
            .await
    );
    assert_eq!(host.sh(&one, "cat /workspace/a").await, "saved");
    host.provider.destroy(&cx(), &one).await.unwrap();
    assert_eq!(host.sh(&two, "cat /workspace/a").await, "saved");
    let request = host.request(from(&saved.id));
    let error = host.provider.create(&cx(), &request).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound, "{error:?}");
    assert_eq!(error.fact("field"), Some("snapshot"));
    host.end(&[&two]).await;
}

#[tokio::test]
async fn one_that_is_paused_is_saved_and_stays_so_and_one_that_ended_is_not() {
    let Some(host) = Host::open().await else {
        return;
    };
    let id = host.sandbox(SandboxSpec::image(IMAGE)).await;
    host.sh(&id, "echo saved > /workspace/a").await;
    host.provider.pause(&cx(), &id).await.unwrap();
    let saved = save(&host, &id).await.unwrap();
    let state = host.provider.inspect(&cx(), &id).await.unwrap().state;
    assert_eq!(state, ObservedState::Paused);
    host.provider.resume(&cx(), &id).await.unwrap();
    assert_eq!(host.sh(&id, "cat /workspace/a").await, "saved");
    host.provider.destroy(&cx(), &id).await.unwrap();
    let error = save(&host, &id).await.unwrap_err();
    assert!(matches!(
        error.kind(),
        ErrorKind::NotFound | ErrorKind::SandboxGone
    ));
    let restored = host.sandbox(from(&saved.id)).await;
    assert_eq!(host.sh(&restored, "cat /workspace/a").await, "saved");
    delete(&host, &saved.id).await;
    host.end(&[&restored]).await;
}

#[tokio::test]
async fn an_attached_sandbox_outlives_a_save_that_is_longer_than_its_lease() {
    let lease = Duration::from_millis(1500);
    let Some(host) = Host::with(|config| config.lease(lease)).await else {
        return;
    };
    let spec = SandboxSpec::image(IMAGE).lifetime(Lifetime::Attached);
    let id = host.sandbox(spec).await;
    let line = "dd if=/dev/urandom of=/workspace/big bs=1M count=600 2>/dev/null; echo made";
    assert_eq!(host.sh(&id, line).await, "made");
    let begun = std::time::Instant::now();
    let saved = save(&host, &id).await.unwrap();
    let took = begun.elapsed();
    if took < 2 * lease {
        eprintln!("the save took {took:?}, no longer than the lease of {lease:?}");
    }
    assert_eq!(host.sh(&id, "sleep 3; echo lives").await, "lives");
    delete(&host, &saved.id).await;
    host.end(&[&id]).await;
}

#[tokio::test]
async fn a_snapshot_that_nobody_waits_for_leaves_nothing() {
    let Some(host) = Host::open().await else {
        return;
    };
    let id = host.sandbox(SandboxSpec::image(IMAGE)).await;
    host.sh(&id, "dd if=/dev/urandom of=/workspace/big bs=1M count=100")
        .await;
    let (provider, snapshot) = (Arc::clone(&host.provider), SnapshotId::random());
    let name = format!("stacyvm-snapshot:{snapshot}");
    let (of, wanted) = (id.clone(), snapshot.clone());
    let saving = tokio::spawn(async move { provider.snapshot(&cx(), &of, &wanted).await });
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert!(!saving.is_finished(), "too fast to be given up");
    saving.abort();
    let container = format!("/stacyvm-{id}");
    // It was begun, so it comes to be, and goes.
    tokio::time::sleep(Duration::from_secs(2)).await;
    eventually("nothing of it is left", async || {
        host.held().await == [container.clone()]
    })
    .await;
    assert!(!host.has_image(&name).await);
    assert_eq!(host.sh(&id, "echo lives").await, "lives");
    host.end(&[&id]).await;
}

#[tokio::test]
async fn what_a_process_that_died_left_is_told_and_swept_and_nothing_else() {
    let Some(host) = Host::open().await else {
        return;
    };
    let labels = |instance: &str| {
        serde_json::json!({
            "stacyvm.instance": instance, "stacyvm.tenant": "default",
            "stacyvm.sandbox": SandboxId::random(), "stacyvm.snapshot": SnapshotId::random(),
        })
    };
    let own = labels(host.instance.as_str());
    let mut near_miss = own.clone();
    near_miss
        .as_object_mut()
        .unwrap()
        .remove("stacyvm.snapshot");
    let old = load(&host, "2020-01-01T00:00:00Z", &own, None).await;
    let foreign = load(&host, "2020-01-02T00:00:00Z", &labels("other"), None).await;
    let decoy = load(&host, "2020-01-03T00:00:00Z", &near_miss, None).await;
    let named = format!("stacyvm-snapshot:{}", SnapshotId::random());
    let named_id = load(&host, "2020-01-04T00:00:00Z", &own, Some(&named)).await;
    // Somebody may be about to name this one.
    let container = host.sandbox(SandboxSpec::image(IMAGE)).await;
    let options = CommitContainerOptions {
        container: Some(format!("stacyvm-{container}")),
        ..CommitContainerOptions::default()
    };
    let config = ContainerConfig {
        labels: Some(serde_json::from_value(own.clone()).unwrap()),
        ..ContainerConfig::default()
    };
    let young = host
        .docker
        .commit_container(options, config)
        .await
        .unwrap()
        .id;
    host.provider.destroy(&cx(), &container).await.unwrap();

    let told = async |reach| {
        let all = host.provider.leftovers(&cx(), reach).await.unwrap();
        let all = all.into_iter().filter(|one| one.kind == "snapshot");
        all.map(|one| one.name).collect::<Vec<_>>()
    };
    let only = vec![old.clone()];
    assert_eq!(told(Reach::Own).await, only);
    let host_wide = told(Reach::Host).await;
    assert!(host_wide.contains(&foreign) && !host_wide.contains(&decoy));
    let tidy = async |dry_run| {
        let request = TidyRequest {
            dead: true,
            dry_run,
            ..TidyRequest::default()
        };
        let tidied = host.provider.tidy(&cx(), &request).await.unwrap();
        assert_eq!(tidied.failed, []);
        tidied
            .gone
            .into_iter()
            .map(|gone| gone.name)
            .collect::<Vec<_>>()
    };
    assert_eq!(tidy(true).await, only);
    assert!(host.has_image(&old).await);
    assert_eq!(tidy(false).await, only);
    assert!(!host.has_image(&old).await);
    assert_eq!(told(Reach::Own).await, Vec::<String>::new());
    // Another store's only by its id.
    for image in [&foreign, &decoy, &named_id, &young] {
        assert!(host.has_image(image).await, "{image} is gone");
    }
    let id = format!("snapshot:{foreign}");
    host.provider.remove_leftover(&cx(), &id).await.unwrap();
    assert!(!host.has_image(&foreign).await);
    for image in [&decoy, &named_id, &young] {
        host.remove_image(image).await;
    }
    host.end(&[]).await;
}

/// Has the engine load an image with these labels that was made then.
async fn load(host: &Host, at: &str, labels: &serde_json::Value, name: Option<&str>) -> String {
    let layer = archive::archive(&[("made", at.as_bytes())]);
    let hex = |bytes: &[u8]| stacyvm::image::Digest::of(bytes).hex();
    let config = serde_json::json!({
        "os": "linux", "architecture": "amd64", "created": at, "config": {"Labels": labels},
        "rootfs": {"type": "layers", "diff_ids": [format!("sha256:{}", hex(&layer))]},
    });
    let config = config.to_string().into_bytes();
    let id = hex(&config);
    let file = format!("{id}.json");
    let manifest = serde_json::json!([
        {"Config": file, "RepoTags": name.as_slice(), "Layers": ["layer.tar"]}
    ]);
    let manifest = manifest.to_string().into_bytes();
    let all = archive::archive(&[
        (file.as_str(), &config),
        ("layer.tar", &layer),
        ("manifest.json", &manifest),
    ]);
    let options = bollard::query_parameters::ImportImageOptions::default();
    let loaded = host
        .docker
        .import_image(options, bollard::body_full(Bytes::from(all)), None);
    loaded.try_collect::<Vec<_>>().await.unwrap();
    let id = format!("sha256:{id}");
    assert!(host.has_image(&id).await);
    id
}

#[tokio::test]
async fn volumes_of_an_image_are_no_part_of_a_snapshot_and_are_told() {
    let Some(host) = Host::open().await else {
        return;
    };
    let container = host.sandbox(SandboxSpec::image(IMAGE)).await;
    let exported = format!("stacyvm-{container}");
    let root = host.docker.export_container(&exported);
    let root: Vec<Bytes> = root.try_collect().await.unwrap();
    host.provider.destroy(&cx(), &container).await.unwrap();
    let name = format!("stacyvm-test/volume:{}", host.instance);
    host.import(&name, root.concat(), &["VOLUME /data", "ENV PATH=/bin"])
        .await;
    let id = host.sandbox(SandboxSpec::image(&name)).await;
    let container = format!("stacyvm-{id}");
    let volumes = host.docker.inspect_container(
        &container,
        None::<bollard::query_parameters::InspectContainerOptions>,
    );
    let volumes = volumes.await.unwrap().mounts.unwrap_or_default();
    let volumes = volumes.iter();
    let own = volumes
        .filter(|m| m.destination.as_deref() == Some("/data"))
        .count();
    match save(&host, &id).await {
        Err(error) => {
            assert_eq!(own, 1);
            assert_eq!(error.kind(), ErrorKind::Unsupported, "{error:?}");
            assert_eq!(error.fact("value"), Some("/data"));
        }
        // Where volumes of images are taken away nothing is missing.
        Ok(saved) => {
            assert_eq!(own, 0);
            delete(&host, &saved.id).await;
        }
    }
    host.provider.destroy(&cx(), &id).await.unwrap();
    host.remove_image(&name).await;
    host.end(&[]).await;
}

#[tokio::test]
async fn gvisor_is_saved_where_it_writes_to_the_disk_and_refused_elsewhere() {
    let Some(host) = Host::with(|config| config.runtime("runsc")).await else {
        return;
    };
    if !host.has("runsc-disk").await {
        return;
    }
    assert!(!host.provider.capabilities().snapshot_disk);
    let id = host.sandbox(SandboxSpec::image(IMAGE)).await;
    let error = save(&host, &id).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported, "{error:?}");
    assert!(error.fact("remedy").unwrap().contains("--overlay2=none"));
    let request: CreateRequest = host.request(from(&SnapshotId::random()));
    let error = host.provider.create(&cx(), &request).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported, "{error:?}");
    host.end(&[&id]).await;

    let host = Host::with(|config| config.runtime("runsc-disk"))
        .await
        .unwrap();
    assert!(host.provider.capabilities().snapshot_disk);
    let id = host.sandbox(SandboxSpec::image(IMAGE)).await;
    // Written and closed; held open; and larger than what is kept in memory for a moment.
    let line = "cd /workspace; echo closed > closed; dd if=/dev/urandom of=big bs=64k count=320 \
                2>/dev/null; md5sum big > sum; (exec 3> held; echo held >&3; exec sleep 600) & \
                sleep 1; cat held";
    assert_eq!(host.sh(&id, line).await, "held");
    let saved = save(&host, &id).await.unwrap();
    assert_eq!(host.sh(&id, "cat /workspace/closed").await, "closed");
    let restored = host.sandbox(from(&saved.id)).await;
    let line = "cd /workspace; cat closed held; md5sum -c sum; ls -A / | grep gvisor || echo none";
    assert_eq!(
        host.sh(&restored, line).await,
        "closed\nheld\nbig: OK\nnone"
    );
    let name = format!("stacyvm-snapshot:{}", saved.id);
    let image = host.docker.inspect_image(&name).await.unwrap().id.unwrap();
    delete(&host, &saved.id).await;
    assert!(host.has_image(&image).await);
    host.provider.destroy(&cx(), &restored).await.unwrap();
    assert!(!host.has_image(&image).await);
    host.end(&[&id]).await;
}
