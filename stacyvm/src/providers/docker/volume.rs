//! The agent's file on the engine: a named volume, filled once for each engine
//! and each version of the agent, and mounted read-only into every sandbox.

use std::path::PathBuf;
use std::time::Duration;

use bollard::Docker;
use bollard::models::{ContainerCreateBody, HostConfig, VolumeCreateRequest};
use bollard::query_parameters::{
    CreateContainerOptions, DownloadFromContainerOptions, RemoveContainerOptions,
    UploadToContainerOptions,
};
use bytes::Bytes;
use futures_util::{StreamExt, pin_mut};
use sha2::{Digest, Sha256};

use super::error::{is_absent, map, status};
use super::filling::Filling;
use super::patience::Answer;
use super::ticket::{self, Tickets};
use crate::error::{Error, ErrorKind, Result};

/// The name of the file in the volume.
const FILE: &str = "stacyvm-agent";
/// Where the container that fills the volume has it.
const PLACE: &str = "/.stacyvm-fill";
/// Longer than any filling takes: an older container was left by a process that died.
const STALE: Duration = Duration::from_mins(1);

/// The agent's bytes and the name that follows from them.
#[derive(Clone, Debug)]
pub(super) struct AgentVolume {
    pub(super) name: String,
    digest: [u8; 32],
    bytes: &'static [u8],
}

impl AgentVolume {
    /// The volume of an agent.
    pub(super) fn new(bytes: &'static [u8]) -> Self {
        let digest: [u8; 32] = Sha256::digest(bytes).into();
        Self {
            name: format!("stacyvm-agent-{}", ticket::hex(&digest)),
            digest,
            bytes,
        }
    }

    /// Makes sure that the volume exists and holds the agent.
    ///
    /// The content is checked once for each user and volume: a note in the
    /// state directory names the engine and the volume's time of creation,
    /// which for many engines is that of its last change. Engines tell it in
    /// whole seconds, so the note goes before anything is made. Only clients
    /// that own the engine anyway could change the volume.
    pub(super) async fn ensure(
        &self,
        docker: &Docker,
        engine: &str,
        tickets: &Tickets,
        image: &str,
        instance: &str,
    ) -> Result<()> {
        let note = tickets.beside(&format!("{}.checked", self.name));
        let fact = |created: &str| format!("{engine} {created}").into_bytes();
        if let Some(created) = self.created(docker).await? {
            if ticket::read_private(&note)? == Some(fact(&created)) {
                return Ok(());
            }
        } else {
            self.doubt(tickets);
            self.create(docker).await?;
        }
        let filling = Filling::begin(&self.mark(tickets), STALE).await?;
        let filler = match self.filler(docker, image, instance, &filling).await {
            Ok(filler) => filler,
            Err(error) => {
                // No answer does not mean that nothing was made.
                let name = self.filler_name();
                if filling.take_over(docker, &name, instance).await.is_ok() {
                    filling.done();
                }
                return Err(error);
            }
        };
        fault_point!("docker.fill.made");
        let filled = self.fill(docker, &filler).await;
        fault_point!("docker.fill.filled");
        let removed = remove(docker, &filler).await;
        fault_point!("docker.fill.removed");
        // Where it is not removed, the next one to open does it.
        removed?;
        filling.done();
        filled?;
        let created = self.created(docker).await?.unwrap_or_default();
        ticket::write_private(&note, &fact(&created))
    }

    fn mark(&self, tickets: &Tickets) -> PathBuf {
        tickets.beside(&format!("{}.filling", self.name))
    }

    /// The name of the container that fills it.
    fn filler_name(&self) -> String {
        format!("{}-fill", &self.name[..self.name.len().min(40)])
    }

    /// Takes away what a process of this state directory left that died while it
    /// filled the volume.
    pub(super) async fn tidy(
        &self,
        docker: &Docker,
        tickets: &Tickets,
        instance: &str,
    ) -> Result<()> {
        Filling::finish(self.mark(tickets), docker, &self.filler_name(), instance).await
    }

    /// Makes the next [`AgentVolume::ensure`] look again.
    pub(super) fn doubt(&self, tickets: &Tickets) {
        let _ = std::fs::remove_file(tickets.beside(&format!("{}.checked", self.name)));
    }

    /// When the volume came to be; none if it does not exist.
    async fn created(&self, docker: &Docker) -> Result<Option<String>> {
        match docker.inspect_volume(&self.name).within(docker).await {
            Ok(volume) => Ok(Some(volume.created_at.unwrap_or_default())),
            Err(e) if is_absent(&e) => Ok(None),
            Err(e) => Err(map(e)),
        }
    }

    /// Creating it twice is success.
    async fn create(&self, docker: &Docker) -> Result<()> {
        let request = VolumeCreateRequest {
            name: Some(self.name.clone()),
            // Of no store: all sandboxes of the engine share it.
            labels: Some(
                [(
                    "stacyvm.agent".to_owned(),
                    env!("CARGO_PKG_VERSION").to_owned(),
                )]
                .into(),
            ),
            ..VolumeCreateRequest::default()
        };
        docker
            .create_volume(request)
            .within(docker)
            .await
            .map_err(map)?;
        Ok(())
    }

    /// A container that has the volume and never runs. Its name is the lock
    /// between all processes that want to fill the same volume.
    async fn filler(
        &self,
        docker: &Docker,
        image: &str,
        instance: &str,
        filling: &Filling,
    ) -> Result<String> {
        let name = self.filler_name();
        let give_up = tokio::time::Instant::now() + STALE;
        loop {
            let body = ContainerCreateBody {
                image: Some(image.to_owned()),
                entrypoint: Some(vec![format!("{PLACE}/{FILE}")]),
                labels: Some([("stacyvm.instance".to_owned(), instance.to_owned())].into()),
                host_config: Some(HostConfig {
                    // nocopy: else the image's own content there would be copied in.
                    binds: Some(vec![format!("{}:{PLACE}:nocopy", self.name)]),
                    network_mode: Some("none".to_owned()),
                    ..HostConfig::default()
                }),
                ..ContainerCreateBody::default()
            };
            let options = CreateContainerOptions {
                name: Some(name.clone()),
                ..CreateContainerOptions::default()
            };
            match docker
                .create_container(Some(options), body)
                .within(docker)
                .await
            {
                Ok(made) => return Ok(made.id),
                Err(e) if is_absent(&e) => return Err(no_image(image)),
                Err(e) if status(&e) != Some(409) => return Err(map(e)),
                Err(_) if filling.take_over(docker, &name, instance).await? => {}
                Err(_) if tokio::time::Instant::now() < give_up => {
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
                // Whoever made it is gone, or it would have been removed.
                Err(_) => {
                    remove(docker, &name).await?;
                }
            }
        }
    }

    async fn fill(&self, docker: &Docker, filler: &str) -> Result<()> {
        if self.is_whole(docker, filler).await? {
            return Ok(());
        }
        let options = UploadToContainerOptions {
            path: PLACE.to_owned(),
            ..UploadToContainerOptions::default()
        };
        let body = bollard::body_full(Bytes::from(tar_of(FILE, self.bytes)));
        docker
            .upload_to_container(filler, Some(options), body)
            .within(docker)
            .await
            .map_err(map)?;
        if self.is_whole(docker, filler).await? {
            return Ok(());
        }
        Err(Error::new(
            ErrorKind::Corrupt,
            "the docker engine gives back another agent than it was given",
        )
        .context("volume", &self.name))
    }

    async fn is_whole(&self, docker: &Docker, filler: &str) -> Result<bool> {
        let options = DownloadFromContainerOptions {
            path: format!("{PLACE}/{FILE}"),
        };
        let stream = docker.download_from_container(filler, Some(options));
        pin_mut!(stream);
        let mut archive = Vec::new();
        // Headers and padding of the one file.
        let most = self.bytes.len() + 64 * 1024;
        loop {
            let piece = async { stream.next().await.transpose() };
            match piece.within(docker).await {
                Ok(None) => break,
                Ok(Some(piece)) => archive.extend_from_slice(&piece),
                Err(e) if is_absent(&e) => return Ok(false),
                Err(e) => return Err(map(e)),
            }
            if archive.len() > most {
                return Ok(false);
            }
        }
        Ok(first_file(&archive).is_some_and(|bytes| {
            let digest: [u8; 32] = Sha256::digest(bytes).into();
            digest == self.digest
        }))
    }
}

/// Whether a container could not start since somebody has taken the agent away, as
/// `docker volume prune` does while no sandbox lives.
pub(super) fn is_emptied(error: &Error) -> bool {
    let text = error.to_string();
    text.contains(&format!("/{FILE}\"")) && text.contains("no such file or directory")
}

/// The error for an image that the engine does not have.
pub(super) fn no_image(image: &str) -> Error {
    Error::new(
        ErrorKind::NotFound,
        format!(
            "the docker engine has no image `{image}`, expected one that it holds already; \
             fetch it with `docker pull`, or have it pulled (`--pull missing`)"
        ),
    )
    .context("field", "image")
    .context("value", image)
    .context("remedy", format!("docker pull {image}"))
}

async fn remove(docker: &Docker, container: &str) -> Result<()> {
    let options = RemoveContainerOptions {
        force: true,
        // The unnamed ones that the image declares; named ones stay.
        v: true,
        link: false,
    };
    match docker
        .remove_container(container, Some(options))
        .within(docker)
        .await
    {
        Err(e) if !is_absent(&e) => Err(map(e)),
        _ => Ok(()),
    }
}

const BLOCK: usize = 512;

/// A tar archive of one executable file of root.
fn tar_of(name: &str, bytes: &[u8]) -> Vec<u8> {
    let mut archive = entry(name, b'0', 0o555, (0, 0), bytes).unwrap_or_default();
    archive.extend(archive_end());
    archive
}

/// One entry of an archive; `None` for a name that is too long for a plain one.
pub(super) fn entry(
    name: &str,
    kind: u8,
    mode: u32,
    (user, group): (u32, u32),
    bytes: &[u8],
) -> Option<Vec<u8>> {
    if name.len() > 99 || user > 0o777_7777 || group > 0o777_7777 {
        return None;
    }
    let mut header = [0; BLOCK];
    let mut put =
        |at: usize, text: &str| header[at..at + text.len()].copy_from_slice(text.as_bytes());
    put(0, name);
    put(100, &format!("{mode:07o}\0"));
    put(108, &format!("{user:07o}\0"));
    put(116, &format!("{group:07o}\0"));
    put(124, &format!("{:011o}\0", bytes.len()));
    put(136, "00000000000\0");
    put(148, "        ");
    put(257, "ustar\x0000");
    header[156] = kind;
    let sum: u32 = header.iter().map(|b| u32::from(*b)).sum();
    header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    let mut entry = header.to_vec();
    entry.extend_from_slice(bytes);
    entry.resize(entry.len().next_multiple_of(BLOCK), 0);
    Some(entry)
}

/// What ends an archive.
pub(super) fn archive_end() -> [u8; 2 * BLOCK] {
    [0; 2 * BLOCK]
}

/// The content of the first regular file of an archive.
fn first_file(archive: &[u8]) -> Option<&[u8]> {
    let mut rest = archive;
    loop {
        let (header, after) = rest.split_at_checked(BLOCK)?;
        let digits = header[124..136]
            .split(|b| matches!(b, 0 | b' '))
            .find(|d| !d.is_empty())?;
        let size = usize::from_str_radix(std::str::from_utf8(digits).ok()?, 8).ok()?;
        if matches!(header[156], b'0' | 0) {
            return after.get(..size);
        }
        rest = after.get(size.checked_next_multiple_of(BLOCK)?..)?;
    }
}

#[cfg(test)]
#[path = "volume_engine_tests.rs"]
mod engine_tests;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_archive_is_read_back_and_is_what_tar_reads() {
        for size in [0, 1, 511, 512, 513, 5000] {
            let bytes = vec![7; size];
            let archive = tar_of("agent", &bytes);
            assert_eq!(archive.len() % BLOCK, 0);
            assert_eq!(first_file(&archive), Some(bytes.as_slice()));
            let mut sum = archive[..BLOCK].to_vec();
            sum[148..156].fill(b' ');
            let expected: u32 = sum.iter().map(|b| u32::from(*b)).sum();
            assert_eq!(&archive[148..154], format!("{expected:06o}").as_bytes());
        }
    }

    #[test]
    fn headers_before_the_file_are_skipped_and_a_torn_archive_is_nothing() {
        let mut extended = tar_of("pax", b"30 mtime=1.5\n");
        extended[156] = b'x';
        extended.truncate(2 * BLOCK);
        extended.extend(tar_of("agent", b"bytes"));
        assert_eq!(first_file(&extended), Some(b"bytes".as_slice()));
        let whole = tar_of("agent", &[1; 600]);
        for cut in 0..BLOCK + 600 {
            assert_eq!(first_file(&whole[..cut]), None, "{cut}");
        }
        let mut lying = whole;
        lying[124..135].fill(b'7');
        assert_eq!(first_file(&lying), None);
    }

    #[test]
    fn another_agent_has_another_volume() {
        let (a, b) = (AgentVolume::new(b"a"), AgentVolume::new(b"b"));
        assert_ne!(a.name, b.name);
        assert_eq!(a.name.len(), "stacyvm-agent-".len() + 64);
    }
}
