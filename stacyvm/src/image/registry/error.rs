//! What a registry's failures are called.

use std::error::Error as StdError;
use std::time::Duration;

use reqwest::StatusCode;

use crate::error::{Error, ErrorKind, Retry};

/// How long to wait before a request that may succeed then.
const LATER: Duration = Duration::from_secs(10);

/// What a request of a registry is about.
#[derive(Clone, Copy, Debug)]
pub(super) struct Asked<'a> {
    pub(super) host: &'a str,
    pub(super) what: &'a str,
}

impl Asked<'_> {
    fn error(&self, kind: ErrorKind, message: &str, remedy: &str) -> Error {
        Error::new(kind, format!("the registry {} {message}", self.host))
            .context("registry", self.host)
            .context("asked", self.what)
            .context("remedy", remedy)
    }

    /// An answer that is none of the protocol.
    pub(super) fn protocol(&self, message: &str) -> Error {
        self.error(
            ErrorKind::Protocol,
            message,
            "check that this is a registry; if it is, its answer is wrong",
        )
    }

    /// An answer that is no success.
    pub(super) fn status(&self, status: StatusCode, credentials: bool) -> Error {
        match status {
            StatusCode::UNAUTHORIZED if credentials => self.error(
                ErrorKind::Unauthenticated,
                "refuses the credentials: unauthorized",
                "log in again with `docker login`, or give the right user and password",
            ),
            StatusCode::UNAUTHORIZED => self.error(
                ErrorKind::Unauthenticated,
                "wants credentials: unauthorized",
                "log in with `docker login`, or name a file of credentials; check the name too, \
                 some registries say this of what does not exist",
            ),
            StatusCode::FORBIDDEN => self.error(
                ErrorKind::PermissionDenied,
                "does not let this user have the image",
                "ask its owner for the right to pull",
            ),
            StatusCode::NOT_FOUND => self.error(
                ErrorKind::NotFound,
                &format!("has no {}", self.what),
                "check the name, the tag and the digest",
            ),
            StatusCode::TOO_MANY_REQUESTS => self
                .error(
                    ErrorKind::ResourceExhausted,
                    "was asked too often",
                    "wait, or log in for a higher limit",
                )
                .retry(Retry::Maybe { after: LATER }),
            other if other.is_server_error() => self
                .error(
                    ErrorKind::Unavailable,
                    &format!("failed with {}", other.as_u16()),
                    "try again later",
                )
                .retry(Retry::Maybe { after: LATER }),
            other => self.protocol(&format!("answered with {}", other.as_u16())),
        }
    }

    /// A request without an answer, or an answer that broke off.
    pub(super) fn request(&self, error: reqwest::Error) -> Error {
        // The address of a redirection can hold a signature that is a secret.
        let error = error.without_url();
        let mine = match tls(&error) {
            Some(rustls::Error::InvalidCertificate(_)) => self.error(
                ErrorKind::Unavailable,
                "has a certificate that is not trusted",
                "add the file of its certificate authority",
            ),
            _ if error.is_redirect() => self.protocol(
                "redirects too often, from https to http, or a request for a token elsewhere",
            ),
            _ => self
                .error(
                    ErrorKind::Unavailable,
                    "cannot be reached, or broke off",
                    "check its name, the network and the proxy",
                )
                .retry(Retry::Maybe { after: LATER }),
        };
        mine.source(error)
    }
}

/// The failure of TLS behind an error.
pub(super) fn tls(error: &reqwest::Error) -> Option<&rustls::Error> {
    let mut cause: Option<&(dyn StdError + 'static)> = error.source();
    while let Some(at) = cause {
        if let Some(found) = at.downcast_ref::<rustls::Error>() {
            return Some(found);
        }
        cause = match at
            .downcast_ref::<std::io::Error>()
            .and_then(|e| e.get_ref())
        {
            Some(inner) => Some(inner as &(dyn StdError + 'static)),
            None => at.source(),
        };
    }
    None
}
