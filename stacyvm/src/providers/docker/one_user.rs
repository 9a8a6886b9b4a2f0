//! Sandboxes of one user, for engines whose policy forbids added Linux capabilities:
//! the agent is that user from the beginning and can become no other.
//!
//! It cannot make its directories where root alone may write, so those that are
//! missing are put into the container before its start.

use std::path::Path;

use bollard::models::ImageConfig;
use bollard::query_parameters::{ContainerArchiveInfoOptions, UploadToContainerOptions};
use bytes::Bytes;

use super::create::{numbers, user_of, workdir_of};
use super::error::{is_absent, map};
use super::facts::Facts;
use super::life::Life;
use super::patience::Answer;
use super::volume::{archive_end, entry};
use crate::error::{Error, ErrorKind, Result};
use crate::providers::default_user::{DEFAULT_USER, PLACES};
use crate::sandbox::spec::{Mount, MountSource, SandboxSpec};

/// What an engine's refusal of a container says of its capabilities.
const OF_CAPABILITIES: [&str; 4] = ["capab", "capadd", "cap_add", "cap-add"];

/// What an engine says that forbids capabilities, with what to do about it. A 403 is a
/// policy's whatever it says.
pub(super) fn explained(error: Error, facts: &Facts) -> Error {
    let said = error.to_string();
    let lower = said.to_lowercase();
    let of_capabilities = OF_CAPABILITIES.iter().any(|word| lower.contains(word));
    if facts.one_user || !(error.fact("status") == Some("403") || of_capabilities) {
        return error;
    }
    Error::new(
        ErrorKind::PermissionDenied,
        "a policy of the docker engine refuses the container; where that is for the Linux \
         capabilities of the agent (SETUID, SETGID, SETPCAP, KILL, CHOWN, FOWNER, DAC_OVERRIDE), \
         have it allow them, or set `users: one` for sandboxes without them, which have one user",
    )
    .context("field", "docker.users")
    .context("value", "many")
    .context("engine", said)
    .source(error)
}

impl Life {
    /// Puts the directory of commands into a container that is not started yet, where
    /// the image has none and the agent could not make it. A user whom nobody named has
    /// `/workspace` and a home, whose ever they are in the image.
    pub(super) async fn make_places(
        &self,
        container: &str,
        spec: &SandboxSpec,
        image: &ImageConfig,
    ) -> Result<()> {
        // A root that is only read has a memory file system there.
        let made_here = self.facts.one_user || self.facts.engine_exec;
        if !made_here || spec.read_only_root {
            return Ok(());
        }
        let owner = numbers(&user_of(spec, image));
        let workdir = workdir_of(spec, image);
        let user = user_of(spec, image);
        let mut places = Vec::new();
        if user == DEFAULT_USER {
            places.extend(PLACES.map(str::to_owned));
        }
        // What is mounted from the host stays as it is, by whatever way it lies there.
        let host = |mount: &Mount| matches!(mount.source, MountSource::Host(_));
        let own = if spec.mounts.iter().any(host) {
            0
        } else {
            places.len()
        };
        if !places.contains(&workdir) {
            places.push(workdir);
        }
        let mut archive = Vec::new();
        for (index, place) in places.iter().enumerate() {
            let mounted = |target: &str| Path::new(place).starts_with(target);
            if spec.mounts.iter().any(|mount| mounted(&mount.target))
                || mounted("/tmp")
                || (index >= own && self.has_place(container, place).await?)
            {
                continue;
            }
            let name = format!("{}/", place.trim_matches('/'));
            let (mode, owner) = owner.map_or((0o1777, (0, 0)), |owner| (0o755, owner));
            archive.extend(entry(&name, b'5', mode, owner, &[]).ok_or_else(|| {
                let shorter = "an absolute path of at most 99 bytes";
                Error::invalid("workdir", place, shorter, "name a shorter one")
            })?);
        }
        if archive.is_empty() {
            return Ok(());
        }
        archive.extend(archive_end());
        let options = UploadToContainerOptions {
            path: "/".to_owned(),
            ..UploadToContainerOptions::default()
        };
        let body = bollard::body_full(Bytes::from(archive));
        let put = self
            .docker
            .upload_to_container(container, Some(options), body);
        put.within(&self.docker).await.map_err(map)
    }

    async fn has_place(&self, container: &str, path: &str) -> Result<bool> {
        let options = ContainerArchiveInfoOptions {
            path: path.to_owned(),
        };
        let docker = &self.docker;
        let info = docker.get_container_archive_info(container, Some(options));
        match info.within(docker).await {
            Ok(_) => Ok(true),
            Err(e) if is_absent(&e) => Ok(false),
            Err(e) => Err(map(e)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_policy_that_forbids_capabilities_is_told_with_the_setting() {
        let said = |status: u16, text: &str| {
            Error::new(ErrorKind::Internal, text.to_owned()).context("status", status)
        };
        let many = Facts::default();
        for error in [
            said(403, "authorization denied by plugin opa: no"),
            said(400, "CapAdd is not allowed here"),
            said(500, "capabilities cannot be added"),
        ] {
            let error = explained(error, &many);
            assert_eq!(error.kind(), ErrorKind::PermissionDenied);
            assert_eq!(error.fact("field"), Some("docker.users"));
            assert!(error.message().contains("users: one"), "{error}");
        }
        let other = explained(said(500, "something else"), &many);
        assert_eq!(other.kind(), ErrorKind::Internal);
        let one = Facts {
            one_user: true,
            ..many
        };
        let other = explained(said(403, "denied"), &one);
        assert_eq!(other.fact("field"), None);
    }

    #[test]
    fn numbers_of_a_user_are_known_and_names_are_not() {
        assert_eq!(numbers("1000:1000"), Some((1000, 1000)));
        assert_eq!(numbers("7"), Some((7, 0)));
        assert_eq!(numbers("app"), None);
        assert_eq!(numbers("7:app"), None);
    }
}
