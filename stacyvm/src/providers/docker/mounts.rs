//! Directories of the host, named volumes, and the volumes that an image declares.
//!
//! A volume's name is that of the spec behind the store's instance, so that neither
//! another store's nor anybody else's volume of the same name is meant.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use bollard::models::{
    HostConfig, Mount, MountBindOptions, MountBindOptionsPropagationEnum, MountType,
    MountVolumeOptions, MountVolumeOptionsDriverConfig, Volume, VolumeCreateRequest,
};
use bytes::BytesMut;
use futures_util::StreamExt;

use super::create::{self, INSTANCE, SANDBOX, TENANT};
use super::error::map;
use super::life::Life;
use super::origin;
use super::patience::Answer;
use crate::agent::AgentClient;
use crate::error::{Error, ErrorKind, Result};
use crate::id::{InstanceId, SandboxId, TenantId};
use crate::sandbox::files::{
    Attributes, FileOperation, FileReply, FileRequest, GuestPath, ReadRequest,
};
use crate::sandbox::spec::{MountSource, SandboxSpec};

/// The label of a volume's name in specs.
pub(super) const VOLUME: &str = "stacyvm.volume";
/// What everybody inside may write, as in `/tmp`.
const OPEN: u32 = 0o1777;
/// What a directory of a new volume has.
const UNTOUCHED: u32 = 0o755;
/// What is read of a list of mounts at most.
const LONGEST_LIST: usize = 4 << 20;

/// The engine's name of a volume.
pub(super) fn volume_name(instance: &InstanceId, name: &str) -> String {
    format!("stacyvm-{instance}-{name}")
}

/// What tells that something is a sandbox's.
pub(super) fn labels(
    id: &SandboxId,
    instance: &InstanceId,
    tenant: &TenantId,
) -> HashMap<String, String> {
    HashMap::from([
        (INSTANCE.to_owned(), instance.to_string()),
        (SANDBOX.to_owned(), id.to_string()),
        (TENANT.to_owned(), tenant.to_string()),
    ])
}

/// A target in the form in which two of them can be compared.
fn parts(target: &str) -> Vec<&str> {
    target.split('/').filter(|part| !part.is_empty()).collect()
}

/// The mounts of a spec that are no file systems in memory, as the engine is told
/// them, and those that keep what an image declares within its sandbox: an unnamed
/// volume for each, which has the sandbox's labels and goes with it.
pub(super) fn mounts(
    id: &SandboxId,
    instance: &InstanceId,
    tenant: &TenantId,
    spec: &SandboxSpec,
    declared: &[String],
    covered: &[&str],
) -> Vec<Mount> {
    let mut all = Vec::new();
    for mount in &spec.mounts {
        let target = Some(mount.target.clone());
        let read_only = Some(!mount.writable);
        match &mount.source {
            MountSource::Tmpfs { .. } => {}
            MountSource::Host(path) => all.push(Mount {
                target,
                source: Some(path.clone()),
                typ: Some(MountType::BIND),
                read_only,
                bind_options: Some(MountBindOptions {
                    propagation: Some(MountBindOptionsPropagationEnum::RPRIVATE),
                    ..MountBindOptions::default()
                }),
                ..Mount::default()
            }),
            MountSource::Volume(name) => all.push(Mount {
                target,
                source: Some(volume_name(instance, name)),
                typ: Some(MountType::VOLUME),
                read_only,
                volume_options: Some(MountVolumeOptions {
                    // Else the engine would fill it from the image.
                    no_copy: Some(true),
                    ..MountVolumeOptions::default()
                }),
                ..Mount::default()
            }),
        }
    }
    let targets = spec.mounts.iter().map(|mount| mount.target.as_str());
    let taken: Vec<Vec<&str>> = targets.chain(covered.iter().copied()).map(parts).collect();
    let mut declared: Vec<&String> = declared.iter().collect();
    declared.sort();
    for target in declared {
        if !target.starts_with('/') || taken.contains(&parts(target)) {
            continue;
        }
        all.push(Mount {
            target: Some(target.clone()),
            typ: Some(MountType::VOLUME),
            volume_options: Some(MountVolumeOptions {
                labels: Some(labels(id, instance, tenant)),
                ..MountVolumeOptions::default()
            }),
            ..Mount::default()
        });
    }
    all
}

/// Makes the host's kernel keep read-only what is mounted so: gVisor of July 2024
/// empties a file that is opened for writing through a read-only mount before it
/// refuses. The engine's own driver mounts a directory read-only as a volume, which has
/// the sandbox's labels and goes with it; what a runtime binds of that is read-only
/// whatever it does. A volume without a name could not be told to be read-only inside.
pub(super) fn held_by_kernel(
    id: &SandboxId,
    mounts: &mut [Mount],
    volumes: &HashMap<String, Volume>,
    labels: &HashMap<String, String>,
) {
    let read_only = mounts.iter_mut().filter(|m| m.read_only == Some(true));
    for (index, mount) in read_only.enumerate() {
        let Some(source) = mount.source.take() else {
            continue;
        };
        let mut labels = labels.clone();
        let device = match volumes.get(&source) {
            Some(volume) => {
                // It is in use, which the engine does not know.
                let name = volume.labels.get(VOLUME).cloned().unwrap_or_default();
                labels.insert(VOLUME.to_owned(), name);
                volume.mountpoint.clone()
            }
            None => source,
        };
        let option = |key: &str, value: &str| (key.to_owned(), value.to_owned());
        *mount = Mount {
            target: mount.target.take(),
            source: Some(format!("{}-{index}", create::container(id))),
            typ: Some(MountType::VOLUME),
            read_only: Some(true),
            volume_options: Some(MountVolumeOptions {
                no_copy: Some(true),
                labels: Some(labels),
                driver_config: Some(MountVolumeOptionsDriverConfig {
                    name: Some("local".to_owned()),
                    options: Some(HashMap::from([
                        option("type", "none"),
                        option("o", "bind,ro,nosuid,nodev"),
                        option("device", &device),
                    ])),
                }),
                ..MountVolumeOptions::default()
            }),
            ..Mount::default()
        };
    }
}

/// Whether a container has volumes that [`held_by_kernel`] made.
pub(super) fn has_held(host: &HostConfig) -> bool {
    let mut mounts = host.mounts.iter().flatten();
    mounts.any(|mount| {
        let options = mount.volume_options.as_ref();
        options.is_some_and(|options| options.driver_config.is_some())
    })
}

/// Whether a mount of a container shows a directory of the host, and may be written.
pub(super) fn of_host(mount: &Mount) -> Option<bool> {
    if mount.typ == Some(MountType::BIND) {
        return Some(mount.read_only != Some(true));
    }
    let options = mount.volume_options.as_ref()?;
    options
        .driver_config
        .as_ref()?
        .options
        .as_ref()?
        .get("device")?;
    let labels = options.labels.as_ref();
    let volume = labels.is_some_and(|labels| labels.contains_key(VOLUME));
    (!volume).then_some(false)
}

/// Refuses host directories that this engine could not mount as they are, or that
/// would give the engine away. What the policy allows was judged before.
pub(super) fn check_host(spec: &SandboxSpec, engine: &[&Path]) -> Result<()> {
    for (index, mount) in spec.mounts.iter().enumerate() {
        let MountSource::Host(path) = &mount.source else {
            continue;
        };
        let field = format!("mounts[{index}].source.host");
        let at = |kind, expected: &str, remedy: &str| {
            Error::new(
                kind,
                format!("{field} is `{path}`, expected {expected}; {remedy}"),
            )
            .context("field", &field)
            .context("value", path)
            .context("expected", expected)
            .context("remedy", remedy)
        };
        let directory = "a directory of this host, without links on its way";
        let remedy = "give the absolute path of a directory that exists";
        match std::fs::canonicalize(path) {
            Ok(real) if real != Path::new(path) => {
                return Err(at(ErrorKind::InvalidArgument, directory, remedy));
            }
            Ok(real) if !real.is_dir() => {
                return Err(at(ErrorKind::NotDirectory, directory, remedy));
            }
            Ok(_) => {}
            Err(e) => {
                let kind = match e.kind() {
                    std::io::ErrorKind::PermissionDenied => ErrorKind::PermissionDenied,
                    std::io::ErrorKind::NotADirectory => ErrorKind::NotDirectory,
                    _ => ErrorKind::NotFound,
                };
                return Err(at(kind, directory, remedy).source(e));
            }
        }
        for place in engine {
            let place = std::fs::canonicalize(place).unwrap_or_else(|_| place.to_path_buf());
            if place.starts_with(path) || Path::new(path).starts_with(&place) {
                return Err(at(
                    ErrorKind::PermissionDenied,
                    "a directory without the engine's socket and data, by which a sandbox would \
                     be root on the host",
                    "mount another directory",
                ));
            }
        }
        // Engines before 25 leave what is mounted below writable.
        if !mount.writable
            && let Some(below) = origin::mounted_below(Path::new(path))
        {
            return Err(at(
                ErrorKind::Unsupported,
                &format!(
                    "a directory that nothing is mounted below: engines cannot keep {} from \
                     being written",
                    below.display()
                ),
                "mount a directory beside it, or let it be written",
            ));
        }
    }
    Ok(())
}

impl Life {
    /// Makes the named volumes of a spec, unless they are there; by the engine's names.
    pub(super) async fn make_volumes(&self, spec: &SandboxSpec) -> Result<HashMap<String, Volume>> {
        let mut all = HashMap::new();
        for (index, mount) in spec.mounts.iter().enumerate() {
            let MountSource::Volume(name) = &mount.source else {
                continue;
            };
            let instance = &self.config.instance;
            let request = VolumeCreateRequest {
                name: Some(volume_name(instance, name)),
                labels: Some(HashMap::from([
                    (INSTANCE.to_owned(), instance.to_string()),
                    (VOLUME.to_owned(), name.clone()),
                ])),
                ..VolumeCreateRequest::default()
            };
            // It gives back the one that is there, whosever it is.
            let made = self
                .docker
                .create_volume(request)
                .within(&self.docker)
                .await
                .map_err(map)?;
            if name_of(&made, instance) != Some(name) {
                return Err(Error::new(
                    ErrorKind::Conflict,
                    format!(
                        "the docker engine has a volume {} that is not of this store; remove \
                         it, or name the sandbox's otherwise",
                        made.name
                    ),
                )
                .context("field", format!("mounts[{index}].source.volume"))
                .context("value", name));
            }
            all.insert(made.name.clone(), made);
        }
        Ok(all)
    }

    /// Lets everybody inside write to new volumes, and looks whether the directories
    /// that are mounted are those that were checked.
    pub(super) async fn settle_mounts(
        &self,
        client: &AgentClient,
        spec: &SandboxSpec,
    ) -> Result<()> {
        for mount in &spec.mounts {
            if mount.writable && matches!(mount.source, MountSource::Volume(_)) {
                open_up(client, &mount.target).await?;
            }
        }
        let hosts = spec
            .mounts
            .iter()
            .any(|mount| matches!(mount.source, MountSource::Host(_)));
        // A kernel of its own has its own list, and an engine in a virtual machine
        // other devices.
        if !hosts || self.facts.own_kernel() || !self.facts.same_kernel {
            return Ok(());
        }
        let root = (!self.facts.one_user).then(|| "0".to_owned());
        let inside = read_mounts(client, root).await?;
        for (index, mount) in spec.mounts.iter().enumerate() {
            let MountSource::Host(path) = &mount.source else {
                continue;
            };
            let target: PathBuf = ["/"].into_iter().chain(parts(&mount.target)).collect();
            if !origin::is_mounted(&inside, Path::new(path), &target) {
                return Err(Error::new(
                    ErrorKind::Unsupported,
                    format!(
                        "the docker engine has mounted another directory than {path} of this \
                         process: it sees another file system, a link was put in its place, or \
                         the target is a link of the image"
                    ),
                )
                .context("field", format!("mounts[{index}].source.host"))
                .context("value", path)
                .context(
                    "remedy",
                    "use a volume, or a directory that the engine sees too",
                ));
            }
        }
        Ok(())
    }
}

/// The name in specs of a volume of this store.
pub(super) fn name_of<'a>(volume: &'a Volume, instance: &InstanceId) -> Option<&'a String> {
    let ours = volume.labels.get(INSTANCE).map(String::as_str) == Some(instance.as_str());
    let name = volume.labels.get(VOLUME).filter(|_| ours)?;
    (volume.name == volume_name(instance, name)).then_some(name)
}

/// The engine makes a volume root's, and root inside may not let others in later
/// than now. One that somebody has used is left as it is.
async fn open_up(client: &AgentClient, target: &str) -> Result<()> {
    let root = |operation| FileRequest {
        user: Some("0".to_owned()),
        operation,
    };
    let path = GuestPath::new(target)?;
    let stat = root(FileOperation::Stat {
        path: path.clone(),
        follow: true,
    });
    let FileReply::Entry(entry) = client.file(&stat).await? else {
        return Ok(());
    };
    if entry.uid != 0 || entry.mode != UNTOUCHED {
        return Ok(());
    }
    let list = root(FileOperation::List {
        path: path.clone(),
        depth: 1,
    });
    if let FileReply::Entries(mut entries) = client.file(&list).await?
        && entries.next().await.is_some()
    {
        return Ok(());
    }
    let open = root(FileOperation::SetAttributes {
        path,
        attributes: Attributes {
            mode: Some(OPEN),
            ..Attributes::default()
        },
        recursive: false,
        follow: true,
    });
    client.file(&open).await.map(drop)
}

async fn read_mounts(client: &AgentClient, user: Option<String>) -> Result<Vec<u8>> {
    let request = ReadRequest {
        user,
        path: GuestPath::new("/proc/self/mountinfo")?,
        offset: 0,
        length: None,
    };
    let (_, mut stream) = client.read_file(&request).await?;
    let mut text = BytesMut::new();
    while let Some(piece) = stream.next().await {
        text.extend_from_slice(&piece?);
        if text.len() > LONGEST_LIST {
            return Err(Error::new(
                ErrorKind::Protocol,
                "the list of mounts inside has no end",
            ));
        }
    }
    Ok(text.into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sandbox::spec::Mount as Asked;

    fn asked(target: &str, source: MountSource, writable: bool) -> Asked {
        Asked {
            target: target.to_owned(),
            source,
            writable,
            size_mib: None,
        }
    }

    fn made(spec: &SandboxSpec, declared: &[&str]) -> Vec<Mount> {
        let declared: Vec<String> = declared.iter().map(|&path| path.to_owned()).collect();
        let instance = InstanceId::new("0123456789abcdef0123456789abcdef")
            .unwrap_or_else(|_| InstanceId::random());
        mounts(
            &SandboxId::random(),
            &instance,
            &TenantId::default(),
            spec,
            &declared,
            &["/tmp"],
        )
    }

    #[test]
    fn what_is_not_said_to_be_writable_is_not() {
        let spec = SandboxSpec::image("a")
            .mount(asked("/a", MountSource::Host("/srv".into()), false))
            .mount(asked("/b", MountSource::Host("/srv".into()), true))
            .mount(asked("/c", MountSource::Volume("v".into()), false))
            .mount(asked("/d", MountSource::Tmpfs { size_mib: 1 }, true));
        let all = made(&spec, &[]);
        let read_only: Vec<_> = all.iter().map(|mount| mount.read_only).collect();
        assert_eq!(read_only, [Some(true), Some(false), Some(true)]);
        assert_eq!(all[0].source.as_deref(), Some("/srv"));
        let volume = all[2].source.as_deref().unwrap();
        assert!(volume.starts_with("stacyvm-") && volume.ends_with("-v"));
        let options = all[2].volume_options.as_ref().unwrap();
        assert_eq!(options.no_copy, Some(true));
        for bind in &all[..2] {
            let options = bind.bind_options.as_ref().unwrap();
            let private = MountBindOptionsPropagationEnum::RPRIVATE;
            assert_eq!(options.propagation, Some(private));
        }
    }

    #[test]
    fn what_an_image_declares_is_the_sandboxes_own() {
        let spec =
            SandboxSpec::image("a").mount(asked("/data", MountSource::Volume("v".into()), true));
        let declared = ["/data/", "/var/lib", "/tmp", "no/path"];
        let all = made(&spec, &declared);
        assert_eq!(all.len(), 2, "{all:?}");
        let own = &all[1];
        assert_eq!(
            (own.target.as_deref(), own.source.as_deref()),
            (Some("/var/lib"), None)
        );
        let labels = own
            .volume_options
            .as_ref()
            .unwrap()
            .labels
            .as_ref()
            .unwrap();
        assert_eq!(labels.len(), 3);
        assert!(!labels.contains_key(VOLUME), "it is no named volume");
    }

    #[test]
    fn what_is_read_only_is_so_for_the_host_where_the_runtime_cannot_be_trusted_with_it() {
        let spec = SandboxSpec::image("a")
            .mount(asked("/a", MountSource::Host("/srv".into()), false))
            .mount(asked("/b", MountSource::Host("/srv".into()), true))
            .mount(asked("/c", MountSource::Volume("v".into()), false));
        let mut all = made(&spec, &["/data"]);
        let before = all.clone();
        assert_eq!(
            [of_host(&all[0]), of_host(&all[1])],
            [Some(false), Some(true)]
        );
        let name = all[2].source.clone().unwrap();
        let volume = Volume {
            name: name.clone(),
            mountpoint: "/engine/v/_data".to_owned(),
            labels: HashMap::from([(VOLUME.to_owned(), "v".to_owned())]),
            ..Volume::default()
        };
        let own = labels(
            &SandboxId::random(),
            &InstanceId::random(),
            &TenantId::default(),
        );
        let id = SandboxId::random();
        held_by_kernel(&id, &mut all, &HashMap::from([(name, volume)]), &own);
        assert_ne!(all[0].source, all[2].source);
        assert_eq!(all[1], before[1], "it is written");
        assert_eq!(all[3], before[3], "it is the sandbox's own");
        for (at, device) in [(0, "/srv"), (2, "/engine/v/_data")] {
            let source = all[at].source.as_deref().unwrap();
            assert!(source.starts_with(&format!("stacyvm-{id}-")), "{source}");
            assert_eq!(all[at].read_only, Some(true));
            assert_eq!(all[at].target, before[at].target);
            let options = all[at].volume_options.as_ref().unwrap();
            let driver = options.driver_config.as_ref().unwrap();
            let driver = driver.options.as_ref().unwrap();
            assert_eq!(driver["device"], device);
            assert!(driver["o"].split(',').any(|option| option == "ro"));
            let marked = options.labels.as_ref().unwrap().contains_key(VOLUME);
            assert_eq!(marked, at == 2);
        }
        let of_host: Vec<_> = all.iter().map(of_host).collect();
        assert_eq!(of_host, [Some(false), Some(true), None, None]);
    }

    #[test]
    fn a_volume_of_another_store_is_not_ours() {
        let (own, other) = (InstanceId::random(), InstanceId::random());
        let volume = |name: String, of: &InstanceId| Volume {
            name,
            labels: HashMap::from([
                (INSTANCE.to_owned(), of.to_string()),
                (VOLUME.to_owned(), "v".to_owned()),
            ]),
            ..Volume::default()
        };
        let ours = volume(volume_name(&own, "v"), &own);
        assert_eq!(name_of(&ours, &own).map(String::as_str), Some("v"));
        assert_eq!(name_of(&ours, &other), None);
        assert_eq!(name_of(&volume("v".to_owned(), &own), &own), None);
        assert_eq!(name_of(&volume(volume_name(&own, "v"), &other), &own), None);
    }

    #[cfg(unix)]
    #[test]
    fn what_is_no_directory_or_gives_the_engine_away_is_refused() {
        let place = tempfile::tempdir().unwrap();
        let real = place.path().canonicalize().unwrap();
        let at = |name: &str| real.join(name);
        std::fs::create_dir(at("directory")).unwrap();
        std::fs::create_dir(at("engine")).unwrap();
        std::fs::write(at("file"), "x").unwrap();
        std::os::unix::fs::symlink(at("directory"), at("link")).unwrap();
        let engine = at("engine/docker.sock");
        std::fs::write(&engine, "").unwrap();
        let of = |path: &Path| {
            let source = MountSource::Host(path.display().to_string());
            let spec = SandboxSpec::image("a").mount(asked("/a", source, false));
            check_host(&spec, &[&engine])
        };
        of(&at("directory")).unwrap();
        for (path, kind) in [
            (at("missing"), ErrorKind::NotFound),
            (at("file"), ErrorKind::NotDirectory),
            (at("file/below"), ErrorKind::NotDirectory),
            (at("link"), ErrorKind::InvalidArgument),
            (at("engine"), ErrorKind::PermissionDenied),
            (real.clone(), ErrorKind::PermissionDenied),
        ] {
            let error = of(&path).unwrap_err();
            assert_eq!(error.kind(), kind, "{}", path.display());
            assert_eq!(error.fact("field"), Some("mounts[0].source.host"));
        }
    }
}
