//! Whether a runtime is what its name says, as seen from inside.
//!
//! A container that shares the kernel of the engine's host sees that kernel's
//! version and boot id, whatever its namespaces are. So a kernel with another
//! version than the engine's is not shared; where the versions are equal, the
//! boot id is compared with the one that a container without a kernel of its own
//! has at the same moment. Nothing of it is remembered: a host that was started
//! anew has another boot id and may have another kernel.

use bollard::models::{ContainerCreateBody, HostConfig, SystemInfo};
use bollard::query_parameters::{
    AttachContainerOptions, CreateContainerOptions, RemoveContainerOptions, StartContainerOptions,
};
use stacyvm_agent::protocol::message::Kernel;
use tokio::io::AsyncReadExt;
use tokio::time::timeout;

use super::bridge::Bridge;
use super::create::INSTANCE;
use super::error::{map, status};
use super::life::{AGENT_WITHIN, Life};
use super::patience::Answer;
use super::ticket::Ticket;
use crate::error::{Error, ErrorKind, Result};
use crate::provider::Isolation;

/// What Kata is registered as. Those of its hypervisors have a `-` and more.
const KATA: [&str; 3] = ["kata", "kata-runtime", "kata-containers"];
/// What gVisor is registered as.
const GVISOR: [&str; 2] = ["runsc", "gvisor"];
/// Runtimes that are known to share the kernel of their host.
const SHARING: [&str; 4] = ["runc", "crun", "youki", "docker-runc"];
/// When gVisor's kernel says that it was made, in its versions without its name.
const OF_GVISOR: &str = "#1 SMP Sun Jan 10 15:06:54 PST 2016";
/// Bytes of a boot id, and more than that.
const BOOT_ID: u64 = 64;

/// What a runtime claims to be by its name, or by its program where the name says
/// nothing.
pub(super) fn claimed(name: &str, path: &str) -> Isolation {
    match of_name(name) {
        Isolation::Namespaces => of_name(program(path)),
        claimed => claimed,
    }
}

/// What can be promised of it: what it claims, which is checked from inside; but
/// a program that is known to be another one stays that.
pub(super) fn promised(name: &str, path: &str) -> Isolation {
    let program = program(path);
    if SHARING.contains(&program) {
        return Isolation::Namespaces;
    }
    match of_name(program) {
        Isolation::Namespaces => claimed(name, path),
        promised => promised,
    }
}

/// Of a shim of containerd there is its name alone.
fn program(path: &str) -> &str {
    path.rsplit('/').next().unwrap_or_default()
}

fn of_name(name: &str) -> Isolation {
    let is = |names: &[&str]| {
        names.iter().any(|known| {
            let rest = name.strip_prefix(known);
            rest.is_some_and(|rest| rest.is_empty() || rest.starts_with(['-', '_', '.']))
        })
    };
    if is(&KATA) || name.contains("containerd.kata") || name.contains("containerd-shim-kata") {
        Isolation::VirtualMachine
    } else if is(&GVISOR) || name.contains("containerd.runsc") || name.contains("shim-runsc") {
        Isolation::UserKernel
    } else {
        Isolation::Namespaces
    }
}

/// What one look from inside tells.
#[derive(Debug, PartialEq, Eq)]
enum Seen {
    /// What was claimed.
    Proved,
    /// A kernel of this release, which the engine's host may have too.
    Release(String),
    /// Something else, for people.
    Wrong(String),
}

/// Compares what a runtime claims with the kernel inside. `here` is the boot id
/// of this host, which is the engine's where that is local.
fn judge(claim: Isolation, kernel: &Kernel, here: Option<&str>) -> Seen {
    let shared = here.is_some_and(|here| !here.is_empty() && here == kernel.boot_id);
    let gvisor =
        kernel.gvisor || kernel.version.contains("gvisor") || kernel.version.ends_with(OF_GVISOR);
    match claim {
        _ if shared => Seen::Wrong(format!("the kernel of this host, {}", kernel.version)),
        Isolation::UserKernel if gvisor => Seen::Proved,
        Isolation::UserKernel => Seen::Wrong(kernel.version.clone()),
        _ if gvisor => Seen::Wrong(format!("gVisor, {}", kernel.version)),
        _ => match kernel.version.split_whitespace().nth(2) {
            Some(release) if !kernel.boot_id.is_empty() => Seen::Release(release.to_owned()),
            _ => Seen::Wrong("a kernel that does not tell which one it is".to_owned()),
        },
    }
}

impl Life {
    /// Refuses a container that is not what its runtime's name says.
    pub(super) async fn check_identity(
        &self,
        kernel: Option<&Kernel>,
        image: &str,
        ticket: &Ticket,
    ) -> Result<()> {
        let claim = self.facts.claim;
        if claim == Isolation::Namespaces {
            return Ok(());
        }
        let Some(kernel) = kernel else {
            return Err(self.impostor("a kernel that the agent does not tell"));
        };
        let release = match judge(claim, kernel, boot_id_here().as_deref()) {
            Seen::Proved => return Ok(()),
            Seen::Wrong(what) => return Err(self.impostor(&what)),
            Seen::Release(release) => release,
        };
        // Asked now: the engine's host may have another kernel than when it was opened.
        let info = self.docker.info().within(&self.docker).await.map_err(map)?;
        match info.kernel_version.as_deref() {
            Some(engine) if engine != release && !engine.is_empty() => Ok(()),
            _ => {
                let plain = self.plain_boot_id(&info, image, ticket).await?;
                if plain == kernel.boot_id {
                    let what = format!("the kernel of the engine's host, {}", kernel.version);
                    return Err(self.impostor(&what));
                }
                Ok(())
            }
        }
    }

    fn impostor(&self, seen: &str) -> Error {
        let expected = match self.facts.claim {
            Isolation::UserKernel => "gVisor's own kernel",
            _ => "the kernel of a virtual machine of its own",
        };
        let remedy = "correct the program of this runtime in the engine's configuration, or \
                      take a runtime by the name of what it is";
        Error::new(
            ErrorKind::Unsupported,
            format!(
                "the runtime {} is not what its name says: inside is {seen}, expected \
                 {expected}; {remedy}",
                self.facts.runtime
            ),
        )
        .context("field", "docker.runtime")
        .context("value", &self.facts.runtime)
        .context("expected", expected)
        .context("seen", seen)
        .context("remedy", remedy)
    }

    /// The boot id that a container has which shares the kernel of its host.
    pub(super) async fn plain_boot_id(
        &self,
        info: &SystemInfo,
        image: &str,
        ticket: &Ticket,
    ) -> Result<String> {
        let Some(runtime) = plain_runtime(info) else {
            return Err(self.impostor(
                "a kernel of the same version as the engine's, which cannot be told from that \
                 without a runtime that shares it",
            ));
        };
        let labels = [(INSTANCE.to_owned(), self.config.instance.to_string())];
        let body = ContainerCreateBody {
            image: Some(image.to_owned()),
            user: Some("0:0".to_owned()),
            entrypoint: Some(vec![ticket.program.clone(), "boot-id".to_owned()]),
            cmd: Some(Vec::new()),
            working_dir: Some("/".to_owned()),
            attach_stdout: Some(true),
            labels: Some(labels.into()),
            host_config: Some(HostConfig {
                runtime: Some(runtime),
                binds: Some(vec![format!(
                    "{}:{}:ro,nocopy",
                    self.volume.name,
                    ticket.directory()
                )]),
                cap_drop: Some(vec!["ALL".to_owned()]),
                security_opt: Some(vec!["no-new-privileges:true".to_owned()]),
                network_mode: Some("none".to_owned()),
                readonly_rootfs: Some(true),
                auto_remove: Some(true),
                ..HostConfig::default()
            }),
            ..ContainerCreateBody::default()
        };
        let made = self
            .docker
            .create_container(None::<CreateContainerOptions>, body)
            .within(&self.docker)
            .await
            .map_err(map)?
            .id;
        let told = timeout(AGENT_WITHIN, self.told_by(&made)).await;
        let options = RemoveContainerOptions {
            force: true,
            v: true,
            link: false,
        };
        // It removes itself when it ends, which then is under way.
        match self
            .docker
            .remove_container(&made, Some(options))
            .within(&self.docker)
            .await
        {
            Err(e) if !matches!(status(&e), Some(404 | 409)) => return Err(map(e)),
            _ => {}
        }
        let told = told.map_err(|late| {
            Error::new(ErrorKind::Timeout, "a plain container does not end").source(late)
        })??;
        match told.trim() {
            "" => Err(self.impostor(
                "a kernel of the same version as the engine's, and a plain container to \
                 compare it with tells nothing",
            )),
            told => Ok(told.to_owned()),
        }
    }

    async fn told_by(&self, container: &str) -> Result<String> {
        let options = AttachContainerOptions {
            stdout: true,
            stream: true,
            ..AttachContainerOptions::default()
        };
        let attached = self
            .docker
            .attach_container(container, Some(options))
            .within(&self.docker)
            .await;
        let attached = attached.map_err(map)?;
        let started = self
            .docker
            .start_container(container, None::<StartContainerOptions>);
        started.await.map_err(map)?;
        let mut said = Vec::new();
        let output = Bridge::new(attached.output, attached.input);
        let read = output.take(BOOT_ID).read_to_end(&mut said).await;
        read.map_err(|e| {
            Error::new(ErrorKind::Unavailable, "a plain container broke off").source(e)
        })?;
        Ok(String::from_utf8_lossy(&said).into_owned())
    }

    /// Names the runtime where the engine cannot start it.
    pub(super) fn not_started(&self, failed: bollard::errors::Error) -> Error {
        let said = failed.to_string();
        let absent = [
            "Unknown runtime specified",
            "unknown or invalid runtime name",
            "binary not installed",
            "unable to retrieve OCI runtime error",
        ];
        if !absent.iter().any(|words| said.contains(words)) {
            return map(failed);
        }
        Error::invalid(
            "docker.runtime",
            &self.facts.runtime,
            "a runtime that the engine can start",
            "install it on the engine's host, or correct its path in the engine's configuration",
        )
        .context("engine", said.trim())
        .source(failed)
    }
}

/// A runtime of the engine that shares the kernel of its host.
fn plain_runtime(info: &SystemInfo) -> Option<String> {
    let registered = info.runtimes.as_ref()?;
    let usual = SHARING.iter().map(|name| (*name).to_owned());
    let default = info.default_runtime.clone();
    usual.chain(default).find(|name| {
        let path = registered.get(name).map(|r| r.path.as_deref());
        path.is_some_and(|path| claimed(name, path.unwrap_or(name)) == Isolation::Namespaces)
    })
}

/// The boot id of this host, where it has one.
fn boot_id_here() -> Option<String> {
    let text = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?;
    Some(text.trim().to_owned())
}

#[cfg(test)]
#[path = "identity_engine_tests.rs"]
mod engine_tests;

#[cfg(test)]
#[path = "identity_tests.rs"]
mod tests;
