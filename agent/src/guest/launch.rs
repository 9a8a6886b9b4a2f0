//! Turns a request into what the system calls need.

use std::collections::BTreeMap;
use std::ffi::CString;
use std::io;
use std::os::fd::OwnedFd;

use minicbor::bytes::ByteVec;

use super::failure::{about, failure};
use super::places;
use super::sys::spawn::{Credentials, Plan, Stage};
use super::users::{self, Account};
use crate::protocol::message::{AgentConfig, ExecRequest, Failure, FailureKind, Variable};

const DEFAULT_PATH: &[u8] = b"/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Refuses what no command can be.
pub(super) fn validate(request: &ExecRequest) -> Result<(), Failure> {
    let invalid = |message: &str| Err(failure(FailureKind::Invalid, message));
    if request.exec.is_empty() || request.exec.len() > 128 {
        return invalid("exec id must have 1 to 128 bytes");
    }
    let has_nul = |bytes: &ByteVec| bytes.contains(&0);
    match request.argv.first() {
        None => return invalid("argv is empty, at least the command is expected"),
        Some(command) if command.is_empty() => return invalid("the command is an empty string"),
        Some(_) => {}
    }
    if request.argv.iter().any(has_nul) {
        return invalid("argv has a nul byte");
    }
    check_variables(&request.env)?;
    if request.workdir.as_ref().is_some_and(has_nul) {
        return invalid("workdir has a nul byte");
    }
    Ok(())
}

/// Refuses variables that no command can have.
pub(super) fn check_variables(env: &[Variable]) -> Result<(), Failure> {
    let invalid = |message: &str| Err(failure(FailureKind::Invalid, message));
    let has_nul = |bytes: &ByteVec| bytes.contains(&0);
    for variable in env {
        if variable.name.is_empty() || variable.name.contains(&b'=') || has_nul(&variable.name) {
            return invalid("a variable's name is empty or has '=' or a nul byte");
        }
        if has_nul(&variable.value) {
            return invalid("a variable's value has a nul byte");
        }
    }
    Ok(())
}

/// The account of `user`, as far as this agent can take it.
pub(super) fn account(config: &AgentConfig, user: Option<&str>) -> Result<Account, Failure> {
    let text = user.unwrap_or(&config.user);
    let mut account = users::resolve(text)?;
    if account.name.is_none()
        && let Some(home) = places::home(config, account.uid)
    {
        account.home = home;
    }
    if config.can_switch_user {
        if account.uid == config.supervisor_uid {
            return Err(about(
                FailureKind::PermissionDenied,
                format!(
                    "user number {} is that of the sandbox's own supervisors, expected another one; \
                     run the command as another user",
                    account.uid
                ),
                text.as_bytes(),
            ));
        }
    } else if account.uid != rustix::process::geteuid().as_raw()
        || account.gid != rustix::process::getegid().as_raw()
    {
        return Err(about(
            FailureKind::Unsupported,
            "this sandbox runs every command as its own user",
            text.as_bytes(),
        ));
    }
    Ok(account)
}

/// Its variables, each once: the last value of a name, at the name's first place.
fn environment<'a>(
    config: &'a AgentConfig,
    account: &'a Account,
    name: &'a str,
    request: &'a ExecRequest,
) -> Vec<(&'a [u8], &'a [u8])> {
    let mut env: Vec<(&[u8], &[u8])> = Vec::new();
    // There can be tens of thousands.
    let mut places = BTreeMap::new();
    let mut set = |name: &'a [u8], value: &'a [u8]| {
        let place = *places.entry(name).or_insert(env.len());
        if place == env.len() {
            env.push((name, value));
        } else {
            env[place].1 = value;
        }
    };
    set(b"PATH", DEFAULT_PATH);
    set(b"LANG", b"C.UTF-8");
    for variable in &config.env {
        set(&variable.name, &variable.value);
    }
    if request.tty.is_some() {
        set(b"TERM", b"xterm-256color");
    }
    set(b"HOME", &account.home);
    set(b"USER", name.as_bytes());
    set(b"LOGNAME", name.as_bytes());
    for variable in &request.env {
        set(&variable.name, &variable.value);
    }
    env
}

/// Where the command may be, in the order in which it is looked for.
fn candidates(command: &[u8], path: &[u8]) -> Vec<Vec<u8>> {
    if command.contains(&b'/') {
        return vec![command.to_vec()];
    }
    path.split(|byte| *byte == b':')
        .map(|directory| {
            let directory: &[u8] = if directory.is_empty() {
                b"."
            } else {
                directory
            };
            [directory, b"/", command].concat()
        })
        .collect()
}

fn terminated(bytes: impl Into<Vec<u8>>) -> Result<CString, Failure> {
    CString::new(bytes).map_err(|_| failure(FailureKind::Invalid, "a text has a nul byte"))
}

/// Plans the start of a command.
pub(super) fn plan(
    config: &AgentConfig,
    request: &ExecRequest,
    account: &Account,
    stdio: [OwnedFd; 3],
) -> Result<Plan, Failure> {
    let name = account.name.clone().unwrap_or(account.uid.to_string());
    let env = environment(config, account, &name, request);
    let path = env
        .iter()
        .find(|(name, _)| *name == b"PATH")
        .map_or(DEFAULT_PATH, |(_, value)| value);
    let command = request.argv.first().map_or(&[][..], |first| first);
    let workdir = request.workdir.as_ref().unwrap_or(&config.workdir);
    Ok(Plan {
        candidates: candidates(command, path)
            .into_iter()
            .map(terminated)
            .collect::<Result<_, _>>()?,
        argv: request
            .argv
            .iter()
            .map(|part| terminated(part.to_vec()))
            .collect::<Result<_, _>>()?,
        env: env
            .iter()
            .map(|(name, value)| terminated([name, &b"="[..], value].concat()))
            .collect::<Result<_, _>>()?,
        workdir: terminated(workdir.to_vec())?,
        stdio,
        tty: request.tty.is_some(),
        credentials: config.can_switch_user.then(|| Credentials {
            uid: account.uid,
            gid: account.gid,
            groups: account.groups.clone(),
            namespaced_root: config.has_namespaced_root(),
        }),
        open_files: config.open_files,
    })
}

/// Says why a command did not start.
pub(super) fn explain(
    stage: Stage,
    error: &io::Error,
    config: &AgentConfig,
    request: &ExecRequest,
) -> Failure {
    let errno = error.raw_os_error();
    let command = request.argv.first().map_or(&[][..], |first| first);
    let workdir = request.workdir.as_ref().unwrap_or(&config.workdir);
    let user = request.user.as_ref().unwrap_or(&config.user);
    let exhausted = matches!(
        errno,
        Some(libc::EAGAIN | libc::ENOMEM | libc::EMFILE | libc::ENFILE)
    );
    let (kind, what, subject) = match stage {
        _ if exhausted => (FailureKind::Exhausted, "command could not start", command),
        Stage::Clone => (FailureKind::Internal, "command could not start", command),
        Stage::Group => (
            FailureKind::Internal,
            "cgroup of commands was refused",
            command,
        ),
        Stage::Terminal => (FailureKind::Internal, "terminal was refused", command),
        Stage::Descriptors => (FailureKind::Internal, "descriptors were refused", command),
        Stage::Credentials if errno == Some(libc::EINVAL) => (
            FailureKind::Invalid,
            "user or group has a number that this sandbox does not have; use one below 65536",
            user.as_bytes(),
        ),
        Stage::Credentials => (FailureKind::Internal, "user was refused", user.as_bytes()),
        Stage::Workdir => (
            FailureKind::BadWorkdir,
            "working directory must exist and let its user enter; make it, or use another",
            &workdir[..],
        ),
        Stage::Execute => match errno {
            Some(libc::ENOENT | libc::ENOTDIR) => (
                FailureKind::CommandNotFound,
                "command was not found",
                command,
            ),
            Some(libc::E2BIG) => (
                FailureKind::Invalid,
                "arguments and environment are too long",
                command,
            ),
            _ => (
                FailureKind::CommandNotExecutable,
                "command cannot be executed",
                command,
            ),
        },
    };
    Failure {
        errno,
        ..about(kind, format!("{what}: {error}"), subject)
    }
}
