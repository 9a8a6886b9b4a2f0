//! From a request to what a helper is told, with the descriptors that go along.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::time::SystemTime;

use minicbor::bytes::ByteVec;
use rustix::fs::OFlags;
use rustix::io::Errno;
use stacyvm_agent::helper_protocol::{self as wire, Launch, Limits, MOST_OPEN_FILES, Root};
use stacyvm_agent::protocol::message::{AgentConfig, Variable};

use super::images::ImageRoot;
use super::open::open_without_links;
use super::quota::Size;
use super::runtime::Runtime;
use super::volumes::Volumes;
use crate::agent::spare_supervisors;
use crate::error::{Error, Result};
use crate::provider::CreateRequest;
use crate::providers::default_user::{DEFAULT_USER, places_of};
use crate::sandbox::spec::{MountSource, Privileges, SandboxSpec, Source};

/// The user that supervisors inside run as; no command may be this user.
pub(super) const SUPERVISOR_UID: u32 = 65_000;
/// Bytes of output kept for each stream of a background command.
const RING_BYTES: u32 = 1024 * 1024;
/// Commands at once.
const MAX_EXECS: u32 = 1024;

/// What goes to the helper in one packet.
#[derive(Debug)]
pub(super) struct Prepared {
    pub(super) launch: Launch,
    /// Which user inside must be this one, where this is not root: the default
    /// one where files of the host are mounted, root where its root directory is this user's.
    pub(super) own: Option<u32>,
    descriptors: Vec<OwnedFd>,
}

impl Prepared {
    pub(super) fn descriptors(&self) -> Vec<BorrowedFd<'_>> {
        self.descriptors.iter().map(AsFd::as_fd).collect()
    }

    /// Has a runtime make it, with these users.
    pub(super) fn bundle(&mut self, runtime: &Runtime, users: &wire::Users) -> Result<()> {
        let wire::Users::Private { first: first_id } = *users else {
            return Err(Error::unsupported(
                "a runtime needs a private range of users, which only root has",
            ));
        };
        self.launch.bundle = Some(wire::Bundle {
            runtime: runtime.path.to_string_lossy().into_owned(),
            config: super::bundle::config(&self.launch, first_id, runtime.has_own_kernel())?,
            own_kernel: runtime.has_own_kernel(),
        });
        Ok(())
    }

    /// Adds the connection for the agent; the last descriptor.
    pub(super) fn connect(&mut self, agent: OwnedFd) {
        self.launch.connection = true;
        self.descriptors.push(agent);
    }
}

/// What a request names that is kept for it.
#[derive(Debug)]
pub(super) struct Held<'a> {
    pub(super) volumes: &'a Volumes,
    /// Those of its volumes.
    pub(super) locks: Vec<OwnedFd>,
    /// Its image, where it has one.
    pub(super) image: Option<ImageRoot>,
}

/// Translates a request and opens what it names on the host.
pub(super) fn prepare(
    request: &CreateRequest,
    held: Held<'_>,
    record: Vec<u8>,
    many_users: bool,
    own_kernel: bool,
) -> Result<Prepared> {
    let spec = &request.spec;
    let Held {
        volumes,
        mut locks,
        image,
    } = held;
    let attainable = attainable_open_files();
    if let Some(asked) = spec.resources.open_files
        && asked > attainable
        && !request.open_files_preferred
    {
        return Err(Error::unsupported(format!(
            "open_files is `{asked}`, expected at most {attainable} on this host; raise its hard limit (ulimit -Hn) or ask for less"
        ))
        .context("field", "open_files")
        .context("value", asked));
    }
    let mut descriptors = Vec::new();
    let mut own = None;
    let mut defaults = Defaults::default();
    let mut layers = wire::Layers::default();
    let root = match &spec.source {
        Source::Image(name) if name == "host" => {
            defaults.user = "user".into();
            Root::Host
        }
        Source::Image(path) if path.starts_with('/') => {
            let root = open_source("image", path, OFlags::DIRECTORY)?;
            if is_own(&root) {
                own = Some(0);
            }
            descriptors.push(root);
            Root::Directory
        }
        Source::Image(_) | Source::Template(_) | Source::Snapshot(_) => {
            let Some(image) = image else {
                return Err(Error::unsupported(
                    "the embedded provider makes sandboxes of `host`, of root directories and of images",
                ));
            };
            // With a range its layers have owners of that.
            // With a single user it is that one.
            if let Some(user) = image.user.filter(|_| many_users) {
                defaults.user = user;
            }
            if let Some(workdir) = image.workdir {
                defaults.workdir = workdir;
            }
            defaults.env = image.env;
            layers = image.layers;
            descriptors.push(image.directory);
            locks.push(image.hold);
            Root::Layers
        }
    };
    if needs_own_user(spec) {
        own = Some(wire::SINGLE_USER);
    }
    let mut mounts = Vec::new();
    // What lies in another one comes after it, and is not hidden by it.
    let mut in_order: Vec<_> = spec.mounts.iter().enumerate().collect();
    in_order.sort_by_key(|(_, mount)| Path::new(&mount.target).components().count());
    for (index, mount) in in_order {
        let field = format!("mounts[{index}].source");
        let source = match &mount.source {
            MountSource::Host(path) => {
                descriptors.push(open_source(&field, path, OFlags::empty())?);
                wire::MountSource::Host
            }
            MountSource::Volume(name) => {
                volumes.make(name, Size::of(name, &spec.mounts).as_ref())?;
                descriptors.push(volumes.open_one(name)?);
                wire::MountSource::Host
            }
            MountSource::Tmpfs { size_mib } => wire::MountSource::Tmpfs {
                bytes: size_mib << 20,
            },
        };
        let writable = mount.writable || matches!(mount.source, MountSource::Tmpfs { .. });
        mounts.push(wire::Mount {
            target: mount.target.clone(),
            source,
            writable,
            of_host: matches!(mount.source, MountSource::Host(_)),
        });
    }
    let launch = Launch {
        id: request.id.to_string(),
        record: record.into(),
        root,
        read_only_root: spec.read_only_root,
        mounts,
        limits: limits(spec),
        hostname: hostname(request.id.as_str()),
        resolv_conf: String::new(),
        ends_in_ms: request.ends.map(milliseconds_until),
        agent: AgentConfig {
            spare_supervisors: spare_supervisors(spec.resources.pids, own_kernel),
            ..agent(request, defaults, attainable, many_users)
        },
        connection: false,
        bundle: None,
        layers,
        volume_locks: u32::try_from(locks.len()).unwrap_or(u32::MAX),
        waits: request.waits,
    };
    descriptors.extend(locks);
    Ok(Prepared {
        launch,
        own,
        descriptors,
    })
}

/// Whether something of the host is mounted: then this user is the default one inside.
pub(super) fn needs_own_user(spec: &SandboxSpec) -> bool {
    spec.mounts
        .iter()
        .any(|mount| !matches!(mount.source, MountSource::Tmpfs { .. }))
}

/// The most files that a command of this host's helpers can open: a helper
/// raises its own limit to [`MOST_OPEN_FILES`] where it may.
fn attainable_open_files() -> u64 {
    use rustix::process::{Resource, getrlimit};
    use rustix::thread::{CapabilitySet, capabilities};
    let own = getrlimit(Resource::Nofile).maximum.unwrap_or(u64::MAX);
    let may_raise =
        capabilities(None).is_ok_and(|c| c.effective.contains(CapabilitySet::SYS_RESOURCE));
    let most = std::fs::read_to_string("/proc/sys/fs/nr_open");
    let most: Option<u64> = most.ok().and_then(|text| text.trim().parse().ok());
    if may_raise && most.is_some_and(|most| most >= MOST_OPEN_FILES) {
        own.max(MOST_OPEN_FILES)
    } else {
        own
    }
}

/// Milliseconds from now to a time; 0 for one that has passed.
pub(super) fn milliseconds_until(time: SystemTime) -> u64 {
    let left = time.duration_since(SystemTime::now()).unwrap_or_default();
    u64::try_from(left.as_millis()).unwrap_or(u64::MAX)
}

fn limits(spec: &SandboxSpec) -> Limits {
    let resources = &spec.resources;
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "checked to be 0.01 to 4096"
    )]
    let millis = |cpus: f64| (cpus * 1000.0).round() as u64;
    Limits {
        memory_bytes: resources.memory_mib.map(|mib| mib << 20),
        cpu_millis: resources.cpus.map(millis),
        pids: resources.pids,
        disk_bytes: resources.disk_mib.map(|mib| mib << 20),
    }
}

/// What commands start with unless the spec says otherwise.
struct Defaults {
    user: String,
    workdir: String,
    env: Vec<(String, String)>,
}

impl Default for Defaults {
    fn default() -> Self {
        Self {
            user: DEFAULT_USER.into(),
            workdir: "/workspace".into(),
            env: Vec::new(),
        }
    }
}

fn agent(
    request: &CreateRequest,
    defaults: Defaults,
    attainable: u64,
    many_users: bool,
) -> AgentConfig {
    let spec = &request.spec;
    let mut env = defaults.env;
    for (name, value) in spec.env.iter().chain(request.secrets.expose()) {
        env.retain(|(known, _)| known != name);
        env.push((name.clone(), value.clone()));
    }
    let variable = |(name, value): (String, String)| Variable {
        name: name.into_bytes().into(),
        value: value.into_bytes().into(),
    };
    let user = spec.user.clone().unwrap_or(defaults.user);
    AgentConfig {
        places: places_of(&user),
        user,
        workdir: ByteVec::from(
            spec.workdir
                .clone()
                .unwrap_or(defaults.workdir)
                .into_bytes(),
        ),
        env: env.into_iter().map(variable).collect(),
        key: Vec::new(),
        deadline_ms: None,
        ring_bytes: RING_BYTES,
        max_execs: MAX_EXECS,
        open_files: spec.resources.open_files.map(|most| most.min(attainable)),
        supervisor_uid: SUPERVISOR_UID,
        can_switch_user: many_users,
        socket: None,
        idle_ms: spec
            .idle_timeout
            .map(|idle| u64::try_from(idle.as_millis()).unwrap_or(u64::MAX)),
        spare_supervisors: None,
        waits: request.waits.then_some(true),
        namespaced_root: (spec.privileges == Privileges::NamespacedRoot).then_some(true),
    }
}

/// The beginning of the id: short, and unique enough for people.
fn hostname(id: &str) -> String {
    id[..id.len().min(12)].trim_end_matches('-').to_owned()
}

/// Opens a directory or a mount's source of the host, whose links the engine has
/// resolved before it checked it: a link that is there now was put there since.
pub(super) fn open_source(field: &str, path: &str, flags: OFlags) -> Result<OwnedFd> {
    open_without_links(rustix::fs::CWD, Path::new(path), flags).map_err(|errno| {
        Error::invalid(
            field,
            path,
            if errno == Errno::LOOP {
                "a path on which nobody puts symbolic links meanwhile"
            } else {
                "an existing path of this host that this user may open"
            },
            "check the path, its rights, and who else may change it",
        )
        .source(std::io::Error::from(errno))
    })
}

/// Whether a directory belongs to this user.
fn is_own(directory: &OwnedFd) -> bool {
    rustix::fs::fstat(directory).is_ok_and(|s| s.st_uid == rustix::process::geteuid().as_raw())
}
