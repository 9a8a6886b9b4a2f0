//! Giving away a sandbox that was made ahead, and what one is made from.

use std::fmt::Write as _;
use std::os::unix::fs::MetadataExt as _;

use stacyvm_agent::helper_protocol::{
    Claim, FromHelper, HOST_ETC, HOST_STORES, HOST_TOP, ToHelper,
};

use super::images::Images;
use super::program::unexpected;
use super::{Oci, PATIENCE, error, launch};
use crate::error::{Error, ErrorKind, Result};
use crate::id::SandboxId;
use crate::provider::ClaimRequest;
use crate::sandbox::spec::{Lifetime, MountSource, SandboxSpec, Source};

impl Oci {
    /// The variables go to the agent; end and lifetime are one packet to the
    /// helper, which refuses where the sandbox stands still.
    pub(super) async fn give(&self, id: &SandboxId, request: &ClaimRequest) -> Result<()> {
        // The connection dates from the create: it ends with the agent, and one
        // that was lost says that something happened.
        if self.agents.living(id).is_none() {
            return Err(error::helper_gone());
        }
        let env = request.env.expose();
        if !env.is_empty() {
            self.on_agent(id, |agent| async move { agent.set_environment(env).await })
                .await?;
        }
        let lent = self.owned.lend(id).ok_or_else(error::helper_gone)?;
        let helper = lent.helper()?;
        let claim = ToHelper::Claim(Claim {
            ends_in_ms: request.ends.map(launch::milliseconds_until),
            detach: request.lifetime == Lifetime::Detached,
        });
        let asked = async {
            helper.send(&claim, &[]).await?;
            helper.receive().await
        };
        match tokio::time::timeout(PATIENCE, asked).await {
            Ok(Ok(FromHelper::Done)) => Ok(()),
            Ok(Ok(FromHelper::Failed(report))) => Err(error::failed(&report)),
            Ok(Ok(FromHelper::Ended(_))) => Err(error::helper_gone()),
            Ok(Ok(_)) => Err(unexpected()),
            Ok(Err(error)) => Err(error),
            Err(_) => Err(Error::new(
                ErrorKind::Unavailable,
                "the sandbox's helper does not answer",
            )
            .context("sandbox", id)),
        }
    }

    /// What the root and the mounts are now: a sandbox that was made of something
    /// else shows that and not this. What is inside directories of the host is
    /// shown as it is at any time, and is not looked at.
    pub(super) fn origin_of(spec: &SandboxSpec, images: &Images) -> String {
        let mut text = String::new();
        match &spec.source {
            Source::Image(name) if name == "host" => {
                add(&mut text, "/usr");
                for path in HOST_TOP.iter().map(|name| format!("/{name}")) {
                    add(&mut text, &path);
                }
                for path in HOST_STORES {
                    add(&mut text, path);
                }
                for path in HOST_ETC.iter().map(|name| format!("/etc/{name}")) {
                    add(&mut text, &path);
                }
            }
            Source::Image(path) if path.starts_with('/') => add(&mut text, path),
            Source::Image(name) => text.push_str(&images.origin_of(name)),
            Source::Template(_) | Source::Snapshot(_) => {}
        }
        for mount in &spec.mounts {
            match &mount.source {
                MountSource::Host(path) => add(&mut text, path),
                // A volume stays as long as a sandbox has its lock.
                MountSource::Volume(_) | MountSource::Tmpfs { .. } => {}
            }
        }
        text
    }
}

/// What a path of the host is.
#[cfg(feature = "image")]
pub(super) fn of_path(path: &std::path::Path) -> String {
    let mut text = String::new();
    add(&mut text, &path.to_string_lossy());
    text
}

/// Adds a path of the host. A link is what it leads to as well as itself.
fn add(text: &mut String, path: &str) {
    let found = std::fs::symlink_metadata(path);
    let is_link = found.as_ref().is_ok_and(std::fs::Metadata::is_symlink);
    add_file(text, identity(found));
    if is_link {
        add_file(text, identity(std::fs::metadata(path)));
    }
}

fn add_file(text: &mut String, identity: Option<(u64, u64, i64)>) {
    // Writing to a text cannot fail.
    let _ = match identity {
        Some((device, number, changed)) => write!(text, "{device}:{number}:{changed} "),
        None => write!(text, "- "),
    };
}

/// Which file or directory this is. What a sandbox shows keeps its number as long
/// as it does; a link is only copied, and its number may come again, so the time of
/// change counts too. A directory's changes with what is in it, and does not count.
fn identity(found: std::io::Result<std::fs::Metadata>) -> Option<(u64, u64, i64)> {
    let found = found.ok()?;
    let changed = if found.is_dir() {
        0
    } else {
        found
            .ctime()
            .wrapping_mul(1_000_000_000)
            .wrapping_add(found.ctime_nsec())
    };
    Some((found.dev(), found.ino(), changed))
}
