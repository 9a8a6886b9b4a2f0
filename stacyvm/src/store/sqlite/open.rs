//! Opening the file: who may, whether it is whole, and which layout it has.

use std::fs::{self, File, TryLockError};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rusqlite::{Connection, OpenFlags, TransactionBehavior, params};

use super::super::state_dir::{self, failed};
use super::super::{SCHEMA, StoreMeta};
use super::fault::{self, Fault};
use super::forks::{self, Counted, Open};
use super::reserve;
use crate::error::{Error, ErrorKind, Result};
use crate::id::InstanceId;

/// Marks our files among SQLite's: "stac".
const APPLICATION: i32 = 0x7374_6163;

/// The first release that repairs a log reset that could lose commits.
const OLDEST_SQLITE: i32 = 3_051_003;

const SCHEMA_TEXT: &str = include_str!("schema.sql");

/// How long another connection may hold the file before a try counts as failed.
pub(super) const BUSY: Duration = Duration::from_secs(5);

/// How long to wait for others who are opening the same store.
const OPENING: Duration = Duration::from_secs(10);

/// Files up to this size are checked whole at every first opening; larger ones
/// only after a crash.
const CHEAP_TO_CHECK: u64 = 1 << 20;

/// An open store.
pub(super) struct Opened {
    pub(super) writer: Open,
    /// Not there on a full disk, where the store is open once alone.
    pub(super) reader: Option<Open>,
    pub(super) meta: StoreMeta,
    /// Held as long as a connection is, so that others see that the file is in use.
    pub(super) in_use: File,
}

/// Opens the store at `path`, and makes it where it is missing. Blocks.
pub(super) fn open(path: &Path) -> Result<Opened> {
    let _no_fork = forks::no_fork();
    // Nor may a child of a fork that asks nobody believe that nothing was open.
    let _counted = Counted::new(path)?;
    check_library(rusqlite::version_number())?;
    let in_use = open_lock(&lock_of(path))?;
    let alone = lock(path, &in_use)?;
    if alone && fs::symlink_metadata(path).is_err() {
        create(path)?;
    }
    state_dir::check_file(path)?;
    let crashed = alone && size(&log_of(path)) > 0;
    check_header(path, crashed || !alone)?;

    let check = alone && (crashed || size(path) <= CHEAP_TO_CHECK);
    let (writer, reader, meta) = connect_both(path, alone, check)?;
    if reader.is_some() {
        if alone {
            share(path, &in_use)?;
        }
        reserve::keep(path);
    }
    Ok(Opened {
        writer,
        reader,
        meta,
        in_use,
    })
}

/// Connects, also on a disk that is full. What the reserve gives back others
/// may take before us; then the index of the log stays in memory, and nobody
/// else has the store open until it is closed.
fn connect_both(path: &Path, alone: bool, check: bool) -> Result<(Open, Option<Open>, StoreMeta)> {
    let writer = |exclusive| -> Result<(Open, StoreMeta)> {
        let mut meta = None;
        let open = Open::new(path, || {
            let writer = connect_writer(path, exclusive)?;
            meta = Some(read_meta(path, &writer)?);
            if check {
                quick_check(path, &writer)?;
            }
            configure(&writer).map_err(|e| fault_of(path, e))?;
            Ok(writer)
        })?;
        Ok((open, meta.ok_or_else(|| fault::bad_row("meta", "one"))?))
    };
    loop {
        let both = writer(false)
            .and_then(|(writer, meta)| Ok((writer, Some(Open::new(path, || reader(path))?), meta)));
        match both {
            Err(error) if error.kind() == ErrorKind::NoSpace => {
                if reserve::give_back(path) {
                    continue;
                }
                if !alone {
                    return Err(error);
                }
                let (writer, meta) = writer(true)?;
                return Ok((writer, None, meta));
            }
            both => return both,
        }
    }
}

fn connect_writer(path: &Path, exclusive: bool) -> Result<Connection> {
    let writer = connect(path).map_err(|e| fault_of(path, e))?;
    if exclusive {
        writer
            .pragma_update(None, "locking_mode", "exclusive")
            .map_err(|e| fault_of(path, e))?;
    }
    Ok(writer)
}

/// Connects to a store that was open before.
pub(super) fn writer(path: &Path, exclusive: bool) -> Result<Connection> {
    let writer = connect_writer(path, exclusive)?;
    configure(&writer).map_err(|e| fault_of(path, e))?;
    Ok(writer)
}

pub(super) fn reader(path: &Path) -> Result<Connection> {
    connect(path)
        .and_then(|c| {
            configure(&c)?;
            c.pragma_update(None, "query_only", true)?;
            Ok(c)
        })
        .map_err(|e| fault_of(path, e))
}

pub(super) fn check_library(version: i32) -> Result<()> {
    if version >= OLDEST_SQLITE {
        return Ok(());
    }
    Err(Error::new(
        ErrorKind::Incompatible,
        "the linked SQLite can lose commits when its log is reset",
    )
    .context("found", version)
    .context("expected", format!("{OLDEST_SQLITE} (3.51.3) or later"))
    .context("remedy", "build with the bundled SQLite"))
}

fn fault_of(path: &Path, error: rusqlite::Error) -> Error {
    Fault::from(error).named(path)
}

fn log_of(path: &Path) -> PathBuf {
    beside(path, "-wal")
}

/// The index of the log, in which writers and readers have their locks.
pub(super) fn index_of(path: &Path) -> PathBuf {
    beside(path, "-shm")
}

/// The file that whoever has the store open holds locked.
pub(super) fn lock_of(path: &Path) -> PathBuf {
    path.with_extension("lock")
}

fn beside(path: &Path, end: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(end);
    name.into()
}

fn size(path: &Path) -> u64 {
    fs::metadata(path).map_or(0, |m| m.len())
}

fn open_lock(path: &Path) -> Result<File> {
    let file = match state_dir::open_file(path, true) {
        Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists => {
            state_dir::check_file(path)?;
            state_dir::open_file(path, false)
        }
        other => other,
    };
    file.map_err(|e| failed("open", path, e))
}

/// Takes the lock of those who have the store open: alone, if nobody else
/// has, which is the one state in which it is made, checked and repaired.
fn lock(path: &Path, in_use: &File) -> Result<bool> {
    let until = Instant::now() + OPENING;
    let taken = |result: Result<(), TryLockError>| match result {
        Ok(()) => Ok(true),
        Err(TryLockError::WouldBlock) => Ok(false),
        Err(TryLockError::Error(e)) => Err(failed("lock", path, e)),
    };
    loop {
        if taken(in_use.try_lock())? {
            return Ok(true);
        }
        if taken(in_use.try_lock_shared())? {
            // Others have it open, so it was checked; a missing file is theirs
            // to lose and not ours to make anew under them.
            if fs::symlink_metadata(path).is_ok() {
                return Ok(false);
            }
            in_use.unlock().map_err(|e| failed("unlock", path, e))?;
        }
        if Instant::now() >= until {
            return Err(fault::held(path, "is being opened by another process"));
        }
        #[expect(
            clippy::disallowed_methods,
            reason = "a lock file has no event to wait on; this runs on a blocking thread"
        )]
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// Lets others in. Between the two locks another may take it alone and check
/// the file once more, which costs time and harms nothing.
fn share(path: &Path, in_use: &File) -> Result<()> {
    in_use
        .unlock()
        .and_then(|()| in_use.lock_shared())
        .map_err(|e| failed("lock", path, e))
}

/// Makes a whole store beside the place and moves it there, so that a file
/// that is empty or half made is always damage and never a beginning.
fn create(path: &Path) -> Result<()> {
    let draft = path.with_extension("new");
    remove_draft(&draft);
    let made = state_dir::open_file(&draft, true)
        .map_err(|e| failed("make", &draft, e))
        .and_then(|file| {
            write_draft(&draft).map_err(|e| fault_of(path, e))?;
            // All of it is in this one file.
            check_header(&draft, false)?;
            file.sync_all()
                .and_then(|()| fs::rename(&draft, path))
                .and_then(|()| sync_directory(path))
                .map_err(|e| failed("make", path, e))
        });
    remove_draft(&draft);
    made
}

fn remove_draft(draft: &Path) {
    for end in ["new", "new-wal", "new-shm", "new-journal"] {
        let _ = fs::remove_file(draft.with_extension(end));
    }
}

/// Writes without a log: a draft that fails is thrown away, and closing a
/// connection does not say whether what is in its log came into the file.
fn write_draft(draft: &Path) -> rusqlite::Result<()> {
    let mut connection = connect(draft)?;
    journal_mode(&connection, "off")?;
    configure(&connection)?;
    connection.pragma_update(None, "application_id", APPLICATION)?;
    let meta = StoreMeta::mint();
    let tx = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    tx.execute_batch(SCHEMA_TEXT)?;
    tx.execute(
        "INSERT INTO meta (one, instance, digest_key, min_reader) VALUES (1, ?1, ?2, ?3)",
        params![meta.instance().as_str(), meta.key(), SCHEMA],
    )?;
    tx.pragma_update(None, "user_version", SCHEMA)?;
    tx.commit()?;
    // Written into the header, and so for every later connection.
    journal_mode(&connection, "wal")?;
    connection.close().map_err(|(_, e)| e)
}

fn journal_mode(connection: &Connection, mode: &str) -> rusqlite::Result<()> {
    connection.pragma_update_and_check(None, "journal_mode", mode, |row| {
        let found: String = row.get(0)?;
        if found == mode {
            Ok(())
        } else {
            Err(rusqlite::Error::InvalidQuery)
        }
    })
}

#[cfg(unix)]
fn sync_directory(path: &Path) -> std::io::Result<()> {
    File::open(path.parent().unwrap_or(path))?.sync_all()
}

#[cfg(not(unix))]
fn sync_directory(_path: &Path) -> std::io::Result<()> {
    Ok(())
}

/// Looks at the file itself before SQLite does: SQLite takes an empty file
/// for a new database, and finds a cut one only when it reads beyond the cut.
fn check_header(path: &Path, has_log: bool) -> Result<()> {
    let mut header = [0_u8; 100];
    let mut file = File::open(path).map_err(|e| failed("open", path, e))?;
    if let Err(e) = file.read_exact(&mut header) {
        if e.kind() == std::io::ErrorKind::UnexpectedEof {
            let found = format!("a file of {} bytes", size(path));
            return Err(fault::corrupt(path, &found, "a SQLite database"));
        }
        return Err(failed("read", path, e));
    }
    if !header.starts_with(b"SQLite format 3\0") {
        return Err(fault::corrupt(
            path,
            "a file that is no database",
            "a SQLite database",
        ));
    }
    let page_size = match u16::from_be_bytes([header[16], header[17]]) {
        1 => 65_536,
        other => u64::from(other),
    };
    let pages = u32::from_be_bytes([header[28], header[29], header[30], header[31]]);
    let expected = page_size * u64::from(pages);
    // With a log beside it the end of the file may still be in the log.
    if !has_log && size(path) < expected {
        return Err(fault::corrupt(
            path,
            &format!("it was cut off at {} bytes", size(path)),
            &format!("{expected} bytes"),
        ));
    }
    Ok(())
}

fn connect(path: &Path) -> rusqlite::Result<Connection> {
    let connection = Connection::open_with_flags(
        path,
        OpenFlags::SQLITE_OPEN_READ_WRITE
            | OpenFlags::SQLITE_OPEN_NOFOLLOW
            | OpenFlags::SQLITE_OPEN_NO_MUTEX
            | OpenFlags::SQLITE_OPEN_EXRESCODE,
    )?;
    connection.busy_timeout(BUSY)?;
    connection.pragma_update(None, "trusted_schema", false)?;
    // No memory map: one that another process truncates under us is a SIGBUS.
    connection.pragma_update(None, "mmap_size", 0)?;
    connection.set_prepared_statement_cache_capacity(64);
    Ok(connection)
}

/// Whether commits of a connection that was just opened wait for the disk.
pub(super) const WAITS_FOR_DISK: bool = true;

fn configure(connection: &Connection) -> rusqlite::Result<()> {
    connection.pragma_update(None, "synchronous", "FULL")?;
    connection.pragma_update(None, "foreign_keys", true)?;
    connection.pragma_update(None, "journal_size_limit", 4 << 20)?;
    Ok(())
}

fn read_meta(path: &Path, connection: &Connection) -> Result<StoreMeta> {
    let number = |name: &str| -> Result<i64> {
        connection
            .pragma_query_value(None, name, |row| row.get(0))
            .map_err(|e| fault_of(path, e))
    };
    let application = number("application_id")?;
    if application != i64::from(APPLICATION) {
        return Err(fault::incompatible(
            path,
            "is a database of another program",
            &format!("application id {application:#x}"),
            &format!("{APPLICATION:#x}"),
        ));
    }
    let found = number("user_version")?;
    let schema = u32::try_from(found)
        .ok()
        .filter(|v| *v >= 1)
        .ok_or_else(|| fault::corrupt(path, &format!("schema {found}"), "schema 1 or later"))?;
    let row = connection.query_row(
        "SELECT min_reader, instance, digest_key FROM meta WHERE one = 1",
        [],
        |row| {
            let instance: Option<String> = row.get(1).ok();
            Ok((
                row.get::<_, u32>(0)?,
                instance,
                row.get::<_, [u8; 32]>(2).ok(),
            ))
        },
    );
    let damaged = || fault::corrupt(path, "its table meta cannot be read", "one whole row");
    let (min_reader, instance, key) = match row {
        Err(rusqlite::Error::SqliteFailure(..)) => {
            return Err(row
                .map_err(|e| fault_of(path, e))
                .err()
                .unwrap_or_else(damaged));
        }
        other => other.map_err(|_| damaged())?,
    };
    if min_reader > SCHEMA {
        return Err(fault::incompatible(
            path,
            "was written by a newer stacyvm",
            &format!("schema {schema}, to be read from schema {min_reader} on"),
            &format!("schema {SCHEMA} or a store that it can read"),
        ));
    }
    let instance = instance.and_then(|text| InstanceId::new(text).ok());
    match (instance, key) {
        (Some(instance), Some(key)) => Ok(StoreMeta::new(instance, schema, min_reader, key)),
        _ => Err(damaged()),
    }
}

fn quick_check(path: &Path, connection: &Connection) -> Result<()> {
    let verdict: String = connection
        .query_row("PRAGMA quick_check(1)", [], |row| row.get(0))
        .map_err(|e| fault_of(path, e))?;
    if verdict == "ok" {
        return Ok(());
    }
    // A page that could not be read for want of something else is no damage.
    let code = verdict.rsplit_once("error code=");
    let code = code.and_then(|(_, code)| code.trim().parse().ok());
    let error = code.map(rusqlite::ffi::Error::new);
    if let Some(error) = error.filter(|error| !fault::means_damage(error.code)) {
        return Err(fault_of(
            path,
            rusqlite::Error::SqliteFailure(error, Some(verdict)),
        ));
    }
    Err(fault::corrupt(path, &verdict, "a whole database"))
}
