//! Forks of this process.
//!
//! SQLite keeps in memory which locks this process has on a file. A forked child inherits
//! that without the locks: it would take the file for locked by itself, and lose what it
//! writes. So connections are closed across a fork, and a child that inherited open ones
//! opens none.

use std::cell::RefCell;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard, Weak};

use rusqlite::Connection;

use crate::error::{Error, ErrorKind, Result};

/// A connection of a store; none across a fork, and until it is used after one.
pub(super) type Place = Arc<Mutex<Option<Open>>>;

/// Held to read by whoever uses, opens or closes a connection, and to write by whoever forks.
static GATE: RwLock<()> = RwLock::new(());
/// All places. Looked at by holders of the gate alone.
static PLACES: Mutex<Vec<Weak<Mutex<Option<Open>>>>> = Mutex::new(Vec::new());
/// Connections that are open or being opened.
static OPEN: AtomicUsize = AtomicUsize::new(0);
/// The process that they are of; 0 before the first.
static PROCESS: AtomicUsize = AtomicUsize::new(0);

thread_local! {
    static FORKING: RefCell<Option<RwLockWriteGuard<'static, ()>>> = const { RefCell::new(None) };
}

/// No fork goes through [`before_fork`] while this is held.
pub(super) fn no_fork() -> RwLockReadGuard<'static, ()> {
    GATE.read().unwrap_or_else(PoisonError::into_inner)
}

/// Counts a connection from before it is opened until after it is closed.
#[derive(Debug)]
pub(super) struct Counted(());

impl Counted {
    /// # Errors
    ///
    /// `conflict` in a child that inherited open connections.
    pub(super) fn new(file: &Path) -> Result<Self> {
        let this = std::process::id() as usize;
        let of = PROCESS.load(SeqCst);
        if of != this && of != 0 && OPEN.load(SeqCst) > 0 {
            return Err(Error::new(
                ErrorKind::Conflict,
                format!(
                    "this process was forked by process {of}, which had the store {} open, expected a fork before that or a program started anew",
                    file.display()
                ),
            )
            .context("file", file.display())
            .context(
                "remedy",
                "open the engine after the fork, or start the process by exec (spawn) instead",
            ));
        }
        PROCESS.store(this, SeqCst);
        OPEN.fetch_add(1, SeqCst);
        Ok(Self(()))
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        OPEN.fetch_sub(1, SeqCst);
    }
}

/// An open connection.
#[derive(Debug)]
pub(super) struct Open {
    // The order is that of their drops.
    pub(super) connection: Connection,
    _counted: Counted,
}

impl Open {
    /// A connection that `make` opens.
    pub(super) fn new(file: &Path, make: impl FnOnce() -> Result<Connection>) -> Result<Self> {
        let counted = Counted::new(file)?;
        Ok(Self {
            connection: make()?,
            _counted: counted,
        })
    }
}

/// Has the connection closed before a fork. The gate is held.
pub(super) fn register(place: &Place) {
    let mut places = PLACES.lock().unwrap_or_else(PoisonError::into_inner);
    places.retain(|place| place.strong_count() > 0);
    places.push(Arc::downgrade(place));
}

/// Closes what stores of this process have open, so that it may fork, until
/// [`after_fork`]. Waits for what is under way.
///
/// A child that was forked without this, of a process with an open store, refuses to open
/// one. The Python package calls both around `os.fork`.
pub fn before_fork() {
    let gate = GATE.write().unwrap_or_else(PoisonError::into_inner);
    let places = PLACES.lock().unwrap_or_else(PoisonError::into_inner);
    for place in places.iter().filter_map(Weak::upgrade) {
        drop(place.lock().unwrap_or_else(PoisonError::into_inner).take());
    }
    drop(places);
    FORKING.with_borrow_mut(|forking| *forking = Some(gate));
}

/// Goes on after [`before_fork`], in the parent and in the child, by the same thread.
pub fn after_fork() {
    FORKING.with_borrow_mut(|forking| *forking = None);
}
