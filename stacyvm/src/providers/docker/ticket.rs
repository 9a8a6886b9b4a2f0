//! What another process of this user needs to go on with a sandbox: kept in
//! files that only this user can read, never in a label, which every client
//! of the engine can.

use std::fs;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};

use super::create::{SOCKET, SOCKET_DIRECTORY};
use crate::error::{Error, ErrorKind, Result};
use crate::id::SandboxId;
use crate::store::StateDir;

/// Bytes of a key.
pub(super) const KEY_BYTES: usize = 32;
/// How the name of a file ends that is not whole yet.
const NEW: &str = ".new";
/// Far above what is ever written.
const LONGEST: u64 = 64 * 1024;

/// One sandbox's ticket.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Ticket {
    /// The key of its connections, in hexadecimal.
    key: String,
    /// The agent's file inside.
    pub(super) program: String,
    /// When it ends, in milliseconds since the epoch.
    pub(super) ends_ms: Option<u64>,
    /// Whether it ends with its owner.
    pub(super) attached: bool,
    /// Whether it waits to be claimed.
    #[serde(default)]
    pub(super) waits: bool,
    /// Whether it has one user, whom the agent is.
    #[serde(default)]
    pub(super) one_user: bool,
    /// Who renews its lease where it is attached: the last who said that it is theirs.
    #[serde(default)]
    pub(super) owner: String,
}

impl std::fmt::Debug for Ticket {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Ticket")
            .field("program", &self.program)
            .field("ends_ms", &self.ends_ms)
            .finish_non_exhaustive()
    }
}

fn random<const N: usize>() -> Result<[u8; N]> {
    let mut random = [0; N];
    getrandom::fill(&mut random).map_err(|e| {
        Error::new(
            ErrorKind::Internal,
            "the system has no source of randomness",
        )
        .source(e)
    })?;
    Ok(random)
}

impl Ticket {
    /// A ticket with a new random key and a new random place for the agent,
    /// which no image can have prepared for.
    pub(super) fn mint(ends_ms: Option<u64>, attached: bool) -> Result<Self> {
        let (key, place) = (random::<KEY_BYTES>()?, random::<8>()?);
        Ok(Self {
            key: hex(&key),
            program: format!("/.stacyvm-{}/stacyvm-agent", hex(&place)),
            ends_ms,
            attached,
            waits: false,
            one_user: false,
            owner: hex(&random::<8>()?),
        })
    }

    /// Has it end with a new owner and nobody else, or with none.
    pub(super) fn give(&mut self, attached: bool) -> Result<()> {
        self.attached = attached;
        self.owner = hex(&random::<8>()?);
        Ok(())
    }

    /// The key itself.
    pub(super) fn key(&self) -> Result<[u8; KEY_BYTES]> {
        let mut key = [0; KEY_BYTES];
        let digits = self.key.as_bytes();
        if digits.len() == 2 * KEY_BYTES {
            let pairs = digits.chunks_exact(2).map(|pair| {
                let digit = |b: u8| char::from(b).to_digit(16);
                Some(u8::try_from(digit(pair[0])? << 4 | digit(pair[1])?).unwrap_or_default())
            });
            for (byte, value) in key.iter_mut().zip(pairs) {
                *byte = value.ok_or_else(damaged)?;
            }
            return Ok(key);
        }
        Err(damaged())
    }

    /// When it ends, its owner's life aside.
    pub(super) fn ends(&self) -> Option<SystemTime> {
        let ms = self.ends_ms?;
        SystemTime::UNIX_EPOCH.checked_add(Duration::from_millis(ms))
    }

    /// The agent's socket inside. Where the agent is no root, its directory has a name
    /// that no image has: of one that the image has runtimes take the mode from there.
    pub(super) fn socket(&self) -> String {
        if !self.one_user {
            return SOCKET.to_owned();
        }
        format!("{}/agent.sock", self.socket_directory())
    }

    /// The directory of the socket.
    pub(super) fn socket_directory(&self) -> String {
        if !self.one_user {
            return SOCKET_DIRECTORY.to_owned();
        }
        format!("{}-run", self.directory())
    }

    /// The directory of the agent's file.
    pub(super) fn directory(&self) -> &str {
        self.program
            .rsplit_once('/')
            .map_or("/", |(directory, _)| directory)
    }
}

fn damaged() -> Error {
    Error::new(
        ErrorKind::Corrupt,
        "the kept key of the sandbox is damaged, expected 64 hexadecimal digits",
    )
}

pub(super) fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// The directory of tickets.
#[derive(Clone, Debug)]
pub(super) struct Tickets(PathBuf);

impl Tickets {
    /// Opens the directory, and makes it where it is missing.
    pub(super) fn open(directory: &Path) -> Result<Self> {
        Ok(Self(StateDir::open_private(directory)?.path().to_owned()))
    }

    /// A file of the provider's own beside the tickets.
    pub(super) fn beside(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    fn path(&self, id: &SandboxId) -> PathBuf {
        self.0.join(format!("{id}.ticket"))
    }

    /// Keeps a ticket, replacing an older one in one step.
    pub(super) fn keep(&self, id: &SandboxId, ticket: &Ticket) -> Result<()> {
        let text = serde_json::to_vec(ticket).map_err(|e| {
            Error::new(ErrorKind::Internal, "the ticket cannot be written").source(e)
        })?;
        write_private(&self.path(id), &text)
    }

    /// Finds a ticket.
    pub(super) fn find(&self, id: &SandboxId) -> Result<Option<Ticket>> {
        let path = self.path(id);
        match read_private(&path)? {
            None => Ok(None),
            Some(text) => serde_json::from_slice(&text).map(Some).map_err(|_| {
                Error::new(
                    ErrorKind::Corrupt,
                    "the ticket of the sandbox cannot be read",
                )
                .context("path", path.display())
            }),
        }
    }

    /// The directory in which the sandbox's agent listens, where it is one of this host.
    pub(super) fn channel(&self, id: &SandboxId) -> PathBuf {
        self.0.join(format!("{id}.channel"))
    }

    /// Forgets a ticket, what was left by processes that died while they kept it, and the
    /// directory of its channel. Absent ones are success.
    pub(super) fn forget(&self, id: &SandboxId) -> Result<()> {
        // The ticket last: it is what a directory is found by.
        let half_made = format!("{id}.");
        for entry in fs::read_dir(&self.0).map_err(|e| at(&self.0, e))?.flatten() {
            let name = entry.file_name();
            let name = name.to_string_lossy();
            if name.starts_with(&half_made) && name.ends_with(NEW) {
                let path = entry.path();
                there(fs::remove_file(&path)).map_err(|e| at(&path, e))?;
            }
        }
        let channel = self.channel(id);
        there(fs::remove_dir_all(&channel)).map_err(|e| at(&channel, e))?;
        let path = self.path(id);
        there(fs::remove_file(&path)).map_err(|e| at(&path, e))
    }
}

/// What is not there needs no removal.
fn there(removed: io::Result<()>) -> io::Result<()> {
    match removed {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        removed => removed,
    }
}

/// Writes a file that only this user can read, in one step.
pub(super) fn write_private(path: &Path, bytes: &[u8]) -> Result<()> {
    let mut random = [0; 8];
    getrandom::fill(&mut random).map_err(|e| at(path, io::Error::other(e)))?;
    let temporary = path.with_extension(format!("{}{NEW}", hex(&random)));
    let mut options = fs::OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    let written = options
        .open(&temporary)
        .and_then(|mut file| file.write_all(bytes))
        .and_then(|()| fs::rename(&temporary, path));
    written.map_err(|e| {
        let _ = fs::remove_file(&temporary);
        at(path, e)
    })
}

/// Reads a file of at most [`LONGEST`] bytes; none if it does not exist.
pub(super) fn read_private(path: &Path) -> Result<Option<Vec<u8>>> {
    let file = match fs::File::open(path) {
        Ok(file) => file,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(at(path, e)),
    };
    let mut bytes = Vec::new();
    file.take(LONGEST)
        .read_to_end(&mut bytes)
        .map_err(|e| at(path, e))?;
    Ok(Some(bytes))
}

pub(super) fn at(path: &Path, error: io::Error) -> Error {
    let kind = match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => ErrorKind::NoSpace,
        io::ErrorKind::PermissionDenied => ErrorKind::PermissionDenied,
        _ => ErrorKind::Internal,
    };
    Error::new(kind, "the state directory cannot be used")
        .context("path", path.display())
        .source(error)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ticket_is_kept_replaced_and_forgotten() {
        let state = tempfile::tempdir().unwrap();
        let tickets = Tickets::open(state.path()).unwrap();
        let id = SandboxId::random();
        assert_eq!(tickets.find(&id).unwrap(), None);
        let mut ticket = Ticket::mint(None, false).unwrap();
        tickets.keep(&id, &ticket).unwrap();
        ticket.ends_ms = Some(7);
        tickets.keep(&id, &ticket).unwrap();
        let found = Tickets::open(state.path())
            .unwrap()
            .find(&id)
            .unwrap()
            .unwrap();
        assert_eq!(found, ticket);
        assert_eq!(hex(&found.key().unwrap()), ticket.key);
        // One that a process left which was killed while it kept it.
        let left = tickets.path(&id).with_extension("0123456789abcdef.new");
        fs::write(left, "{").unwrap();
        let other = tickets.path(&SandboxId::random());
        fs::write(other.with_extension("0123456789abcdef.new"), "{").unwrap();
        tickets.forget(&id).unwrap();
        tickets.forget(&id).unwrap();
        let names: Vec<_> = fs::read_dir(state.path()).unwrap().flatten().collect();
        assert_eq!(names.len(), 1, "the other's alone: {names:?}");
    }

    #[cfg(unix)]
    #[test]
    fn nobody_else_can_read_a_key_and_it_never_shows() {
        use std::os::unix::fs::PermissionsExt;
        let state = tempfile::tempdir().unwrap();
        let tickets = Tickets::open(state.path()).unwrap();
        let id = SandboxId::random();
        let ticket = Ticket::mint(None, false).unwrap();
        tickets.keep(&id, &ticket).unwrap();
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o7777;
        assert_eq!(mode(&tickets.path(&id)), 0o600);
        assert_eq!(mode(&tickets.0), 0o700);
        assert!(!format!("{ticket:?}").contains(&ticket.key));
        fs::set_permissions(&tickets.0, fs::Permissions::from_mode(0o777)).unwrap();
        let error = Tickets::open(state.path()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::PermissionDenied);
    }

    #[test]
    fn damage_is_told_and_two_tickets_differ() {
        let state = tempfile::tempdir().unwrap();
        let tickets = Tickets::open(state.path()).unwrap();
        let id = SandboxId::random();
        fs::write(tickets.path(&id), b"{").unwrap();
        assert_eq!(tickets.find(&id).unwrap_err().kind(), ErrorKind::Corrupt);
        let (a, b) = (
            Ticket::mint(None, false).unwrap(),
            Ticket::mint(None, false).unwrap(),
        );
        assert!(a.key != b.key && a.program != b.program);
        for key in ["", "zz", &"g".repeat(64), &"é".repeat(32)] {
            let bad = Ticket {
                key: key.to_owned(),
                ..a.clone()
            };
            assert_eq!(bad.key().unwrap_err().kind(), ErrorKind::Corrupt);
        }
    }
}
