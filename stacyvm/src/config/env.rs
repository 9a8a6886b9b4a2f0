//! The environment: the one place that reads it, and every variable there is.

use std::ffi::OsString;
use std::path::PathBuf;

/// The variables that stacyvm reads, and what they set.
pub const VARIABLES: &[(&str, &str)] = &[
    ("STACYVM_CONFIG", "the configuration file"),
    ("STACYVM_STATE_DIR", "state_dir"),
    ("STACYVM_PROVIDER", "default_provider"),
    ("STACYVM_PARKED_HELPERS", "parked_helpers"),
    ("STACYVM_HELPER", "helper"),
    (
        "XDG_CONFIG_HOME",
        "where the user's configuration file is looked for",
    ),
    ("XDG_STATE_HOME", "where the user's state directory is made"),
    ("HOME", "the same, where the two above are not set"),
];

/// The environment, as far as stacyvm reads it.
#[derive(Clone, Debug, Default)]
pub(super) struct Environment {
    pub(super) config: Option<PathBuf>,
    pub(super) state_dir: Option<PathBuf>,
    pub(super) provider: Option<OsString>,
    pub(super) parked_helpers: Option<OsString>,
    pub(super) helper: Option<PathBuf>,
    pub(super) docker_host: Option<OsString>,
    pub(super) config_home: Option<PathBuf>,
    pub(super) state_home: Option<PathBuf>,
}

impl Environment {
    /// Reads the variables; an empty one counts as not set.
    pub(super) fn read() -> Self {
        let value = |name: &str| std::env::var_os(name).filter(|v| !v.is_empty());
        // The base directories must be absolute; others are to be ignored
        // (XDG Base Directory Specification 0.8). So is a home that is the
        // working directory's.
        let home = value("HOME")
            .map(PathBuf::from)
            .filter(|home| home.is_absolute());
        let base = |name: &str, below: &str| {
            value(name)
                .map(PathBuf::from)
                .filter(|p| p.is_absolute())
                .or_else(|| home.as_ref().map(|home| home.join(below)))
        };
        Self {
            config: value("STACYVM_CONFIG").map(PathBuf::from),
            state_dir: value("STACYVM_STATE_DIR").map(PathBuf::from),
            provider: value("STACYVM_PROVIDER"),
            parked_helpers: value("STACYVM_PARKED_HELPERS"),
            helper: value("STACYVM_HELPER").map(PathBuf::from),
            docker_host: value("DOCKER_HOST"),
            config_home: base("XDG_CONFIG_HOME", ".config"),
            state_home: base("XDG_STATE_HOME", ".local/state"),
        }
    }
}
