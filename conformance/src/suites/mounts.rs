//! Directories of the host, memory file systems and volumes.

use std::path::{Path, PathBuf};

use stacyvm::provider::TidyRequest;
use stacyvm::sandbox::spec::{Mount, MountSource, SandboxSpec};
use stacyvm::{ErrorKind, Sandbox, SandboxId};

use super::cases;
use super::common::{make_or_not_run, run_as, spec_declined, spec_refused, users};
use crate::case::{Case, Checked, Failure, Level};
use crate::fixture::Fixture;
use crate::{ensure, ensure_eq};

pub(super) const CASES: &[Case] = cases! {
    Must "mounts.targets_that_make_no_sense_are_refused" ["L1.1"] => bad_targets;
    Must "mounts.a_host_directory_is_seen_as_it_is" ["S1.6"] needs(MOUNT_HOST) else host_declined => host_is_seen;
    Must "mounts.a_host_directory_is_not_written_unless_said" ["S1.6"] needs(MOUNT_HOST) => host_read_only;
    Must "mounts.a_writable_host_directory_is_written" ["S1.6" "S2.11"] needs(MOUNT_HOST) => host_writable;
    Must "mounts.links_in_a_host_directory_lead_nowhere_outside" ["S2.4"] needs(MOUNT_HOST) => host_links;
    Must "mounts.a_host_directory_outlives_its_sandbox" ["N1.20"] needs(MOUNT_HOST) => host_outlives;
    Must "mounts.a_host_directory_gives_no_devices_and_no_set_id" ["S2.11"] needs(MOUNT_HOST) => host_options;
    Must "mounts.what_is_no_directory_of_the_host_is_refused" ["S1.6"] needs(MOUNT_HOST) => not_a_directory;
    Must "mounts.a_memory_file_system_is_its_sandbox_s_own" ["L1.1"] needs(MOUNT_TMPFS) else tmpfs_declined => tmpfs_is_own;
    Must "mounts.a_target_that_is_missing_is_made" [] needs(MOUNT_TMPFS) => target_is_made;
    Must "mounts.one_in_another_is_seen" ["S1.8"] needs(MOUNT_TMPFS) => nested;
    Must "mounts.a_volume_outlives_its_sandbox" ["N1.11"] needs(MOUNT_VOLUME) else volume_declined => volume_outlives;
    Must "mounts.a_volume_is_shared_by_those_that_have_it" ["N1.11"] needs(MOUNT_VOLUME) => volume_is_shared;
    Must "mounts.a_volume_is_not_written_unless_said" [] needs(MOUNT_VOLUME) => volume_read_only;
    Must "mounts.a_size_of_a_volume_is_in_force" ["L1.11"] needs(MOUNT_VOLUME_SIZE) else size_declined => volume_size;
};

fn mount(target: &str, source: MountSource, writable: bool) -> Mount {
    Mount {
        target: target.to_owned(),
        source,
        writable,
        size_mib: None,
    }
}

fn tmpfs(target: &str) -> Mount {
    mount(target, MountSource::Tmpfs { size_mib: 8 }, true)
}

async fn bad_targets(f: &Fixture) -> Checked {
    for target in ["/", "srv", "/a/../b", "/a/./b", "/proc/x", "/sys", "/dev/x"] {
        let spec = f.spec().mount(tmpfs(target));
        let what = format!("a mount on {target}");
        let error = spec_refused(f, spec, &[ErrorKind::InvalidArgument], &what).await?;
        ensure_eq!(error.fact("field"), Some("mounts[0].target"), "the field");
    }
    let spec = f.spec().mount(tmpfs("/srv/a")).mount(tmpfs("/srv//a/"));
    let what = "two mounts on one target";
    let error = spec_refused(f, spec, &[ErrorKind::InvalidArgument], what).await?;
    ensure_eq!(error.fact("field"), Some("mounts[1].target"), "the field");
    Ok(())
}

/// A directory of the host that goes at the end.
struct HostDirectory(PathBuf);

impl HostDirectory {
    /// With a file `a` in it, for everybody.
    fn new() -> Checked<Self> {
        let name = format!("stacyvm-conformance-{}", SandboxId::random());
        let path = std::env::temp_dir().join(name);
        let made = std::fs::create_dir(&path);
        let directory = Self(path);
        made.and_then(|()| directory.fill()).map_err(|error| {
            let path = directory.0.display();
            Failure::NotRun(format!(
                "a directory of the host: {path} cannot be made: {error}"
            ))
        })?;
        Ok(directory)
    }

    fn fill(&self) -> std::io::Result<()> {
        std::fs::write(self.0.join("a"), "of the host")?;
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt;
            std::fs::set_permissions(&self.0, PermissionsExt::from_mode(0o777))?;
            std::fs::set_permissions(self.0.join("a"), PermissionsExt::from_mode(0o644))?;
        }
        Ok(())
    }

    fn spec(&self, f: &Fixture, writable: bool) -> SandboxSpec {
        let source = MountSource::Host(self.0.display().to_string());
        f.spec().mount(mount("/srv/host", source, writable))
    }

    fn names(&self) -> Vec<String> {
        let entries = std::fs::read_dir(&self.0).into_iter().flatten().flatten();
        let names = entries.filter_map(|entry| entry.file_name().into_string().ok());
        let mut names: Vec<String> = names.collect();
        names.sort();
        names
    }

    fn read(&self, name: &str) -> String {
        std::fs::read_to_string(self.0.join(name)).unwrap_or_default()
    }
}

impl Drop for HostDirectory {
    fn drop(&mut self) {
        // What is left is named, and lies among temporary files.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// Makes a sandbox with a directory of the host; not run where the policy of the
/// engine, or of a server behind the provider, lets none of this one's be mounted.
async fn host_or_not_run(f: &Fixture, spec: SandboxSpec) -> Checked<Sandbox> {
    let made = make_or_not_run(f, spec).await;
    made.map_err(|failure| match failure {
        Failure::Broken(text) if text.contains("policy.mount_roots") => Failure::NotRun(format!(
            "a directory that the policy lets be mounted (its roots have to hold the temporary directory): {text}"
        )),
        other => other,
    })
}

async fn host_is_seen(f: &Fixture) -> Checked {
    let host = HostDirectory::new()?;
    let sandbox = host_or_not_run(f, host.spec(f, false)).await?;
    let output = f.shell(&sandbox, "cat /srv/host/a").await?;
    ensure_eq!(output.stdout_text(), "of the host", "the file");
    // It is the directory, not a copy of what it was.
    std::fs::write(host.0.join("later"), "later")
        .map_err(|error| Failure::NotRun(format!("a second file on the host: {error}")))?;
    let output = f.shell(&sandbox, "cat /srv/host/later").await?;
    ensure_eq!(output.stdout_text(), "later", "the file that came later");
    let shown = sandbox.info().await?.mounts;
    ensure_eq!(shown.len(), 1, "the mounts that are shown");
    Ok(())
}

async fn host_declined(f: &Fixture) -> Checked {
    let host = HostDirectory::new()?;
    spec_declined(f, host.spec(f, false), "a host directory").await?;
    ensure_eq!(host.names(), ["a"], "what is in the directory");
    Ok(())
}

async fn host_read_only(f: &Fixture) -> Checked {
    let host = HostDirectory::new()?;
    let sandbox = host_or_not_run(f, host.spec(f, false)).await?;
    for user in users(f) {
        for line in [
            "echo x > /srv/host/new",
            "echo x >> /srv/host/a",
            "rm /srv/host/a",
            "mv /srv/host/a /srv/host/b",
            "chmod 600 /srv/host/a",
            "mkdir /srv/host/d",
            "mount -o remount,rw /srv/host && echo x > /srv/host/new",
        ] {
            let output = run_as(&sandbox, *user, line).await?;
            ensure!(
                !output.status.success(),
                "`{line}` succeeded as {user:?} where nothing may be written"
            );
        }
    }
    ensure_eq!(host.names(), ["a"], "what is in the directory");
    ensure_eq!(host.read("a"), "of the host", "its file");
    Ok(())
}

async fn host_writable(f: &Fixture) -> Checked {
    let host = HostDirectory::new()?;
    let sandbox = host_or_not_run(f, host.spec(f, true)).await?;
    f.shell(&sandbox, "umask 022; echo of the sandbox > /srv/host/new")
        .await?;
    ensure_eq!(host.read("new"), "of the sandbox\n", "the file on the host");
    if f.claims().files {
        let read = sandbox.files().read("/srv/host/new").await?;
        ensure_eq!(&read[..], b"of the sandbox\n", "the file inside");
    }
    f.shell(&sandbox, "rm /srv/host/new").await?;
    ensure_eq!(host.names(), ["a"], "what is in the directory");
    Ok(())
}

async fn host_links(f: &Fixture) -> Checked {
    let (host, outside) = (HostDirectory::new()?, HostDirectory::new()?);
    link(&outside.0.join("a"), &host.0.join("absolute"))?;
    let name = outside.0.file_name().unwrap_or_default();
    link(
        &Path::new("..").join(name).join("a"),
        &host.0.join("relative"),
    )?;
    link(&outside.0, &host.0.join("directory"))?;
    let sandbox = host_or_not_run(f, host.spec(f, true)).await?;
    for user in users(f) {
        for path in ["absolute", "relative", "directory/a"] {
            let output = run_as(&sandbox, *user, &format!("cat /srv/host/{path}")).await?;
            ensure!(
                output.stdout.is_empty(),
                "{path} leads out of what is mounted: {:?}",
                output.stdout_text()
            );
            if f.claims().files {
                let read = sandbox.files().read(format!("/srv/host/{path}")).await;
                ensure!(read.is_err(), "{path} was read by a file operation");
            }
        }
    }
    Ok(())
}

fn link(target: &Path, path: &Path) -> Checked {
    #[cfg(unix)]
    let made = std::os::unix::fs::symlink(target, path);
    #[cfg(not(unix))]
    let made = {
        let _ = (target, path);
        Err::<(), _>(std::io::Error::from(std::io::ErrorKind::Unsupported))
    };
    made.map_err(|error| Failure::NotRun(format!("a link on the host: {error}")))
}

async fn host_outlives(f: &Fixture) -> Checked {
    let host = HostDirectory::new()?;
    let sandbox = host_or_not_run(f, host.spec(f, true)).await?;
    f.shell(&sandbox, "mkdir /srv/host/d && echo x > /srv/host/d/new")
        .await?;
    sandbox.kill().await?;
    ensure_eq!(host.names(), ["a", "d"], "what is left in the directory");
    ensure_eq!(host.read("d/new"), "x\n", "the file of the sandbox");
    ensure_eq!(host.read("a"), "of the host", "the file of the host");
    Ok(())
}

async fn host_options(f: &Fixture) -> Checked {
    let host = HostDirectory::new()?;
    let sandbox = host_or_not_run(f, host.spec(f, true)).await?;
    let output = f.shell(&sandbox, "cat /proc/self/mounts").await?;
    let text = output.stdout_text();
    let line = text.lines().find(|line| line.contains(" /srv/host "));
    let options: Vec<&str> = line
        .and_then(|line| line.split(' ').nth(3))
        .map(|options| options.split(',').collect())
        .unwrap_or_default();
    for option in ["nosuid", "nodev"] {
        ensure!(
            options.contains(&option),
            "a host directory is mounted without {option}: {line:?}"
        );
    }
    Ok(())
}

async fn not_a_directory(f: &Fixture) -> Checked {
    let host = HostDirectory::new()?;
    for (name, kind) in [
        ("missing", ErrorKind::NotFound),
        ("a", ErrorKind::NotDirectory),
    ] {
        let source = MountSource::Host(host.0.join(name).display().to_string());
        let spec = f.spec().mount(mount("/srv/host", source, false));
        let error = spec_refused(f, spec, &[kind], &format!("a mount of {name}")).await?;
        ensure!(
            error.fact("field").is_some(),
            "the field is not named: {error}"
        );
    }
    ensure_eq!(host.names(), ["a"], "what is in the directory");
    Ok(())
}

async fn tmpfs_is_own(f: &Fixture) -> Checked {
    let spec = || f.spec().mount(tmpfs("/srv/memory"));
    let (one, two) = (f.make(spec()).await?, f.make(spec()).await?);
    f.shell(&one, "echo one > /srv/memory/a").await?;
    let output = f.shell(&two, "ls -A /srv/memory").await?;
    ensure_eq!(output.stdout_text(), "", "what is in that of another");
    let output = f
        .shell(&one, "cat /srv/memory/a; cat /proc/self/mounts")
        .await?;
    let text = output.stdout_text();
    ensure!(text.starts_with("one\n"), "the file is {text:?}");
    ensure!(
        text.lines()
            .any(|line| line.contains(" /srv/memory tmpfs ")),
        "no file system of memory is on /srv/memory: {text}"
    );
    Ok(())
}

async fn tmpfs_declined(f: &Fixture) -> Checked {
    let spec = f.spec().mount(tmpfs("/srv/memory"));
    spec_declined(f, spec, "a file system in memory").await
}

async fn target_is_made(f: &Fixture) -> Checked {
    let sandbox = f.make(f.spec().mount(tmpfs("/srv/not/there/yet"))).await?;
    f.shell(&sandbox, "echo x > /srv/not/there/yet/a").await?;
    Ok(())
}

async fn nested(f: &Fixture) -> Checked {
    let outer = tmpfs("/srv/outer");
    let inner = tmpfs("/srv/outer/inner");
    let spec = f.spec().mount(inner).mount(outer);
    let sandbox = f.make(spec).await?;
    f.shell(&sandbox, "echo x > /srv/outer/inner/a").await?;
    let output = f.shell(&sandbox, "cat /proc/self/mounts").await?;
    for target in [" /srv/outer ", " /srv/outer/inner "] {
        ensure!(
            output.stdout_text().contains(target),
            "nothing is mounted on{target}"
        );
    }
    Ok(())
}

/// A name that no other volume has.
fn volume_name() -> String {
    format!("conformance-{}", SandboxId::random())
}

fn with_volume(f: &Fixture, name: &str, writable: bool) -> SandboxSpec {
    let source = MountSource::Volume(name.to_owned());
    f.spec().mount(mount("/srv/volume", source, writable))
}

/// Removes a volume that no sandbox has any more. A provider that tells of no volume
/// has them elsewhere, where somebody else removes them; tells whether it is gone.
async fn remove_volume(f: &Fixture, name: &str) -> Checked<bool> {
    let told = f.provider().disk_use(f.context()).await?;
    if !told.iter().any(|use_| use_.name == name) {
        return Ok(false);
    }
    let request = TidyRequest {
        volumes: true,
        only_volumes: Some(vec![name.to_owned()]),
        ..TidyRequest::default()
    };
    let tidied = f.provider().tidy(f.context(), &request).await?;
    ensure!(
        tidied.gone.iter().any(|gone| gone.name == name),
        "the volume {name} was not removed: {tidied:?}"
    );
    Ok(true)
}

async fn volume_outlives(f: &Fixture) -> Checked {
    let name = volume_name();
    let one = f.make(with_volume(f, &name, true)).await?;
    f.shell(&one, "echo kept > /srv/volume/a").await?;
    one.kill().await?;
    let two = f.make(with_volume(f, &name, true)).await?;
    let output = f.shell(&two, "cat /srv/volume/a").await?;
    ensure_eq!(output.stdout_text(), "kept\n", "the file");
    let other = volume_name();
    let three = f.make(with_volume(f, &other, true)).await?;
    let output = f.shell(&three, "ls -A /srv/volume").await?;
    ensure_eq!(output.stdout_text(), "", "what is in another volume");
    two.kill().await?;
    three.kill().await?;
    remove_volume(f, &other).await?;
    if !remove_volume(f, &name).await? {
        return Ok(());
    }
    let four = f.make(with_volume(f, &name, true)).await?;
    let output = f.shell(&four, "ls -A /srv/volume").await?;
    ensure_eq!(
        output.stdout_text(),
        "",
        "what is left of a volume that was removed"
    );
    four.kill().await?;
    remove_volume(f, &name).await?;
    Ok(())
}

async fn volume_declined(f: &Fixture) -> Checked {
    spec_declined(f, with_volume(f, &volume_name(), true), "a volume").await
}

async fn volume_is_shared(f: &Fixture) -> Checked {
    let name = volume_name();
    let one = f.make(with_volume(f, &name, true)).await?;
    let two = f.make(with_volume(f, &name, true)).await?;
    f.shell(&one, "echo one > /srv/volume/a").await?;
    let output = f.shell(&two, "cat /srv/volume/a").await?;
    ensure_eq!(output.stdout_text(), "one\n", "what the second one reads");
    let request = TidyRequest {
        volumes: true,
        only_volumes: Some(vec![name.clone()]),
        ..TidyRequest::default()
    };
    let tidied = f.provider().tidy(f.context(), &request).await?;
    ensure!(
        tidied.gone.iter().all(|gone| gone.name != name),
        "a volume was removed while sandboxes have it"
    );
    one.kill().await?;
    f.shell(&two, "cat /srv/volume/a").await?;
    two.kill().await?;
    remove_volume(f, &name).await?;
    Ok(())
}

async fn volume_read_only(f: &Fixture) -> Checked {
    let name = volume_name();
    let one = f.make(with_volume(f, &name, true)).await?;
    f.shell(&one, "echo kept > /srv/volume/a; chmod 666 /srv/volume/a")
        .await?;
    let two = f.make(with_volume(f, &name, false)).await?;
    for user in users(f) {
        for line in [
            "echo x > /srv/volume/a",
            "echo x > /srv/volume/new",
            "rm /srv/volume/a",
        ] {
            let output = run_as(&two, *user, line).await?;
            ensure!(
                !output.status.success(),
                "`{line}` succeeded as {user:?} where nothing may be written"
            );
        }
    }
    let output = f
        .shell(&one, "cat /srv/volume/a; ls -A /srv/volume")
        .await?;
    ensure_eq!(output.stdout_text(), "kept\na\n", "what is in the volume");
    one.kill().await?;
    two.kill().await?;
    remove_volume(f, &name).await?;
    Ok(())
}

fn with_size(f: &Fixture, name: &str) -> SandboxSpec {
    let mut spec = with_volume(f, name, true);
    spec.mounts[0].size_mib = Some(8);
    spec
}

async fn volume_size(f: &Fixture) -> Checked {
    let name = volume_name();
    let sandbox = make_or_not_run(f, with_size(f, &name)).await?;
    f.shell(&sandbox, "echo x > /srv/volume/a").await?;
    let line = "head -c 32000000 /dev/zero > /srv/volume/big";
    let output = sandbox.shell(line).output().await?;
    ensure!(
        !output.status.success(),
        "32 MB were written to a volume of 8 MiB"
    );
    sandbox.kill().await?;
    remove_volume(f, &name).await?;
    Ok(())
}

async fn size_declined(f: &Fixture) -> Checked {
    let spec = with_size(f, &volume_name());
    spec_declined(f, spec, "a size of a volume").await
}
