//! What must not be printed.

#![cfg_attr(
    not(all(feature = "registry", target_os = "linux")),
    allow(unreachable_pub, reason = "public by way of `image`")
)]

use std::fmt;

/// A password or a token. Neither `Debug` nor anything else shows it.
#[derive(Clone)]
pub struct Secret(String);

impl Secret {
    /// Takes a secret.
    pub fn new(value: impl Into<String>) -> Self {
        Self(value.into())
    }

    /// The secret itself, for the header that it goes into.
    pub(crate) fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(..)")
    }
}

/// How a registry is told who asks.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Credentials {
    /// Nobody says who asks.
    Anonymous,
    /// A user and a password.
    Password {
        /// The user.
        user: String,
        /// The password.
        password: Secret,
    },
    /// What is exchanged for an access token (`identitytoken` of Docker).
    IdentityToken(Secret),
}
