//! Typed identifiers.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

const ALPHABET: &[u8; 32] = b"abcdefghijkmnpqrstuvwxyz23456789";

/// `length` random characters that read well and fit a host name.
fn random(length: usize) -> String {
    let mut bytes = [0_u8; 32];
    // The system's source of randomness does not fail on a running system; an
    // id without it would not be unique, so there is nothing to go on with.
    getrandom::fill(&mut bytes).expect("the system has no source of randomness");
    bytes[..length]
        .iter()
        .map(|b| ALPHABET[usize::from(b & 31)] as char)
        .collect()
}

macro_rules! id {
    ($(#[$doc:meta])* $name:ident, $field:literal, $prefix:literal, $length:literal) => {
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(String);

        impl $name {
            /// Mints a new random id.
            pub fn random() -> Self {
                Self(format!("{}{}", $prefix, random($length)))
            }

            /// Checks and takes an id that somebody else minted.
            ///
            /// # Errors
            ///
            /// `invalid_argument` unless it is 1 to 63 characters of `a-z`,
            /// `0-9` and `-`, beginning with a letter.
            pub fn new(text: impl Into<String>) -> Result<Self> {
                let text = text.into();
                let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
                if text.len() <= 63
                    && text.bytes().all(plain)
                    && text.starts_with(|c: char| c.is_ascii_lowercase())
                {
                    Ok(Self(text))
                } else {
                    Err(Error::invalid(
                        $field,
                        text,
                        "1 to 63 characters of a-z, 0-9 and -, beginning with a letter",
                        "use the id as it was printed",
                    ))
                }
            }

            /// The id as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl AsRef<str> for $name {
            fn as_ref(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $name {
            type Err = Error;
            fn from_str(text: &str) -> Result<Self> {
                Self::new(text)
            }
        }

        impl TryFrom<String> for $name {
            type Error = Error;
            fn try_from(text: String) -> Result<Self> {
                Self::new(text)
            }
        }

        impl From<$name> for String {
            fn from(id: $name) -> Self {
                id.0
            }
        }
    };
}

id!(
    /// Names one sandbox. The caller mints it, so a create can be repeated.
    SandboxId, "sandbox", "s", 19
);
id!(
    /// Names one command of a sandbox.
    ExecId, "exec", "x", 15
);
id!(
    /// Names one snapshot.
    SnapshotId, "snapshot", "p", 19
);
id!(
    /// Names one store; part of the ownership of everything made under it.
    InstanceId, "instance", "i", 19
);
#[cfg(feature = "wire")]
id!(
    /// Names a client of a server that sandboxes end with.
    OwnerId, "owner", "o", 19
);
id!(
    /// The owner of names, quotas and records.
    TenantId, "tenant", "t", 15
);

impl Default for TenantId {
    /// The tenant of a program that does not speak of tenants.
    fn default() -> Self {
        Self("default".to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn minted_ids_are_valid_and_differ() {
        let (a, b) = (SandboxId::random(), SandboxId::random());
        assert_ne!(a, b);
        assert_eq!(SandboxId::new(a.as_str()).unwrap(), a);
    }

    #[test]
    fn an_id_cannot_leave_a_directory_or_a_host_name() {
        for bad in [
            "",
            "..",
            "a/b",
            "A",
            "-a",
            "1a",
            "a\0",
            "a\n",
            "ä",
            &"a".repeat(64),
        ] {
            assert!(SandboxId::new(bad).is_err(), "{bad:?}");
        }
    }
}
