//! Tests of the store as a whole.

mod build;
mod hostile;
mod mutations;
mod peers;
mod roots;
mod stores;

use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};

use super::*;
use crate::context::Context;
use crate::error::{ErrorKind, Result};

/// A store in a directory, with something beside it that must not change.
struct Ground {
    home: tempfile::TempDir,
    images: Images,
}

impl Ground {
    fn new() -> Self {
        let home = tempfile::tempdir().unwrap();
        std::fs::create_dir(home.path().join("canary")).unwrap();
        std::fs::write(home.path().join("canary/file"), "canary").unwrap();
        std::fs::write(home.path().join("outside"), "outside").unwrap();
        let images = Images::open(&home.path().join("images")).unwrap();
        Self { home, images }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.home.path().join(name)
    }

    /// Imports an archive of a root directory.
    fn rootfs(&self, bytes: &[u8]) -> Result<Image> {
        let path = self.path("rootfs.tar");
        std::fs::write(&path, bytes).unwrap();
        self.import(&format!("rootfs-archive:{}", path.display()))
    }

    fn layout(&self, layout: &build::Layout) -> Result<Image> {
        let path = self.path("layout");
        let _ = std::fs::remove_dir_all(&path);
        layout.write(&path);
        self.import(&format!("oci:{}", path.display()))
    }

    fn import(&self, source: &str) -> Result<Image> {
        let options = ImportOptions::named("test:1");
        self.images
            .import(&Context::default(), &source.parse()?, &options)
    }

    /// The directory of an image's layer.
    fn layer(&self, image: &Image, at: usize) -> PathBuf {
        let root = self.images.root(image).unwrap();
        root.lower[root.lower.len() - 1 - at].clone()
    }

    /// Nothing outside the store changed, and nothing half-made is in it.
    fn is_clean(&self) {
        let canary = self.path("canary");
        assert_eq!(std::fs::read_dir(&canary).unwrap().count(), 1);
        assert_eq!(std::fs::read(canary.join("file")).unwrap(), b"canary");
        assert_eq!(std::fs::read(self.path("outside")).unwrap(), b"outside");
        let mut there: Vec<_> = std::fs::read_dir(self.home.path())
            .unwrap()
            .map(|e| e.unwrap().file_name().into_string().unwrap())
            .filter(|name| !["rootfs.tar", "layout", "out", "archive"].contains(&name.as_str()))
            .collect();
        there.sort();
        assert_eq!(there, ["canary", "images", "outside"]);
        assert_eq!(
            std::fs::read_dir(self.images.path().join("tmp"))
                .unwrap()
                .count(),
            0
        );
        assert_eq!(self.images.verify(&Context::default()).unwrap(), []);
    }
}

/// Everything below a directory: path, kind with mode, owner, and content,
/// target or number. Sorted.
fn tree(root: &Path) -> Vec<String> {
    let mut lines = Vec::new();
    let mut left = vec![root.to_owned()];
    while let Some(dir) = left.pop() {
        for entry in std::fs::read_dir(&dir).unwrap() {
            let path = entry.unwrap().path();
            let found = std::fs::symlink_metadata(&path).unwrap();
            let name = path.strip_prefix(root).unwrap().display().to_string();
            let kind = found.file_type();
            let mode = found.mode() & 0o7777;
            let what = if kind.is_dir() {
                left.push(path.clone());
                format!("{name}/ {mode:o}")
            } else if kind.is_symlink() {
                format!("{name} -> {}", std::fs::read_link(&path).unwrap().display())
            } else if kind.is_char_device() {
                format!("{name} whiteout {}", found.rdev())
            } else if kind.is_fifo() {
                format!("{name} fifo {mode:o}")
            } else {
                let content = std::fs::read(&path).unwrap();
                let text = String::from_utf8_lossy(&content[..content.len().min(40)]).into_owned();
                format!("{name} {mode:o} {text}")
            };
            lines.push(what.trim_end().to_owned());
        }
    }
    lines.sort();
    lines
}
