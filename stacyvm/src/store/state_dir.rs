//! The directory that holds the store, owners' locks and sockets.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};

use crate::error::{Error, ErrorKind, Result};

/// A directory that this user alone can enter, checked when it was opened.
///
/// Files made through it are 0600 and directories 0700, whatever the umask.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StateDir {
    path: PathBuf,
}

impl StateDir {
    /// Opens a state directory, and makes it where it is missing.
    ///
    /// # Errors
    ///
    /// `invalid_argument` for a relative path, and for a directory that has
    /// something in it and was not made by stacyvm; `permission_denied` where it
    /// belongs to another user, is a link, could be written by others, or lies
    /// below a directory that another user can write (one with the sticky bit,
    /// as `/tmp`, is fine); `unsupported` on a network file system, where locks
    /// may not hold; `not_directory`; `no_space`.
    pub fn open(path: &Path) -> Result<Self> {
        if !path.is_absolute() {
            return Err(Error::invalid(
                "state_dir",
                path.display(),
                "an absolute path",
                "set STACYVM_STATE_DIR or state_dir to an absolute path",
            ));
        }
        let state = Self::open_marked(path, &MARKS)?;
        // Whatever part of stacyvm is first here: the next one knows it again.
        state.subdirectory(OWNERS)?;
        Ok(state)
    }

    /// Opens a private directory of another kind, which something of `marks` is
    /// in soon after it was made.
    pub(crate) fn open_marked(path: &Path, marks: &[&str]) -> Result<Self> {
        check_ours(path, marks)?;
        Self::open_private(path)
    }

    /// As [`open`](Self::open), for a part of one, whatever is in it.
    pub(crate) fn open_private(path: &Path) -> Result<Self> {
        if let Some(there) = path.ancestors().find(|path| path.exists()) {
            super::file_system::check(there)?;
        }
        if let Some(parent) = path.parent() {
            make_all(parent)?;
            sys::check_parents(path)?;
        }
        make_one(path)?;
        sys::check_own(path, true)?;
        let path = fs::canonicalize(path).map_err(|e| failed("open", path, e))?;
        Ok(Self { path })
    }

    /// Where it is, with links resolved.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Makes a directory in it, if it is missing, and gives its path.
    ///
    /// # Errors
    ///
    /// As [`open`](Self::open).
    pub fn subdirectory(&self, name: &str) -> Result<PathBuf> {
        check_name(name)?;
        let path = self.path.join(name);
        make_one(&path)?;
        sys::check_own(&path, true)?;
        Ok(path)
    }
}

/// What is in every state directory soon after it was made, of any version.
const MARKS: [&str; 4] = ["store.lock", "store.db", OWNERS, "sandboxes"];
/// The locks of owners.
pub(super) const OWNERS: &str = "owners";

/// Refuses a directory that is somebody's already: opening one closes it to
/// others, and fills and sweeps it. What is no directory is told later.
fn check_ours(path: &Path, marks: &[&str]) -> Result<()> {
    if !fs::symlink_metadata(path).is_ok_and(|found| found.is_dir()) {
        return Ok(());
    }
    let entries = fs::read_dir(path).into_iter().flatten().flatten();
    let names: Vec<_> = entries
        .map(|entry| entry.file_name())
        // As a new file system has it.
        .filter(|name| name != "lost+found")
        .collect();
    if names.is_empty()
        || marks
            .iter()
            .any(|mark| names.iter().any(|name| name == mark))
    {
        return Ok(());
    }
    Err(Error::invalid(
        "state_dir",
        path.display(),
        "a directory that is missing, empty, or was made by stacyvm",
        "name a new directory in it, with --state-dir or STACYVM_STATE_DIR",
    ))
}

/// A name that stays in its directory.
pub(super) fn check_name(name: &str) -> Result<()> {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"-_.".contains(&b);
    if name.is_empty() || name.len() > 200 || name.starts_with('.') || !name.bytes().all(plain) {
        return Err(Error::invalid(
            "name",
            name,
            "1 to 200 characters of a-z, A-Z, 0-9, -, _ and ., not beginning with .",
            "use the name as it was recorded",
        ));
    }
    Ok(())
}

fn make_all(path: &Path) -> Result<()> {
    if fs::metadata(path).is_ok() {
        return Ok(());
    }
    if let Some(parent) = path.parent() {
        make_all(parent)?;
    }
    make_one(path)
}

fn make_one(path: &Path) -> Result<()> {
    match sys::make_private(path) {
        Err(e) if e.kind() != io::ErrorKind::AlreadyExists => Err(failed("make", path, e)),
        _ => Ok(()),
    }
}

/// Opens a file for reading and writing without following a link in its last
/// component. `new` makes it and fails where it exists.
///
/// # Errors
///
/// `permission_denied` for a link, a file that is not a regular one, or one of
/// another user.
pub(super) fn open_file(path: &Path, new: bool) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.read(true).write(true).create_new(new);
    sys::private(&mut options);
    let file = options.open(path)?;
    if new {
        sys::make_file_private(&file)?;
    }
    Ok(file)
}

/// Checks that a file is regular and ours, and closes it to others.
#[cfg(feature = "sqlite")]
pub(super) fn check_file(path: &Path) -> Result<()> {
    sys::check_own(path, false)
}

/// The error of an operation on a file of ours.
pub(super) fn failed(what: &'static str, path: &Path, error: io::Error) -> Error {
    use io::ErrorKind as Io;
    let (kind, remedy) = match error.kind() {
        Io::PermissionDenied | Io::ReadOnlyFilesystem => (
            ErrorKind::PermissionDenied,
            "let this user write there, or choose another state directory with STACYVM_STATE_DIR",
        ),
        Io::StorageFull | Io::QuotaExceeded => (
            ErrorKind::NoSpace,
            "free some space, or choose another state directory with STACYVM_STATE_DIR",
        ),
        Io::NotADirectory => (
            ErrorKind::NotDirectory,
            "choose another state directory with STACYVM_STATE_DIR",
        ),
        Io::NotFound => (
            ErrorKind::NotFound,
            "check that the directory was not removed",
        ),
        _ => (
            ErrorKind::Internal,
            "check the file system that holds the state directory",
        ),
    };
    Error::new(kind, format!("cannot {what} {}", path.display()))
        .context("file", path.display())
        .context("remedy", remedy)
        .source(error)
}

#[cfg(unix)]
mod sys {
    use std::fs::{self, DirBuilder, File, OpenOptions, Permissions};
    use std::io;
    use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
    use std::path::Path;

    use super::failed;
    use crate::error::{Error, ErrorKind, Result};
    use crate::id_map;

    const OTHERS_WRITE: u32 = 0o022;
    const STICKY: u32 = 0o1000;

    fn me() -> u32 {
        rustix::process::geteuid().as_raw()
    }

    pub(super) fn make_private(path: &Path) -> io::Result<()> {
        DirBuilder::new().mode(0o700).create(path)?;
        // The umask may have taken from it.
        fs::set_permissions(path, Permissions::from_mode(0o700))
    }

    pub(super) fn private(options: &mut OpenOptions) {
        // Not blocking: a FIFO in the place of the file must not hold us up.
        let flags = rustix::fs::OFlags::NOFOLLOW | rustix::fs::OFlags::NONBLOCK;
        options.mode(0o600).custom_flags(flags.bits().cast_signed());
    }

    pub(super) fn make_file_private(file: &File) -> io::Result<()> {
        file.set_permissions(Permissions::from_mode(0o600))
    }

    /// Checks that nobody but root and this user can replace what lies in
    /// the directories above: those of the path as written, and those that it
    /// leads to.
    pub(super) fn check_parents(path: &Path) -> Result<()> {
        let parent = path.parent().unwrap_or(path);
        let real = fs::canonicalize(parent).map_err(|e| failed("open", parent, e))?;
        for directory in parent.ancestors().chain(real.ancestors()) {
            let found = fs::metadata(directory).map_err(|e| failed("open", directory, e))?;
            let (uid, mode) = (found.uid(), found.mode());
            // In a user namespace root outside may have no number of its own.
            let trusted = uid == 0 || uid == me() || !id_map::is_mapped(uid);
            if !trusted || (mode & OTHERS_WRITE != 0 && mode & STICKY == 0) {
                return Err(refused(
                    directory,
                    "can be written by another user, expected this user and root alone",
                    uid,
                    mode,
                ));
            }
        }
        Ok(())
    }

    /// Checks that a directory or file is what it should be and ours, and
    /// closes it to others.
    pub(super) fn check_own(path: &Path, directory: bool) -> Result<()> {
        let found = fs::symlink_metadata(path).map_err(|e| failed("open", path, e))?;
        let (uid, mode) = (found.uid(), found.mode());
        if found.is_symlink() {
            return Err(refused(
                path,
                "is a symbolic link, expected the thing itself",
                uid,
                mode,
            ));
        }
        if found.is_dir() != directory || !(found.is_dir() || found.is_file()) {
            let (kind, what) = if directory {
                (ErrorKind::NotDirectory, "is no directory")
            } else if found.is_dir() {
                (ErrorKind::IsDirectory, "is a directory, expected a file")
            } else {
                (ErrorKind::PermissionDenied, "is no regular file")
            };
            return Err(Error::new(kind, format!("{} {what}", path.display()))
                .context("file", path.display())
                .context("remedy", "move it away, or choose another state directory"));
        }
        if uid != me() {
            return Err(refused(
                path,
                "belongs to another user, expected this one",
                uid,
                mode,
            ));
        }
        if mode & OTHERS_WRITE != 0 {
            return Err(refused(
                path,
                "can be written by others, so what is in it cannot be trusted",
                uid,
                mode,
            ));
        }
        let own = if directory { 0o700 } else { 0o600 };
        if mode & 0o777 != own {
            fs::set_permissions(path, Permissions::from_mode(own))
                .map_err(|e| failed("close to others", path, e))?;
        }
        Ok(())
    }

    fn refused(path: &Path, what: &str, uid: u32, mode: u32) -> Error {
        Error::new(
            ErrorKind::PermissionDenied,
            format!("{} {what}", path.display()),
        )
        .context("file", path.display())
        .context("found", format!("owner {uid}, mode {:04o}", mode & 0o7777))
        .context("expected", format!("owner {}, not writable by others", me()))
        .context(
            "remedy",
            "correct the owner and the mode, or choose another state directory with STACYVM_STATE_DIR",
        )
    }
}

#[cfg(not(unix))]
mod sys {
    //! A profile's directories carry access lists of their own; what is made
    //! in them inherits these.

    use std::fs::{self, File, OpenOptions};
    use std::io;
    use std::path::Path;

    use super::failed;
    use crate::error::{Error, ErrorKind, Result};

    pub(super) fn make_private(path: &Path) -> io::Result<()> {
        fs::create_dir(path)
    }

    pub(super) fn private(_options: &mut OpenOptions) {}

    pub(super) fn make_file_private(_file: &File) -> io::Result<()> {
        Ok(())
    }

    pub(super) fn check_parents(_path: &Path) -> Result<()> {
        Ok(())
    }

    pub(super) fn check_own(path: &Path, directory: bool) -> Result<()> {
        let found = fs::symlink_metadata(path).map_err(|e| failed("open", path, e))?;
        if found.is_symlink() || found.is_dir() != directory {
            return Err(Error::new(
                ErrorKind::PermissionDenied,
                format!("{} is not what it should be", path.display()),
            )
            .context("file", path.display())
            .context("remedy", "move it away, or choose another state directory"));
        }
        Ok(())
    }
}

#[cfg(all(test, unix))]
mod tests {
    use super::*;
    use std::os::unix::fs::{PermissionsExt, symlink};

    fn mode(path: &Path) -> u32 {
        fs::metadata(path)
            .expect("it is there")
            .permissions()
            .mode()
            & 0o7777
    }

    fn set_mode(path: &Path, mode: u32) {
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("it is ours");
    }

    #[test]
    fn a_directory_of_somebody_is_left_as_it_is() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("photos");
        fs::create_dir(&path).unwrap();
        set_mode(&path, 0o755);
        fs::write(path.join("cat"), "x").unwrap();
        fs::create_dir(path.join("cache")).unwrap();
        for taken in [&path, Path::new("/")] {
            let before = mode(taken);
            let error = StateDir::open(taken).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidArgument, "{error}");
            assert_eq!(error.fact("field"), Some("state_dir"));
            assert_eq!(mode(taken), before);
        }
        assert_eq!(fs::read_dir(&path).unwrap().count(), 2);
        // A new file system, and a directory that stacyvm made.
        let fresh = home.path().join("fresh");
        fs::create_dir_all(fresh.join("lost+found")).unwrap();
        StateDir::open(&fresh).unwrap();
        fs::write(path.join("store.lock"), "").unwrap();
        StateDir::open(&path).unwrap();
        assert_eq!(mode(&path), 0o700);
    }

    #[test]
    fn what_it_makes_is_closed_to_others() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("a/b/stacyvm");
        let state = StateDir::open(&path).unwrap();
        for made in ["a", "a/b", "a/b/stacyvm"] {
            assert_eq!(mode(&home.path().join(made)), 0o700, "{made}");
        }
        assert_eq!(mode(&state.subdirectory("owners").unwrap()), 0o700);
        set_mode(&path, 0o755);
        StateDir::open(&path).unwrap();
        assert_eq!(mode(&path), 0o700);
    }

    #[test]
    fn a_directory_that_others_control_is_refused() {
        let home = tempfile::tempdir().unwrap();
        let refused = |path: &Path, what: &str| {
            let error = StateDir::open(path).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::PermissionDenied, "{what}");
            assert!(error.fact("file").is_some() && error.fact("remedy").is_some());
        };
        let parent = home.path().join("parent");
        fs::create_dir(&parent).unwrap();
        let path = parent.join("state");

        set_mode(&parent, 0o777);
        refused(&path, "a parent that all can write");
        assert!(!path.exists(), "it was made all the same");
        set_mode(&parent, 0o775);
        refused(&path, "a parent that a group can write");
        set_mode(&parent, 0o1777);
        StateDir::open(&path).unwrap();
        set_mode(&path, 0o770);
        refused(&path, "the directory itself");

        let link = home.path().join("link");
        symlink(&parent, &link).unwrap();
        refused(&link, "a link");
        // A link on the way leads to directories that count, too.
        set_mode(&path, 0o700);
        set_mode(&parent, 0o777);
        refused(&link.join("state"), "below a link");

        assert_eq!(
            StateDir::open(Path::new("state")).unwrap_err().kind(),
            ErrorKind::InvalidArgument
        );
        fs::write(home.path().join("file"), "").unwrap();
        assert_eq!(
            StateDir::open(&home.path().join("file"))
                .unwrap_err()
                .kind(),
            ErrorKind::NotDirectory
        );
    }

    #[test]
    fn a_directory_of_another_user_is_refused() {
        if !rustix::process::geteuid().is_root() {
            return; // Only root can give a directory away.
        }
        let home = tempfile::tempdir().unwrap();
        for (given, opened) in [("a", "a"), ("b", "b/state")] {
            let given = home.path().join(given);
            fs::create_dir(&given).unwrap();
            std::os::unix::fs::chown(&given, Some(12345), None).unwrap();
            let error = StateDir::open(&home.path().join(opened)).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::PermissionDenied);
            assert!(error.fact("found").unwrap().contains("12345"));
        }
    }

    #[test]
    fn a_name_cannot_leave_the_directory() {
        let home = tempfile::tempdir().unwrap();
        let state = StateDir::open(&home.path().join("s")).unwrap();
        for name in ["", "..", ".", "a/b", "/a", "a\0", ".hidden"] {
            assert!(state.subdirectory(name).is_err(), "{name:?}");
        }
    }
}
