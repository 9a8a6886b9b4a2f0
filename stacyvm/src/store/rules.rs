//! What every store decides the same way.

use std::ops::Bound;

use super::record::{SandboxRecord, SandboxUpdate};
use super::{KEY_KEPT_MS, LONGEST_PAGE};
use crate::context::Context;
use crate::error::{Error, ErrorKind, Result};
use crate::id::{ExecId, SandboxId};
use crate::sandbox::exec::ExitStatus;
use crate::sandbox::state::Phase;

/// The longest idempotency key, in bytes.
const LONGEST_KEY: usize = 255;

pub(super) fn page(limit: u32) -> usize {
    limit.clamp(1, LONGEST_PAGE) as usize
}

pub(super) fn beyond<T: Clone>(after: Option<&T>) -> Bound<T> {
    after.map_or(Bound::Unbounded, |id| Bound::Excluded(id.clone()))
}

/// Checks a record that is to be new.
pub(super) fn check_new(cx: &Context, record: &SandboxRecord) -> Result<()> {
    if record.tenant != cx.tenant {
        return Err(Error::new(
            ErrorKind::PermissionDenied,
            "the record belongs to another tenant than the call, expected the same",
        ));
    }
    if let Some(key) = &record.idempotency_key
        && (key.is_empty() || key.len() > LONGEST_KEY || key.chars().any(char::is_control))
    {
        return Err(Error::invalid(
            "idempotency_key",
            key,
            "1 to 255 bytes without control characters",
            "choose a random key for each request",
        ));
    }
    Ok(())
}

/// The record of a sandbox that is being made.
pub(super) fn newborn(record: &SandboxRecord) -> SandboxRecord {
    SandboxRecord {
        phase: Phase::Creating,
        version: 1,
        updated_ms: record.created_ms,
        ended_ms: None,
        ..record.clone()
    }
}

/// Whether a sandbox still holds its key. One whose making failed does not:
/// trying again is what the key is for.
pub(super) fn keeps_key(record: &SandboxRecord, now_ms: u64) -> bool {
    match (record.phase, record.ended_ms) {
        (Phase::Failed, _) => false,
        (_, Some(ended)) => now_ms < ended.saturating_add(KEY_KEPT_MS),
        (_, None) => true,
    }
}

pub(super) fn check_same_request(known: &SandboxRecord, asked: &SandboxRecord) -> Result<()> {
    if known.digest == asked.digest {
        return Ok(());
    }
    Err(Error::new(
        ErrorKind::Conflict,
        "the idempotency key was used for another request, expected the same spec",
    )
    .context("field", "idempotency_key")
    .context("sandbox", &known.id)
    .context(
        "remedy",
        "repeat the first request unchanged, or choose another key",
    ))
}

/// The record after a change.
pub(super) fn apply(
    record: &SandboxRecord,
    version: u64,
    update: &SandboxUpdate,
) -> Result<SandboxRecord> {
    if record.version != version {
        return Err(Error::new(
            ErrorKind::Conflict,
            "the sandbox was changed by another call since it was read",
        )
        .context("sandbox", &record.id)
        .context("found", record.version)
        .context("expected", version)
        .context("remedy", "read it again and decide anew"));
    }
    let mut next = record.clone();
    next.version += 1;
    next.updated_ms = update.at_ms.max(record.updated_ms);
    if let Some(phase) = update.phase {
        record
            .phase
            .check_move(phase)
            .map_err(|e| e.context("sandbox", &record.id))?;
        next.phase = phase;
        if phase.is_final() && record.ended_ms.is_none() {
            next.ended_ms = Some(update.at_ms);
        }
    }
    if let Some(ends) = update.ends_ms {
        next.ends_ms = ends;
    }
    if let Some(effective) = &update.effective {
        next.effective.clone_from(effective);
    }
    if let Some(labels) = &update.labels {
        next.labels.clone_from(labels);
    }
    if let Some(lifetime) = update.lifetime {
        next.lifetime = lifetime;
    }
    if let Some(asked) = &update.asked {
        next.spec.clone_from(&asked.spec);
        next.digest.clone_from(&asked.digest);
        next.lifetime = asked.lifetime;
    }
    if let Some(owner) = &update.owner {
        next.owner.clone_from(owner);
    }
    if let Some(failure) = &update.failure {
        next.failure = Some(failure.clone());
    }
    Ok(next)
}

pub(super) fn check_same_exit(exec: &ExecId, known: ExitStatus, told: ExitStatus) -> Result<()> {
    if known == told {
        return Ok(());
    }
    Err(Error::new(
        ErrorKind::Conflict,
        "the command has another end on record, expected one end",
    )
    .context("exec", exec)
    .context("found", format!("{known:?}"))
    .context("expected", format!("{told:?}")))
}

pub(crate) fn no_sandbox(id: &SandboxId) -> Error {
    let message = format!(
        "no sandbox {id} in this store; check the id, and which state directory it was made with"
    );
    Error::new(ErrorKind::NotFound, message).context("sandbox", id)
}

pub(super) fn no_exec(exec: &ExecId) -> Error {
    Error::new(ErrorKind::NotFound, format!("no command {exec}")).context("exec", exec)
}

pub(super) fn sandbox_exists(id: &SandboxId) -> Error {
    Error::new(
        ErrorKind::AlreadyExists,
        format!("sandbox {id} exists already, expected a new id; choose another or leave it out"),
    )
    .context("sandbox", id)
}

pub(super) fn exec_exists(exec: &ExecId) -> Error {
    Error::new(
        ErrorKind::AlreadyExists,
        format!("command {exec} exists already, expected a new id"),
    )
    .context("exec", exec)
}

pub(super) fn closed() -> Error {
    Error::new(ErrorKind::Unavailable, "the store was closed")
}
