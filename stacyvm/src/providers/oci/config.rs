//! Settings of the embedded provider.

use std::path::PathBuf;

use crate::config::ImagesConfig;

/// Settings of the embedded provider.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct OciConfig {
    /// The directory for state, private to its user.
    pub state_dir: PathBuf,
    /// Helpers that wait, with namespaces and cgroups made, for the next
    /// create. They are made from the second create on, so that a process
    /// that makes one sandbox pays for no other; 0 turns them off.
    pub parked_helpers: usize,
    /// The OCI runtime that makes the containers: `runc`, `crun`, `youki` or `runsc`,
    /// looked for in the system's directories, or the absolute path of a
    /// binary. `None` is the helper's own set-up, which needs none.
    pub runtime: Option<String>,
    /// The helper's program instead of the one that this crate carries in
    /// itself: an absolute path. It must have the same bytes. `None` looks in
    /// `/usr/libexec/stacyvm` and `/usr/local/libexec/stacyvm`, where an
    /// administrator puts it on hosts that give rights to programs by their
    /// path, and else executes a memory file.
    pub helper: Option<PathBuf>,
    /// Where images come from; when is the engine's to say.
    pub images: ImagesConfig,
}

impl OciConfig {
    /// The defaults on a directory for state.
    pub fn new(state_dir: impl Into<PathBuf>) -> Self {
        Self {
            state_dir: state_dir.into(),
            parked_helpers: 1,
            runtime: None,
            helper: None,
            images: ImagesConfig::default(),
        }
    }
}
