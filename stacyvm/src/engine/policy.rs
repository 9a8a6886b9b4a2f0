//! What the operator allows.

use std::path::{Path, PathBuf};
use std::time::Duration;

use super::host_mounts::HostMounts;
use crate::error::{Error, ErrorKind, Result};
use crate::provider::Pull;
use crate::sandbox::spec::{Mount, MountSource, Source};

/// What providers of this machine keep across state directories.
const LOCKS: &str = "/run/stacyvm";
/// File systems by which the kernel shows and changes itself, wherever they are mounted.
const KERNEL: [&str; 14] = [
    "proc",
    "sysfs",
    "devtmpfs",
    "devpts",
    "cgroup",
    "cgroup2",
    "securityfs",
    "debugfs",
    "tracefs",
    "configfs",
    "bpf",
    "efivarfs",
    "pstore",
    "binfmt_misc",
];
/// What to do about a path that is no directory.
const REMEDY: &str = "give the absolute path of a directory that exists";

/// What the operator allows, whatever a spec asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Policy {
    /// The directories beneath which host directories may be mounted, after
    /// links are resolved; `None` allows every directory but those that are
    /// always refused: `/`, `/proc`, `/sys`, `/dev`, `/run/stacyvm`, whatever
    /// contains or lies in the state directory, and those below which one of
    /// these is mounted.
    pub mount_roots: Option<Vec<PathBuf>>,
    /// The longest life; a sandbox that asks for no end gets this one.
    pub max_ttl: Option<Duration>,
    /// The life of a detached sandbox that asks for none, where the provider
    /// can end it.
    pub default_ttl: Option<Duration>,
    /// When creates that say nothing pull their image. [`Pull::Never`] forbids
    /// it to those that ask for it, too.
    pub pull: Pull,
    /// The state directory, which no sandbox may see.
    pub state_dir: Option<PathBuf>,
}

impl Default for Policy {
    /// No mount roots, no longest life, an hour for a detached sandbox, missing
    /// images are pulled.
    fn default() -> Self {
        Self {
            mount_roots: None,
            max_ttl: None,
            default_ttl: Some(Duration::from_hours(1)),
            pull: Pull::default(),
            state_dir: None,
        }
    }
}

impl Policy {
    /// When a create pulls its image, from what it asked for.
    ///
    /// # Errors
    ///
    /// `permission_denied` where it asked for a pull and none is allowed,
    /// `invalid_argument` where it asked for one of what no registry has.
    pub(super) fn pull(&self, asked: Option<Pull>, source: &Source) -> Result<Pull> {
        match (self.pull, asked) {
            (_, Some(Pull::Always)) if !is_of_a_registry(source) => Err(Error::invalid(
                "pull",
                Pull::Always,
                "an image of a registry with it, and no directory, file, digest without a name, or `host`",
                "leave it out, or name such an image",
            )),
            (Pull::Never, Some(asked @ (Pull::Missing | Pull::Always))) => Err(denied(
                "pull",
                &asked.to_string(),
                "`never`, as the policy has it",
                "leave it out and bring the image with `stacyvm image pull` or `stacyvm image import`, or change `images.pull`",
            )),
            (policy, asked) => Ok(asked.unwrap_or(policy)),
        }
    }

    /// Checks the host directories of a spec and gives the mounts with their
    /// links resolved, so that the provider opens what was checked.
    ///
    /// # Errors
    ///
    /// `not_found`, `not_directory`, and `permission_denied` for a directory
    /// that the policy does not allow.
    pub(super) async fn resolve_mounts(&self, mounts: &[Mount]) -> Result<Vec<Mount>> {
        let mut resolved = mounts.to_vec();
        for (index, mount) in resolved.iter_mut().enumerate() {
            if let MountSource::Host(path) = &mut mount.source {
                let field = format!("mounts[{index}].source.host");
                *path = self.resolve(&field, path).await?;
            }
        }
        Ok(resolved)
    }

    /// Checks a root directory, an archive or a layout like a mount, and gives it
    /// with its links resolved.
    ///
    /// # Errors
    ///
    /// Those of [`resolve_mounts`](Self::resolve_mounts).
    pub(super) async fn resolve_source(&self, source: &Source) -> Result<Source> {
        match source {
            Source::Image(path) if path.starts_with('/') => {
                self.resolve("image", path).await.map(Source::Image)
            }
            Source::Image(name) => match path_of_archive(name) {
                Some(archive) => self.resolve_archive(name, archive).await,
                None => Ok(source.clone()),
            },
            other => Ok(other.clone()),
        }
    }

    async fn resolve_archive(&self, name: &str, archive: Archive<'_>) -> Result<Source> {
        let failed = |error: std::io::Error| {
            Error::new(
                io_kind(&error),
                format!("image is `{name}`, expected a path of the host that can be read; give the absolute path of what exists"),
            )
            .context("field", "image")
            .context("value", name)
            .context("remedy", "give the absolute path of what exists")
            .source(error)
        };
        if !archive.path.starts_with('/') {
            return Err(Error::invalid(
                "image",
                name,
                "an absolute path behind its form",
                "give the absolute path of the archive or the layout",
            ));
        }
        let real = tokio::fs::canonicalize(archive.path)
            .await
            .map_err(failed)?;
        self.check_real("image", name, &real).await?;
        let may_have_colon = archive.form == "rootfs-archive";
        let path = real
            .to_str()
            .filter(|path| may_have_colon || !path.contains(':'));
        let Some(path) = path else {
            return Err(Error::invalid(
                "image",
                name,
                "a path of UTF-8 text without a colon, links resolved",
                "rename what it leads to",
            ));
        };
        let tag = archive.tag.map(|tag| format!(":{tag}")).unwrap_or_default();
        Ok(Source::Image(format!("{}:{path}{tag}", archive.form)))
    }

    async fn resolve(&self, field: &str, path: &str) -> Result<String> {
        let failed = |error: std::io::Error| {
            Error::new(
                io_kind(&error),
                format!("{field} is `{path}`, expected a directory of the host that can be read; {REMEDY}"),
            )
            .context("field", field)
            .context("value", path)
            .context("remedy", REMEDY)
            .source(error)
        };
        let real = tokio::fs::canonicalize(path).await.map_err(failed)?;
        let kind = tokio::fs::metadata(&real).await.map_err(failed)?;
        if !kind.is_dir() {
            return Err(Error::new(
                ErrorKind::NotDirectory,
                format!("{field} is `{path}`, expected a directory; {REMEDY}"),
            )
            .context("field", field)
            .context("value", path)
            .context("remedy", REMEDY));
        }
        self.check_real(field, path, &real).await?;
        real.into_os_string().into_string().map_err(|real| {
            Error::invalid(
                field,
                real.to_string_lossy(),
                "a path of UTF-8 text",
                "rename the directory or mount one above it",
            )
        })
    }

    async fn check_real(&self, field: &str, path: &str, real: &Path) -> Result<()> {
        let refused = |expected: &str, remedy: &str| Err(denied(field, path, expected, remedy));
        let mounts = HostMounts::look().await.map_err(|error| {
            let message =
                "cannot read which mounts this host has, which a mount is checked against";
            Error::new(io_kind(&error), message)
                .context("file", "/proc/self/mountinfo")
                .context("remedy", "let this process read it, or leave the mount out")
                .source(error)
        })?;
        if let Some((expected, remedy)) = self.forbidden(real, mounts.kind_at(real)).await {
            return refused(expected, remedy);
        }
        // What is mounted below comes along.
        for (point, kind) in mounts.below(real) {
            if let Some((expected, _)) = self.forbidden(point, Some(kind)).await {
                return refused(
                    &format!(
                        "{expected}, also for what is mounted below it: {}",
                        point.display()
                    ),
                    "unmount that, or mount a directory beside it",
                );
            }
        }
        let Some(roots) = &self.mount_roots else {
            return Ok(());
        };
        for root in roots {
            // A root that does not exist allows nothing.
            if let Ok(root) = tokio::fs::canonicalize(root).await
                && real.starts_with(root)
            {
                return Ok(());
            }
        }
        refused(
            "a directory beneath `policy.mount_roots`",
            "mount one beneath them, or add a root",
        )
    }
}

impl Policy {
    /// What is expected instead of a directory that no sandbox may see, and what to
    /// do. `kind`: of the file system that it is on.
    async fn forbidden(
        &self,
        real: &Path,
        kind: Option<&str>,
    ) -> Option<(&'static str, &'static str)> {
        if is_among(real, [Path::new("/")]).await {
            return Some(("a directory below /", "mount the directory that is needed"));
        }
        let of_kernel = ["/proc", "/sys", "/dev"]
            .iter()
            .any(|p| real.starts_with(p));
        if of_kernel || kind.is_some_and(|kind| KERNEL.contains(&kind)) {
            return Some((
                "a directory outside /proc, /sys and /dev",
                "a sandbox has its own; leave the mount out",
            ));
        }
        if real.starts_with(LOCKS) {
            return Some((
                "another directory: this one has the locks of sandboxes",
                "leave the mount out",
            ));
        }
        let state = self.state_dir.as_ref()?;
        let state = tokio::fs::canonicalize(state)
            .await
            .unwrap_or_else(|_| state.clone());
        let overlaps =
            is_among(real, state.ancestors()).await || is_among(&state, real.ancestors()).await;
        overlaps.then_some((
            "a directory that neither contains nor lies in the state directory",
            "mount another directory",
        ))
    }
}

/// An archive or a layout, as the text of an image names it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Archive<'a> {
    form: &'a str,
    pub(super) path: &'a str,
    tag: Option<&'a str>,
}

/// The archive or layout that an image is made from; `None` for other images.
pub(super) fn path_of_archive(image: &str) -> Option<Archive<'_>> {
    let (form, rest) = image.split_once(':')?;
    let (path, tag) = match form {
        "rootfs-archive" => (rest, None),
        "oci" | "oci-archive" | "docker-archive" => match rest.split_once(':') {
            Some((path, tag)) => (path, Some(tag)),
            None => (rest, None),
        },
        _ => return None,
    };
    Some(Archive { form, path, tag })
}

/// Whether a source can be had from a registry.
fn is_of_a_registry(source: &Source) -> bool {
    match source {
        Source::Image(name) => {
            let elsewhere = name == "host" || name.starts_with('/') || name.starts_with("sha256:");
            !elsewhere && path_of_archive(name).is_none()
        }
        Source::Template(_) | Source::Snapshot(_) => false,
    }
}

/// Whether a directory is one of these, under whatever name: one that is mounted
/// elsewhere too is still the same.
async fn is_among<'a>(path: &Path, others: impl IntoIterator<Item = &'a Path>) -> bool {
    let own = identity(path).await;
    for other in others {
        if path == other || (own.is_some() && identity(other).await == own) {
            return true;
        }
    }
    false
}

/// Device and number of a directory, where the system has such.
async fn identity(path: &Path) -> Option<(u64, u64)> {
    #[cfg(unix)]
    {
        use std::os::unix::fs::MetadataExt as _;
        let metadata = tokio::fs::metadata(path).await.ok()?;
        Some((metadata.dev(), metadata.ino()))
    }
    #[cfg(not(unix))]
    {
        let _ = path;
        None
    }
}

/// A value that the policy does not allow.
pub(super) fn denied(field: &str, value: &str, expected: &str, remedy: &str) -> Error {
    Error::new(
        ErrorKind::PermissionDenied,
        format!("{field} is `{value}`, expected {expected}; {remedy}"),
    )
    .context("field", field)
    .context("value", value)
    .context("expected", expected)
    .context("remedy", remedy)
}

/// The kind of an error of the host's file system.
pub(super) fn io_kind(error: &std::io::Error) -> ErrorKind {
    use std::io::ErrorKind as Io;
    match error.kind() {
        Io::NotFound => ErrorKind::NotFound,
        Io::PermissionDenied => ErrorKind::PermissionDenied,
        Io::NotADirectory => ErrorKind::NotDirectory,
        Io::IsADirectory => ErrorKind::IsDirectory,
        Io::StorageFull | Io::QuotaExceeded => ErrorKind::NoSpace,
        Io::InvalidInput | Io::InvalidFilename => ErrorKind::InvalidArgument,
        _ => ErrorKind::Internal,
    }
}
