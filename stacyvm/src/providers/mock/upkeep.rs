//! What the mock holds, for whoever looks for leftovers.

use super::sandbox::Sandbox;
use crate::error::{Error, ErrorKind, Result};
use crate::provider::{DiskUse, Leftover};

pub(super) fn leftover(sandbox: &Sandbox) -> Leftover {
    let id = &sandbox.fixed.id;
    Leftover {
        id: format!("sandbox:{id}"),
        kind: "sandbox".to_owned(),
        name: id.to_string(),
        instance: None,
        state_dir: None,
        sandbox: Some(id.clone()),
        owner_lives: !sandbox.lock().gone,
        evidence: "it is in the memory of this mock".to_owned(),
        remedy: "remove it by its id; it goes with this process anyhow".to_owned(),
    }
}

/// Only what ended is removed.
pub(super) fn check_removal(leftover: &Leftover) -> Result<()> {
    if leftover.owner_lives {
        return Err(Error::new(
            ErrorKind::Conflict,
            format!(
                "{} lives, expected something whose owner is dead",
                leftover.id
            ),
        ));
    }
    Ok(())
}

pub(super) fn disk_use(sandbox: &Sandbox) -> DiskUse {
    DiskUse {
        kind: "sandbox".to_owned(),
        name: sandbox.fixed.id.to_string(),
        bytes: sandbox.lock().tree.used(),
        complete: true,
    }
}
