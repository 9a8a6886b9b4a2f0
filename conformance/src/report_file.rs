//! Where a report goes.

use std::ffi::OsStr;
use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, Write as _};
use std::path::{Path, PathBuf};

use tempfile::NamedTempFile;

/// A file for a report, tried before the run.
///
/// # Behavior
///
/// - A regular file, and one that is not there, is replaced as a whole once the report
///   is there, through a new one of a random name beside it: no half of it is ever
///   seen, and what was there stays if the run does not end.
/// - Whatever else has the name (a link, a device, a FIFO) is opened and written in
///   place, and stays what it is. A FIFO is waited for until somebody reads it.
#[derive(Debug)]
pub struct ReportFile {
    path: PathBuf,
    /// What is written in place.
    open: Option<File>,
}

impl ReportFile {
    /// Tries whether a report can be written there.
    ///
    /// # Errors
    ///
    /// Those of the file system.
    pub fn open(path: &Path) -> io::Result<Self> {
        let open = match fs::symlink_metadata(path) {
            Ok(seen) if seen.is_dir() => return Err(ErrorKind::IsADirectory.into()),
            Ok(seen) if seen.is_file() => None,
            Ok(_) => {
                let mut options = OpenOptions::new();
                Some(options.write(true).create(true).open(path)?)
            }
            Err(error) if error.kind() == ErrorKind::NotFound => None,
            Err(error) => return Err(error),
        };
        if open.is_none() {
            // It goes at once: who is killed meanwhile leaves nothing.
            drop(beside(path)?);
        }
        Ok(Self {
            path: path.to_owned(),
            open,
        })
    }

    /// Whether this is the same regular file: one of two reports would be lost.
    pub fn is_same(&self, other: &Self) -> bool {
        let (mine, its) = (self.real(), other.real());
        mine.is_some() && mine == its
    }

    /// The true path of a regular file, which need not be there.
    fn real(&self) -> Option<PathBuf> {
        if let Some(open) = &self.open {
            let regular = open.metadata().ok()?.is_file();
            return regular.then(|| self.path.canonicalize().ok()).flatten();
        }
        let name = self.path.file_name()?;
        Some(directory(&self.path).canonicalize().ok()?.join(name))
    }

    /// Writes the report.
    ///
    /// # Errors
    ///
    /// Those of the file system. What was there is still there, but for a file that is
    /// written in place.
    pub fn write(self, text: &str) -> io::Result<()> {
        if let Some(mut open) = self.open {
            if open.metadata()?.is_file() {
                open.set_len(0)?;
            }
            return open.write_all(text.as_bytes());
        }
        let mut new = beside(&self.path)?;
        new.write_all(text.as_bytes())?;
        match fs::metadata(&self.path) {
            Ok(old) => new.as_file().set_permissions(old.permissions())?,
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
        new.persist(&self.path).map_err(|error| error.error)?;
        Ok(())
    }
}

fn directory(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if parent != Path::new("") => parent,
        _ => Path::new("."),
    }
}

/// A new file in the same directory, which goes unless it is kept.
fn beside(path: &Path) -> io::Result<NamedTempFile> {
    let mut prefix = OsStr::new(".").to_owned();
    prefix.push(path.file_name().unwrap_or_default());
    let mut builder = tempfile::Builder::new();
    #[cfg(unix)]
    builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o666));
    builder.prefix(&prefix).tempfile_in(directory(path))
}

#[cfg(all(test, unix))]
mod tests {
    use std::io::Read as _;
    use std::os::unix::fs::{FileTypeExt as _, PermissionsExt as _, symlink};

    use super::*;

    fn names(directory: &Path) -> Vec<String> {
        let entries = fs::read_dir(directory).expect("a directory").flatten();
        let mut names: Vec<String> = entries
            .map(|entry| entry.file_name().to_string_lossy().into_owned())
            .collect();
        names.sort();
        names
    }

    fn write(path: &Path, text: &str) {
        let file = ReportFile::open(path).expect("a file that can be written");
        file.write(text).expect("a report that is written");
    }

    #[test]
    fn a_regular_file_is_replaced_when_the_report_is_there() {
        let home = tempfile::tempdir().expect("a directory");
        let path = home.path().join("r");
        write(&path, "one");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).expect("a mode");
        let file = ReportFile::open(&path).expect("a file");
        assert_eq!(fs::read_to_string(&path).expect("the old one"), "one");
        assert_eq!(names(home.path()), ["r"]);
        file.write("two").expect("a report");
        assert_eq!(fs::read_to_string(&path).expect("the new one"), "two");
        let mode = fs::metadata(&path).expect("it").permissions().mode();
        assert_eq!(mode & 0o777, 0o640);
        assert_eq!(names(home.path()), ["r"]);
    }

    #[test]
    fn a_link_and_a_fifo_stay_what_they_are() {
        let home = tempfile::tempdir().expect("a directory");
        let (real, link) = (home.path().join("real"), home.path().join("link"));
        fs::write(&real, "longer than the report").expect("a file");
        symlink("real", &link).expect("a link");
        write(&link, "report");
        assert!(fs::symlink_metadata(&link).expect("it").is_symlink());
        assert_eq!(fs::read_to_string(&real).expect("the file"), "report");
        let fifo = home.path().join("fifo");
        let made = std::process::Command::new("mkfifo").arg(&fifo).status();
        assert!(made.expect("mkfifo").success());
        let reader = {
            let fifo = fifo.clone();
            std::thread::spawn(move || {
                let mut read = String::new();
                let opened = File::open(fifo).expect("a FIFO");
                let _ = { opened }.read_to_string(&mut read).expect("text");
                read
            })
        };
        write(&fifo, "report");
        assert_eq!(reader.join().expect("a reader"), "report");
        assert!(
            fs::symlink_metadata(&fifo)
                .expect("it")
                .file_type()
                .is_fifo()
        );
        write(Path::new("/dev/null"), "report");
        let null = fs::symlink_metadata("/dev/null").expect("it").file_type();
        assert!(null.is_char_device());
        assert_eq!(names(home.path()), ["fifo", "link", "real"]);
    }

    #[test]
    fn what_cannot_be_written_is_told_before() {
        let home = tempfile::tempdir().expect("a directory");
        let error = ReportFile::open(home.path()).expect_err("a directory");
        assert_eq!(error.kind(), ErrorKind::IsADirectory);
        let error = ReportFile::open(&home.path().join("none/r")).expect_err("no directory");
        assert_eq!(error.kind(), ErrorKind::NotFound);
        let open = |name: &str| ReportFile::open(&home.path().join(name)).expect(name);
        fs::write(home.path().join("a"), "").expect("a file");
        symlink("a", home.path().join("link")).expect("a link");
        assert!(open("new").is_same(&open("./new")));
        assert!(open("a").is_same(&open("link")));
        assert!(!open("a").is_same(&open("b")));
        let null = || ReportFile::open(Path::new("/dev/null")).expect("a device");
        assert!(!null().is_same(&null()), "nothing is lost there");
    }
}
