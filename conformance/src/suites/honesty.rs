//! What is claimed is observed, and what is not is refused.

use std::time::Duration;

use stacyvm::id::SnapshotId;
use stacyvm::sandbox::spec::{Mount, MountSource, Network, Privileges, SandboxSpec};
use stacyvm::{ErrorKind, ExitStatus};

use super::cases;
use super::common::spec_declined;
use crate::case::{Case, Checked, Failure, Level};
use crate::fixture::{Fixture, refused};
use crate::{ensure, ensure_eq};

pub(super) const CASES: &[Case] = cases! {
    Must "honesty.the_provider_names_itself" [] => names;
    Must "honesty.claims_do_not_change" [] => claims_stay;
    Must "honesty.the_probe_tells_what_it_found" [] => probe;
    Must "honesty.a_limit_of_memory_is_in_force" ["E3.4"] needs(MEMORY) else memory_declined => memory;
    Must "honesty.lack_of_memory_is_told_apart" ["E3.4"] needs(MEMORY, OOM) => out_of_memory;
    Must "honesty.a_limit_of_processes_is_in_force" [] needs(PIDS) else pids_declined => pids;
    Must "honesty.a_limit_of_processors_is_in_force" [] needs(CPUS) else cpus_declined => cpus;
    Must "honesty.a_limit_of_open_files_is_in_force" [] needs(OPEN_FILES) else open_files_declined => open_files;
    Must "honesty.a_limit_of_the_disk_is_in_force" [] needs(DISK) else disk_declined => disk;
    Must "honesty.without_a_network_there_is_none" [] needs(NETWORK_NONE) => network_none;
    Must "honesty.a_network_that_is_not_to_be_had_is_refused" [] needs(NETWORK_FULL) else network_declined => network_full;
    Must "honesty.host_directories_are_mounted" [] needs(MOUNT_TMPFS) else tmpfs_declined => tmpfs;
    Must "honesty.a_root_that_cannot_be_written" [] needs(READ_ONLY) else read_only_declined => read_only;
    Must "honesty.privileges_that_are_not_to_be_had_are_refused" [] needs(NAMESPACED_ROOT) else root_declined => namespaced_root;
    Must "honesty.snapshots_are_refused_where_there_are_none" [] needs(SNAPSHOT) else snapshot_declined => snapshot;
    Must "honesty.processes_are_listed" [] needs(PROCESSES) else processes_declined => processes;
    Must "honesty.stacyvm_s_own_processes_are_left_out" [] needs(PROCESSES) => own_left_out;
    Must "honesty.usage_is_told" [] needs(USAGE) else usage_declined => usage;
    Must "honesty.an_unknown_option_is_refused" [] => unknown_option;
    Must "honesty.set_id_gives_no_rights" [] needs(NO_NEW_PRIVILEGES) => no_new_privileges;
};

async fn names(f: &Fixture) -> Checked {
    let info = f.provider().info();
    ensure!(!info.name.is_empty(), "no name");
    ensure!(!info.runtime.is_empty(), "no runtime");
    Ok(())
}

async fn claims_stay(f: &Fixture) -> Checked {
    let before = f.claims();
    f.sandbox().await?;
    ensure!(before == f.claims(), "the claims changed with a sandbox");
    Ok(())
}

async fn probe(f: &Fixture) -> Checked {
    let probe = f.provider().probe(f.context()).await?;
    ensure!(
        probe.usable,
        "a create is not expected to succeed: {probe:?}"
    );
    let silent = probe
        .findings
        .iter()
        .find(|one| !one.fine && one.remedy.is_empty());
    ensure!(silent.is_none(), "a finding has no remedy: {silent:?}");
    f.sandbox().await?;
    Ok(())
}

async fn effective(f: &Fixture, spec: SandboxSpec, name: &str) -> Checked<stacyvm::Sandbox> {
    let sandbox = f.make(spec).await?;
    let seen = f.provider().inspect(f.context(), sandbox.id()).await?;
    ensure!(
        seen.effective.contains_key(name),
        "{name} is not told to be in force: {seen:?}"
    );
    Ok(sandbox)
}

async fn memory(f: &Fixture) -> Checked {
    effective(f, f.spec().memory_mib(64), "memory_limit").await?;
    Ok(())
}

async fn memory_declined(f: &Fixture) -> Checked {
    spec_declined(f, f.spec().memory_mib(64), "a limit of memory").await
}

async fn out_of_memory(f: &Fixture) -> Checked {
    let sandbox = f.make(f.spec().memory_mib(64)).await?;
    let exec = sandbox
        .exec(["tail", "/dev/zero"])
        .timeout(Duration::from_secs(30));
    let output = exec.output().await?;
    ensure_eq!(
        output.status,
        ExitStatus::OutOfMemory,
        "the end of one that takes all memory"
    );
    f.shell(&sandbox, "true").await?;
    let output = sandbox.shell("kill -9 $$").output().await?;
    ensure_eq!(
        output.status,
        ExitStatus::Signal { signal: 9 },
        "the end of one that was killed"
    );
    Ok(())
}

async fn pids(f: &Fixture) -> Checked {
    let sandbox = effective(f, f.spec().pids(24), "pids_limit").await?;
    let line = "n=0; while [ $n -lt 60 ]; do sleep 2 & n=$((n+1)); done; echo all";
    let exec = sandbox.shell(line).timeout(Duration::from_secs(20));
    let output = exec.output().await?;
    let all = output.stdout_text().contains("all") && output.stderr.is_empty();
    ensure!(!all, "60 processes were started where 24 are allowed");
    Ok(())
}

async fn pids_declined(f: &Fixture) -> Checked {
    spec_declined(f, f.spec().pids(24), "a limit of processes").await
}

async fn cpus(f: &Fixture) -> Checked {
    effective(f, f.spec().cpus(0.5), "cpu_limit").await?;
    Ok(())
}

async fn cpus_declined(f: &Fixture) -> Checked {
    spec_declined(f, f.spec().cpus(0.5), "a limit of processors").await
}

async fn open_files(f: &Fixture) -> Checked {
    let mut spec = f.spec();
    spec.resources.open_files = Some(77);
    let sandbox = f.make(spec).await?;
    let output = f.shell(&sandbox, "ulimit -n; ulimit -Hn").await?;
    ensure_eq!(output.stdout_text(), "77\n77\n", "the limits of open files");
    Ok(())
}

async fn open_files_declined(f: &Fixture) -> Checked {
    let mut spec = f.spec();
    spec.resources.open_files = Some(77);
    spec_declined(f, spec, "a limit of open files").await
}

async fn disk(f: &Fixture) -> Checked {
    let mut spec = f.spec();
    spec.resources.disk_mib = Some(16);
    let sandbox = f.make(spec).await?;
    let line = "head -c 64000000 /dev/zero > /tmp/big";
    let output = sandbox.shell(line).output().await?;
    ensure!(
        !output.status.success(),
        "64 MB were written where 16 MiB are allowed"
    );
    f.shell(&sandbox, "rm -f /tmp/big; echo x > /tmp/small")
        .await?;
    Ok(())
}

async fn disk_declined(f: &Fixture) -> Checked {
    let mut spec = f.spec();
    spec.resources.disk_mib = Some(16);
    spec_declined(f, spec, "a limit of the disk").await
}

async fn network_none(f: &Fixture) -> Checked {
    let mut spec = f.spec();
    spec.network = Some(Network::None);
    let sandbox = f.make(spec).await?;
    let output = f.shell(&sandbox, "cat /proc/net/route").await?;
    let routes = output.stdout_text().lines().skip(1).count();
    ensure_eq!(routes, 0, "how many routes there are");
    let output = f.shell(&sandbox, "cat /proc/net/dev").await?;
    let text = output.stdout_text();
    let others = text
        .lines()
        .skip(2)
        .filter(|line| !line.trim_start().starts_with("lo:"));
    ensure_eq!(others.count(), 0, "how many interfaces there are beside lo");
    Ok(())
}

async fn network_full(f: &Fixture) -> Checked {
    let mut spec = f.spec();
    spec.network = Some(Network::Full);
    let sandbox = f.make(spec).await?;
    f.shell(&sandbox, "true").await?;
    Ok(())
}

async fn network_declined(f: &Fixture) -> Checked {
    let mut spec = f.spec();
    spec.network = Some(Network::Full);
    spec_declined(f, spec, "a full network").await
}

fn with_tmpfs(f: &Fixture) -> SandboxSpec {
    let mut spec = f.spec();
    spec.mounts.push(Mount {
        target: "/mnt".to_owned(),
        source: MountSource::Tmpfs { size_mib: 8 },
        writable: true,
        size_mib: None,
    });
    spec
}

async fn tmpfs(f: &Fixture) -> Checked {
    let sandbox = f.make(with_tmpfs(f)).await?;
    f.shell(&sandbox, "echo x > /mnt/a").await?;
    let line = "head -c 32000000 /dev/zero > /mnt/big";
    let output = sandbox.shell(line).output().await?;
    ensure!(
        !output.status.success(),
        "32 MB were written where 8 MiB are allowed"
    );
    Ok(())
}

async fn tmpfs_declined(f: &Fixture) -> Checked {
    spec_declined(f, with_tmpfs(f), "a file system in memory").await
}

async fn read_only(f: &Fixture) -> Checked {
    let mut spec = f.spec();
    spec.read_only_root = true;
    let sandbox = f.make(spec).await?;
    let output = sandbox.shell("echo x > /etc/new").output().await?;
    ensure!(!output.status.success(), "the root was written");
    Ok(())
}

async fn read_only_declined(f: &Fixture) -> Checked {
    let mut spec = f.spec();
    spec.read_only_root = true;
    spec_declined(f, spec, "a root that cannot be written").await
}

async fn namespaced_root(f: &Fixture) -> Checked {
    let mut spec = f.spec();
    spec.privileges = Privileges::NamespacedRoot;
    let sandbox = f.make(spec).await?;
    let output = sandbox.exec(["id", "-u"]).user("root").output().await?;
    ensure_eq!(output.stdout_text(), "0\n", "root's number");
    Ok(())
}

async fn root_declined(f: &Fixture) -> Checked {
    let mut spec = f.spec();
    spec.privileges = Privileges::NamespacedRoot;
    spec_declined(f, spec, "a root of the sandbox").await
}

async fn snapshot(f: &Fixture) -> Checked {
    let sandbox = f.sandbox().await?;
    let id = SnapshotId::random();
    let made = f
        .provider()
        .snapshot(f.context(), sandbox.id(), &id)
        .await?;
    ensure_eq!(made.id, id, "the id of the snapshot");
    f.provider().delete_snapshot(f.context(), &id).await?;
    f.provider().delete_snapshot(f.context(), &id).await?;
    f.shell(&sandbox, "true").await?;
    Ok(())
}

async fn snapshot_declined(f: &Fixture) -> Checked {
    let sandbox = f.sandbox().await?;
    let id = SnapshotId::random();
    let made = f.provider().snapshot(f.context(), sandbox.id(), &id).await;
    refused(made, &[ErrorKind::Unsupported], "a snapshot")?;
    f.shell(&sandbox, "true").await?;
    Ok(())
}

async fn processes(f: &Fixture) -> Checked {
    let sandbox = f.sandbox().await?;
    let running = sandbox.exec(["sleep", "61.5"]).start().await?;
    let all = sandbox.processes().await?;
    let found = all.iter().find(|p| p.argv.iter().any(|a| a == "61.5"));
    let Some(found) = found else {
        return Err(Failure::broken(format!(
            "`sleep 61.5` is not among {all:?}"
        )));
    };
    if let Some(exec) = &found.exec {
        ensure_eq!(exec.as_str(), running.id().as_str(), "its command");
    }
    Ok(())
}

async fn own_left_out(f: &Fixture) -> Checked {
    let sandbox = f.sandbox().await?;
    let all = sandbox.processes().await?;
    let own = all
        .iter()
        .find(|p| p.argv.iter().any(|a| a.contains("stacyvm")));
    ensure!(
        own.is_none(),
        "a process of stacyvm's own is listed: {own:?}"
    );
    Ok(())
}

async fn processes_declined(f: &Fixture) -> Checked {
    let sandbox = f.sandbox().await?;
    let all = f.provider().processes(f.context(), sandbox.id()).await;
    refused(all, &[ErrorKind::Unsupported], "a list of processes")?;
    Ok(())
}

async fn usage(f: &Fixture) -> Checked {
    let sandbox = f.sandbox().await?;
    let usage = sandbox.usage().await?;
    let told = [usage.memory_bytes, usage.cpu_us, usage.disk_bytes];
    ensure!(
        told.iter().any(Option::is_some) || usage.processes.is_some(),
        "nothing is told of what it uses"
    );
    Ok(())
}

async fn usage_declined(f: &Fixture) -> Checked {
    let sandbox = f.sandbox().await?;
    let usage = f.provider().usage(f.context(), sandbox.id()).await;
    refused(usage, &[ErrorKind::Unsupported], "usage")?;
    Ok(())
}

async fn unknown_option(f: &Fixture) -> Checked {
    let mut spec = f.spec();
    spec.provider_options
        .insert("nosuchprovider".to_owned(), serde_json::json!({"a": 1}));
    // Options of another provider are not this one's to judge.
    if let Ok(sandbox) = f.try_make(spec).await {
        f.shell(&sandbox, "true").await?;
    }
    let json = r#"{"source": {"image": "host"}, "no_such_field": 1}"#;
    ensure!(
        serde_json::from_str::<SandboxSpec>(json).is_err(),
        "a spec with an unknown field was read"
    );
    Ok(())
}

async fn no_new_privileges(f: &Fixture) -> Checked {
    let sandbox = f.sandbox().await?;
    let output = f.shell(&sandbox, "cat /proc/self/status").await?;
    let text = output.stdout_text();
    let line = text.lines().find(|line| line.starts_with("NoNewPrivs:"));
    ensure_eq!(line, Some("NoNewPrivs:\t1"), "what the kernel says");
    Ok(())
}
