//! What lies around a container beside its hardening: mounts, network, ports, and a
//! limit of disk.

use std::collections::HashMap;
use std::path::Path;

use bollard::models::{ContainerCreateBody, ImageConfig};

use super::create::{OWN_FILTER, Owner};
use super::life::Life;
use super::{mounts, network};
use crate::error::{Error, ErrorKind, Result};
use crate::provider::CreateRequest;
use crate::sandbox::spec::{MountSource, Network, SandboxSpec};

/// Whether a sandbox may write to a directory of the host.
pub(super) fn writes_to_host(spec: &SandboxSpec) -> bool {
    let mut mounts = spec.mounts.iter();
    mounts.any(|mount| mount.writable && matches!(mount.source, MountSource::Host(_)))
}

impl Life {
    /// Adds it to what the engine is asked for, or refuses it. Nothing is made.
    pub(super) fn surround(
        &self,
        body: &mut ContainerCreateBody,
        request: &CreateRequest,
        owner: &Owner<'_>,
        image: &ImageConfig,
    ) -> Result<()> {
        let spec = &request.spec;
        let places = [
            self.config.socket().map(Path::new),
            self.facts.data.as_deref().map(Path::new),
        ];
        let places: Vec<&Path> = places.into_iter().flatten().collect();
        mounts::check_host(spec, &places)?;
        let declared = image.volumes.as_deref().unwrap_or_default();
        let host = body.host_config.get_or_insert_default();
        let covered = host.tmpfs.iter().flat_map(HashMap::keys);
        let covered: Vec<&str> = covered.map(String::as_str).collect();
        let all = mounts::mounts(
            &request.id,
            owner.instance,
            owner.tenant,
            spec,
            declared,
            &covered,
        );
        let own = all.iter().find(|mount| mount.source.is_none());
        if let Some(target) = own.and_then(|mount| mount.target.as_deref()) {
            beyond(spec, target)?;
        }
        if let Some(mib) = spec.resources.disk_mib {
            let bytes = mib.saturating_mul(1024 * 1024).to_string();
            host.storage_opt = Some([("size".to_owned(), bytes)].into());
        }
        if !all.is_empty() {
            host.mounts = Some(all);
        }
        if writes_to_host(spec) {
            without_set_id(host.security_opt.as_mut(), self.facts.own_kernel());
        }
        if !spec.ports.is_empty() {
            let (exposed, bindings) = network::bindings(&spec.ports);
            body.exposed_ports = Some(exposed);
            host.port_bindings = Some(bindings);
        }
        Ok(())
    }

    /// Makes what a container needs before it is made.
    pub(super) async fn prepare(
        &self,
        body: &mut ContainerCreateBody,
        request: &CreateRequest,
        owner: &Owner<'_>,
    ) -> Result<()> {
        let volumes = self.make_volumes(&request.spec).await?;
        if self.facts.own_kernel() {
            let host = body.host_config.get_or_insert_default();
            let mounts = host.mounts.as_deref_mut().unwrap_or_default();
            let labels = mounts::labels(&request.id, owner.instance, owner.tenant);
            mounts::held_by_kernel(&request.id, mounts, &volumes, &labels);
        }
        if request.spec.network == Some(Network::Full) {
            let bridge = self.make_bridge(&request.id, owner).await?;
            body.host_config.get_or_insert_default().network_mode = Some(bridge);
        }
        Ok(())
    }
}

/// Refuses what a volume that the image declares would lie beyond: the engine always
/// makes one, which is written whatever the root is and has no limit.
fn beyond(spec: &SandboxSpec, target: &str) -> Result<()> {
    let (field, value, what) = if spec.read_only_root {
        ("read_only_root", "true".to_owned(), "can be written")
    } else if let Some(mib) = spec.resources.disk_mib {
        (
            "disk_mib",
            mib.to_string(),
            "a limit of disk does not cover",
        )
    } else {
        return Ok(());
    };
    Err(Error::unsupported(format!(
        "the image declares a volume on {target}, which {what}; mount a tmpfs or a volume \
         there, or leave `{field}` out"
    ))
    .context("field", field)
    .context("value", value))
}

/// A program with a set-id bit in a directory of the host is one of the host's too;
/// see decision 0008.
fn without_set_id(options: Option<&mut Vec<String>>, own_kernel: bool) {
    let options = options.into_iter().flatten();
    for filter in options.filter(|option| option.starts_with(OWN_FILTER)) {
        let profile = crate::syscall_filter::profile(true, own_kernel);
        *filter = format!("{OWN_FILTER}{profile}");
    }
}

/// What the engine says of the surroundings of a container, told by the field that
/// asked for it.
pub(super) fn explained(error: Error, spec: &SandboxSpec) -> Error {
    let text = error.to_string();
    let has = |part: &str| text.contains(part);
    let port_taken = has("port is already allocated") || has("address already in use");
    if !spec.ports.is_empty() && port_taken {
        let ports: Vec<String> = spec.ports.iter().map(|p| p.host.to_string()).collect();
        return Error::new(
            ErrorKind::AlreadyExists,
            "a port of the host is taken, expected one that nobody listens on; name another, or \
             0 for any",
        )
        .context("field", "ports")
        .context("value", ports.join(", "))
        .source(error);
    }
    let asked = spec.resources.disk_mib.filter(|_| has("storage-opt"));
    if let Some(mib) = asked {
        return Error::unsupported(
            "the docker engine's disk holds no limits, expected overlay2 on xfs with the mount \
             option `pquota`; leave `disk_mib` out, or move the engine's data to such a disk",
        )
        .context("field", "disk_mib")
        .context("value", mib)
        .source(error);
    }
    let resources = &spec.resources;
    for (words, field, value) in [
        (
            "Minimum memory limit allowed",
            "memory_mib",
            resources.memory_mib.map(|mib| mib.to_string()),
        ),
        (
            "Range of CPUs is from",
            "cpus",
            resources.cpus.map(|cpus| cpus.to_string()),
        ),
    ] {
        if let Some(value) = value.filter(|_| has(words)) {
            return Error::new(
                ErrorKind::InvalidArgument,
                format!("the docker engine cannot keep to `{field}`, expected what it says; ask for such a limit, or leave it out"),
            )
            .context("field", field)
            .context("value", value)
            .context("engine", &text)
            .source(error);
        }
    }
    if has("bind source path does not exist") || has("failed to mount local volume") {
        return Error::new(
            ErrorKind::NotFound,
            "a directory of the host is not there for the docker engine, expected one that the \
             engine sees as this process does; mount another, or use a volume",
        )
        .context("field", "mounts")
        .source(error);
    }
    error
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sandbox::spec::Port;

    #[test]
    fn the_filter_that_is_given_lets_no_set_id_bits_be_made() {
        let mut options = vec![
            "no-new-privileges:true".to_owned(),
            format!("{OWN_FILTER}x"),
        ];
        without_set_id(Some(&mut options), false);
        assert_eq!(options[0], "no-new-privileges:true");
        let expected = crate::syscall_filter::profile(true, false).to_string();
        assert_eq!(options[1], format!("{OWN_FILTER}{expected}"));
        without_set_id(None, false);
    }

    #[test]
    fn what_an_image_declares_is_not_beyond_what_was_asked_for() {
        let mut spec = SandboxSpec::image("a");
        beyond(&spec, "/data").unwrap();
        spec.resources.disk_mib = Some(64);
        let error = beyond(&spec, "/data").unwrap_err();
        assert_eq!(error.fact("field"), Some("disk_mib"));
        spec.read_only_root = true;
        let error = beyond(&spec, "/data").unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unsupported);
        assert_eq!(error.fact("field"), Some("read_only_root"));
    }

    #[test]
    fn what_the_engine_says_is_told_by_its_field() {
        let said = |text: &str| Error::new(ErrorKind::Internal, text.to_owned());
        let mut spec = SandboxSpec::image("a").disk_mib(64);
        spec.ports.push(Port { guest: 1, host: 80 });
        for (text, kind, field) in [
            (
                "Bind for 127.0.0.1:80 failed: port is already allocated",
                ErrorKind::AlreadyExists,
                "ports",
            ),
            (
                "--storage-opt is supported only for overlay over xfs with 'pquota' mount option",
                ErrorKind::Unsupported,
                "disk_mib",
            ),
            (
                "invalid mount config: bind source path does not exist: /x",
                ErrorKind::NotFound,
                "mounts",
            ),
        ] {
            let error = explained(said(text), &spec);
            assert_eq!((error.kind(), error.fact("field")), (kind, Some(field)));
        }
        for (text, field) in [
            ("Minimum memory limit allowed is 6MB", "memory_mib"),
            (
                "Range of CPUs is from 0.01 to 2.00, as there are only 2 CPUs",
                "cpus",
            ),
        ] {
            let asked = SandboxSpec::image("a").memory_mib(4).cpus(1000.0);
            let error = explained(said(text), &asked);
            assert_eq!(error.kind(), ErrorKind::InvalidArgument);
            assert_eq!(error.fact("field"), Some(field));
        }
        let other = explained(said("something else"), &spec);
        assert_eq!(other.kind(), ErrorKind::Internal);
        let none = SandboxSpec::image("a");
        let other = explained(said("port is already allocated"), &none);
        assert_eq!(other.kind(), ErrorKind::Internal);
    }
}
