//! Disks that are full: the host's below the state directory, and a sandbox's own.

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

use stacyvm::engine::Filter;
use stacyvm::sandbox::spec::Lifetime;
use stacyvm::sandbox::state::Phase;
use stacyvm::{ErrorKind, SandboxSpec};

use super::common::residue::Watch;
use super::common::soon;
use super::{ground, open, works};

/// A small file system with a state directory on it.
struct Small {
    _alone: tokio::sync::MutexGuard<'static, ()>,
    place: tempfile::TempDir,
}

impl Small {
    /// `None`, and a word about it, where the embedded provider cannot run.
    async fn mount(options: &str) -> Option<Self> {
        if !rustix::process::geteuid().is_root() {
            eprintln!("not run: the embedded provider needs root");
            return None;
        }
        let alone = super::ALONE.lock().await;
        let place = tempfile::tempdir().unwrap();
        let status = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &format!("mode=0700,{options}"), "none"])
            .arg(place.path())
            .status()
            .unwrap();
        assert!(status.success());
        Some(Self {
            _alone: alone,
            place,
        })
    }

    fn state(&self) -> PathBuf {
        self.place.path().join("state")
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        // A failed test may still use it.
        let _ = Command::new("umount")
            .arg("--lazy")
            .arg(self.place.path())
            .status();
    }
}

/// Fills the disk to the last page, then gives some pages back.
pub(super) fn fill(path: &Path, free_pages: u64) {
    let mut file = File::options()
        .create(true)
        .append(true)
        .open(path)
        .unwrap();
    let page = [1; 4096];
    while file.write_all(&page).is_ok() {}
    let length = file.metadata().unwrap().len() / 4096;
    file.set_len(length.saturating_sub(free_pages) * 4096)
        .unwrap();
}

/// A create on a nearly full disk works or says that the disk is full, and
/// leaves nothing in either case.
async fn create_or_no_space(engine: &stacyvm::Engine, watch: &Watch, room: &str) -> bool {
    let created = soon(async { engine.create(SandboxSpec::host()).await }).await;
    let works = match created {
        Ok(sandbox) => {
            soon(sandbox.kill()).await.unwrap();
            true
        }
        Err(error) => {
            assert_eq!(error.kind(), ErrorKind::NoSpace, "{room}: {error:?}");
            false
        }
    };
    let left = watch.left_at_once().await;
    assert!(left.is_empty(), "{room}: {left:#?}");
    works
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_state_directory_is_told_and_leaves_nothing() {
    let Some(small) = Small::mount("size=8m").await else {
        return;
    };
    let watch = Watch::begin(&small.state());
    let engine = open(&small.state()).await;
    assert!(create_or_no_space(&engine, &watch, "empty").await);
    let filler = small.place.path().join("filler");
    let mut refused = 0;
    for pages in 0..24 {
        fill(&filler, pages);
        let room = format!("{pages} free pages");
        refused += u32::from(!create_or_no_space(&engine, &watch, &room).await);
    }
    assert!(refused > 0, "it was never full");
    std::fs::remove_file(filler).unwrap();
    engine.reconcile().await.unwrap();
    assert!(engine.list(Filter::default()).await.unwrap().is_empty());
    assert!(create_or_no_space(&engine, &watch, "emptied").await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_state_directory_without_inodes_is_told_and_leaves_nothing() {
    let Some(small) = Small::mount("nr_inodes=200").await else {
        return;
    };
    let watch = Watch::begin(&small.state());
    let engine = open(&small.state()).await;
    assert!(create_or_no_space(&engine, &watch, "empty").await);
    let mut fillers = Vec::new();
    loop {
        let path = small.place.path().join(format!("filler-{}", fillers.len()));
        match File::create(&path) {
            Ok(_) => fillers.push(path),
            Err(_) => break,
        }
    }
    let mut refused = 0;
    for free in 0..30 {
        let room = format!("{free} free inodes");
        refused += u32::from(!create_or_no_space(&engine, &watch, &room).await);
        std::fs::remove_file(fillers.pop().unwrap()).unwrap();
    }
    assert!(refused > 0, "it was never full");
    assert!(create_or_no_space(&engine, &watch, "emptied").await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sandbox_can_be_ended_when_the_disk_is_full() {
    let Some(small) = Small::mount("size=8m").await else {
        return;
    };
    let watch = Watch::begin(&small.state());
    let engine = open(&small.state()).await;
    let sandbox = engine
        .create(SandboxSpec::host().lifetime(Lifetime::Detached))
        .await
        .unwrap();
    let output = soon(
        sandbox
            .shell("cat /dev/zero >/workspace/file; echo $?")
            .output(),
    )
    .await
    .unwrap();
    assert!(output.stderr_text().contains("No space left on device"));
    works(&sandbox).await;
    fill(&small.place.path().join("filler"), 0);
    soon(sandbox.kill()).await.unwrap();
    let left = watch.left_at_once().await;
    assert!(left.is_empty(), "{left:#?}");
    assert!(engine.list(Filter::default()).await.unwrap().is_empty());
    // The record follows once there is room.
    std::fs::remove_file(small.place.path().join("filler")).unwrap();
    engine.reconcile().await.unwrap();
    assert_eq!(sandbox.info().await.unwrap().phase, Phase::Ended);
}

#[tokio::test]
async fn a_disk_limit_binds_inside_and_frees_its_device() {
    let Some(ground) = ground().await else { return };
    let spec = SandboxSpec::host()
        .disk_mib(16)
        .lifetime(Lifetime::Attached);
    let sandbox = match ground.engine.create(spec).await {
        Err(error) if error.kind() == ErrorKind::Unsupported => {
            eprintln!("not run: {error}");
            return;
        }
        made => made.unwrap(),
    };
    let devices = |left: std::collections::BTreeSet<String>| {
        left.iter().filter(|what| what.starts_with("loop")).count()
    };
    assert_eq!(devices(ground.watch.left()), 1);
    let line = "head -c 64M /dev/zero >/workspace/file; stat -c %s /workspace/file";
    let output = soon(sandbox.shell(line).output()).await.unwrap();
    assert!(
        output.stderr_text().contains("No space left on device"),
        "{}",
        output.stderr_text()
    );
    let written: u64 = output.stdout_text().trim().parse().unwrap();
    assert!(written <= 16 << 20, "{written}");
    // There is room again once something goes.
    let line = "rm /workspace/file && echo x >/workspace/other && cat /workspace/other";
    let output = soon(sandbox.shell(line).output()).await.unwrap();
    assert_eq!(output.stdout_text(), "x\n");
    soon(sandbox.kill()).await.unwrap();
    let left = ground.watch.left_at_once().await;
    assert!(left.is_empty(), "{left:#?}");
}

#[tokio::test]
async fn a_killed_helper_leaves_no_loop_device() {
    let Some(ground) = ground().await else { return };
    let spec = SandboxSpec::host()
        .disk_mib(16)
        .lifetime(Lifetime::Detached);
    let sandbox = match ground.engine.create(spec).await {
        Err(error) if error.kind() == ErrorKind::Unsupported => {
            eprintln!("not run: {error}");
            return;
        }
        made => made.unwrap(),
    };
    let (_, helper) = super::processes_of(&sandbox).await;
    super::signal(helper, rustix::process::Signal::KILL);
    ground.engine.reconcile().await.unwrap();
    soon(sandbox.kill()).await.unwrap();
    ground.watch.nothing_left().await;
}
