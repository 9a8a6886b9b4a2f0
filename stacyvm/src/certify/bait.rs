//! What attacks are told to look for.

use std::collections::BTreeMap;
use std::fmt::Write as _;

/// Names and values for the attacks.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Facts(BTreeMap<&'static str, String>);

impl Facts {
    #[expect(clippy::needless_pass_by_value, reason = "numbers and text alike")]
    pub(super) fn set(&mut self, name: &'static str, value: impl ToString) {
        self.0.insert(name, value.to_string());
    }

    /// `name=value`, as the program takes them.
    pub(super) fn arguments(&self) -> impl Iterator<Item = String> + '_ {
        self.0.iter().map(|(name, value)| format!("{name}={value}"))
    }

    /// Adds what was laid out on the host, and leaves what is a place's own.
    pub(super) fn add_host(&mut self, others: &Self) {
        for name in ["marker", "port", "home", "hostname", "variable"] {
            if let Some(value) = others.0.get(name) {
                self.0.insert(name, value.clone());
            }
        }
    }
}

/// A word that nothing else has.
///
/// # Errors
///
/// Where the kernel gives no random numbers.
pub(super) fn marker() -> crate::error::Result<String> {
    let mut bytes = [0_u8; 12];
    getrandom::fill(&mut bytes).map_err(|error| {
        crate::error::Error::new(
            crate::error::ErrorKind::Internal,
            "the kernel gives no random numbers",
        )
        .context("cause", error)
    })?;
    Ok(bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    }))
}

/// The port in `ready PORT`, the line of a process that has laid out bait.
pub(super) fn port(line: &str) -> Option<u16> {
    line.trim_end().strip_prefix("ready ")?.parse().ok()
}

/// A variable of this process that sandboxes do not have by themselves.
pub(super) fn variable() -> Option<String> {
    const OF_SANDBOXES: [&str; 9] = [
        "LANG", "HOME", "USER", "PATH", "TERM", "TZ", "HOSTNAME", "LOGNAME", "SHLVL",
    ];
    let names = std::env::vars_os().filter_map(|(name, _)| name.into_string().ok());
    names
        .filter(|name| {
            !OF_SANDBOXES.contains(&name.as_str())
                && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
        })
        .min()
}
