//! Disks that are full: the one of the state directory, and the engine's.

use std::fs::{self, File};
use std::io::Write;
use std::path::Path;
use std::process::Command;

use stacyvm::Context;
use stacyvm::engine::Filter;
use stacyvm::error::ErrorKind;
use stacyvm::id::{InstanceId, SandboxId, TenantId};
use stacyvm::provider::{CreateRequest, Provider, Secrets};
use stacyvm::providers::docker::{DockerConfig, DockerProvider};
use stacyvm::sandbox::spec::Lifetime;

use super::machine::{Machine, Options};
use super::residue::Watch;
use super::{create, eventually, open, soon, spec, works};

/// Writes until there is no room for another byte.
fn fill(path: &Path) {
    let mut file = File::create(path).unwrap();
    let mut size = 1 << 20;
    while size > 0 {
        match file.write(&vec![0; size]) {
            Ok(written) if written > 0 => {}
            _ => size /= 2,
        }
    }
}

struct Small(std::path::PathBuf);

impl Small {
    fn mount(at: &Path) -> Self {
        fs::create_dir(at).unwrap();
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", "mode=0700,size=8m", "none"]);
        assert!(mount.arg(at).status().unwrap().success());
        Self(at.to_owned())
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("--lazy").arg(&self.0).status();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn volumes_of_the_agent_may_be_pruned() {
    let Some(machine) = Machine::start("prune", Options::default()) else {
        return;
    };
    let place = tempfile::tempdir().unwrap();
    let engine = open(&place.path().join("state"), &machine.host).await;
    for _ in 0..3 {
        let sandbox = soon(create(&engine, Lifetime::Detached)).await.unwrap();
        works(&sandbox).await;
        sandbox.kill().await.unwrap();
        let mut prune = Command::new("docker");
        prune.args(["-H", &machine.host, "volume", "prune", "--force"]);
        let pruned = prune.output().unwrap();
        let said = String::from_utf8(pruned.stdout).unwrap();
        assert!(said.contains("stacyvm-agent-"), "{said}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn of_the_state_directory() {
    let Some(machine) = Machine::start("disks", Options::default()) else {
        return;
    };
    let place = tempfile::tempdir().unwrap();
    let disk = Small::mount(&place.path().join("disk"));
    let state = disk.0.join("state");
    let filler = disk.0.join("filler");
    let engine = open(&state, &machine.host).await;
    let living = soon(create(&engine, Lifetime::Detached)).await.unwrap();
    let watch = Watch::begin(&machine, &state).await;

    fill(&filler);
    let error = soon(create(&engine, Lifetime::Detached)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NoSpace, "{error:?}");
    works(&living).await;
    watch.nothing_changed(&machine, &state).await;

    // The provider itself, of which the store keeps the engine from being asked.
    fs::remove_file(&filler).unwrap();
    let own = disk.0.join("own");
    let instance = InstanceId::random();
    let config = DockerConfig::new(&own, instance.clone()).host(&machine.host);
    let provider = DockerProvider::open(config).await.unwrap();
    let cx = Context::new(TenantId::default());
    let request = |id| CreateRequest {
        id,
        instance: instance.clone(),
        spec: spec(Lifetime::Detached),
        open_files_preferred: false,
        ends: None,
        secrets: Secrets::default(),
        waits: false,
    };
    fill(&filler);
    let id = SandboxId::random();
    let error = soon(provider.create(&cx, &request(id.clone())))
        .await
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NoSpace, "{error:?}");
    watch.nothing_changed(&machine, &state).await;
    fs::remove_file(&filler).unwrap();
    soon(provider.create(&cx, &request(id.clone())))
        .await
        .unwrap();
    // What has to be taken away can be, without any room.
    fill(&filler);
    soon(provider.destroy(&cx, &id)).await.unwrap();
    watch.nothing_changed(&machine, &state).await;

    fs::remove_file(&filler).unwrap();
    engine.reconcile().await.unwrap();
    assert_eq!(engine.list(Filter::default()).await.unwrap().len(), 1);
    living.kill().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn of_the_engine() {
    let options = Options {
        data_mib: Some(48),
        ..Options::default()
    };
    let Some(machine) = Machine::start("diske", options) else {
        return;
    };
    let place = tempfile::tempdir().unwrap();
    let state = place.path().join("state");
    let engine = open(&state, &machine.host).await;
    let filler = machine.data().join("filler");

    // Neither the agent's volume nor a container of it.
    let watch = Watch::begin(&machine, &state).await;
    fill(&filler);
    let error = soon(create(&engine, Lifetime::Detached)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NoSpace, "{error:?}");
    fs::remove_file(&filler).unwrap();
    let mut left = std::collections::BTreeSet::new();
    let gone = eventually(async || {
        left = watch.changed(&machine, &state).await;
        // The volume itself is for all, and is filled by the next create.
        left.retain(|what| {
            let volume = what.contains("volume") && what.contains("stacyvm-agent-");
            !volume || what.ends_with("-fill")
        });
        left.is_empty()
    });
    assert!(gone.await, "{left:#?}");

    let living = soon(create(&engine, Lifetime::Detached)).await.unwrap();
    let watch = Watch::begin(&machine, &state).await;
    fill(&filler);
    let error = soon(create(&engine, Lifetime::Detached)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NoSpace, "{error:?}");
    // Commands go on, and are told.
    works(&living).await;
    let files = living.files();
    let error = soon(files.write("/workspace/file", vec![7; 1 << 20]))
        .await
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NoSpace, "{error:?}");
    fs::remove_file(&filler).unwrap();
    watch.nothing_changed(&machine, &state).await;
    fill(&filler);
    soon(living.kill()).await.unwrap();
    fs::remove_file(&filler).unwrap();
    assert!(engine.list(Filter::default()).await.unwrap().is_empty());
}
