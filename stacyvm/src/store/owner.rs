//! Whether the owner of a sandbox still lives.

use std::fs::{self, File, TryLockError};
use std::io;
use std::path::{Path, PathBuf};

use super::state_dir::{self, OWNERS, StateDir};
use crate::error::Result;
use crate::id::InstanceId;

const ENDING: &str = ".lock";

/// The most files of dead owners that one new owner clears away.
const SWEPT_AT_ONCE: usize = 64;

/// A lock that is held as long as an engine lives, and is free once it is
/// gone, however it ended.
///
/// Records name their owner by [`name`](Self::name). Process numbers lie
/// across namespaces and are given out again; a lock does neither.
#[derive(Debug)]
pub struct OwnerLock {
    name: String,
    path: PathBuf,
    _held: File,
}

impl OwnerLock {
    /// Takes a new lock. Files of dead owners are cleared away on the way.
    ///
    /// # Errors
    ///
    /// Those of the state directory.
    pub fn acquire(state: &StateDir, instance: &InstanceId) -> Result<Self> {
        let directory = state.subdirectory(OWNERS)?;
        sweep(&directory);
        loop {
            let name = format!("{instance}-{}", InstanceId::random());
            let path = directory.join(format!("{name}{ENDING}"));
            let failed = |e| state_dir::failed("make", &path, e);
            let file = state_dir::open_file(&path, true).map_err(failed)?;
            // A sweep may have come between: then it holds the lock, or has
            // removed the file, and the name is lost. Another one is as good.
            if file.try_lock().is_ok() && path.exists() {
                return Ok(Self {
                    name,
                    path,
                    _held: file,
                });
            }
        }
    }

    /// What records call the owner.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Whether the owner of that name lives.
    ///
    /// # Errors
    ///
    /// `invalid_argument` for a name that cannot be one; `permission_denied`
    /// where it cannot be told.
    pub fn is_alive(state: &StateDir, name: &str) -> Result<bool> {
        state_dir::check_name(name)?;
        let path = state.path().join(OWNERS).join(format!("{name}{ENDING}"));
        match is_held(&path) {
            Ok(held) => Ok(held),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(e) => Err(state_dir::failed("open", &path, e)),
        }
    }
}

impl Drop for OwnerLock {
    fn drop(&mut self) {
        // If it stays, the free lock says the same.
        let _ = fs::remove_file(&self.path);
    }
}

/// A shared lock asks: it does not disturb others who ask at the same time.
fn is_held(path: &Path) -> io::Result<bool> {
    match state_dir::open_file(path, false)?.try_lock_shared() {
        Ok(()) => Ok(false),
        Err(TryLockError::WouldBlock) => Ok(true),
        Err(TryLockError::Error(e)) => Err(e),
    }
}

fn sweep(directory: &Path) {
    // What cannot be cleared away now will be another time.
    let Ok(entries) = fs::read_dir(directory) else {
        return;
    };
    for entry in entries.flatten().take(SWEPT_AT_ONCE) {
        let path = entry.path();
        if !path.to_string_lossy().ends_with(ENDING) {
            continue;
        }
        if let Ok(file) = state_dir::open_file(&path, false)
            && file.try_lock().is_ok()
        {
            let _ = fs::remove_file(&path);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn state() -> (tempfile::TempDir, StateDir) {
        let home = tempfile::tempdir().unwrap();
        let state = StateDir::open(&home.path().join("state")).unwrap();
        (home, state)
    }

    #[test]
    fn an_owner_lives_as_long_as_its_lock() {
        let (_home, state) = state();
        let instance = InstanceId::random();
        let lock = OwnerLock::acquire(&state, &instance).unwrap();
        let other = OwnerLock::acquire(&state, &instance).unwrap();
        assert_ne!(lock.name(), other.name());
        let name = lock.name().to_owned();
        assert!(OwnerLock::is_alive(&state, &name).unwrap());
        assert!(OwnerLock::is_alive(&state, &name).unwrap());
        drop(lock);
        assert!(!OwnerLock::is_alive(&state, &name).unwrap());
        assert!(OwnerLock::is_alive(&state, other.name()).unwrap());
        assert!(!OwnerLock::is_alive(&state, "never-was").unwrap());
        assert!(OwnerLock::is_alive(&state, "../x").is_err());
    }

    #[test]
    fn a_file_left_by_a_dead_owner_does_not_count_and_is_cleared_away() {
        let (_home, state) = state();
        let directory = state.subdirectory(OWNERS).unwrap();
        let left = directory.join("i-dead.lock");
        fs::write(&left, "").unwrap();
        assert!(!OwnerLock::is_alive(&state, "i-dead").unwrap());
        let lock = OwnerLock::acquire(&state, &InstanceId::random()).unwrap();
        assert!(!left.exists());
        let again = OwnerLock::acquire(&state, &InstanceId::random()).unwrap();
        assert!(OwnerLock::is_alive(&state, lock.name()).unwrap());
        drop(again);
    }
}
