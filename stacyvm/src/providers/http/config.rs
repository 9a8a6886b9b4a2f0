//! Where the server is.

use std::net::IpAddr;
use std::time::Duration;

use crate::error::{Error, Result};

/// The settings of the provider.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct HttpConfig {
    /// The server's URL: `http://127.0.0.1:7070`. As the server knows no
    /// identities and speaks no TLS, its host is a loopback address or `localhost`.
    pub url: String,
    /// The longest time that connecting may take.
    pub connect_within: Duration,
    /// The longest time that the whole answer to a question may take (`GET`: what the
    /// provider can do, what is there). Calls that do something take as long as that
    /// takes.
    pub answer_within: Duration,
}

/// A checked URL.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) host: String,
    pub(super) port: u16,
    /// Host and port as a header has them.
    pub(super) authority: String,
}

impl HttpConfig {
    /// A server.
    pub fn new(url: impl Into<String>) -> Self {
        Self {
            url: url.into(),
            connect_within: Duration::from_secs(10),
            answer_within: Duration::from_mins(1),
        }
    }

    pub(super) fn place(&self) -> Result<Place> {
        let refused = |expected: &str| {
            // What is before an `@` may be a password.
            let shown = match self.url.rsplit_once('@') {
                Some((_, rest)) => format!("[redacted]@{rest}"),
                None => self.url.clone(),
            };
            Error::invalid(
                "url",
                shown,
                expected,
                "give the URL that `stacyvm serve` printed; reach a server of another host through a tunnel",
            )
        };
        let rest = self.url.strip_prefix("http://");
        let rest = rest.ok_or_else(|| refused("http://HOST:PORT"))?;
        let authority = rest.strip_suffix('/').unwrap_or(rest);
        let (host, port) = match authority.strip_prefix('[') {
            Some(rest) => rest.split_once("]:"),
            None => authority.split_once(':'),
        }
        .ok_or_else(|| refused("http://HOST:PORT"))?;
        let port = port.parse().ok().filter(|port| *port > 0);
        let port = port.ok_or_else(|| refused("a port of 1 to 65535"))?;
        let address = host.parse::<IpAddr>();
        if host != "localhost" && !address.is_ok_and(|ip| ip.is_loopback()) {
            return Err(refused("`localhost` or a loopback address as host"));
        }
        Ok(Place {
            host: host.to_owned(),
            port,
            authority: authority.to_owned(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_are_of_this_host() {
        for (url, host, port) in [
            ("http://127.0.0.1:7070", "127.0.0.1", 7070),
            ("http://localhost:1/", "localhost", 1),
            ("http://[::1]:80", "::1", 80),
        ] {
            let place = HttpConfig::new(url).place().expect(url);
            assert_eq!((place.host.as_str(), place.port), (host, port));
        }
        for url in [
            "",
            "127.0.0.1:80",
            "https://127.0.0.1:80",
            "http://127.0.0.1",
            "http://127.0.0.1:0",
            "http://127.0.0.1:80/path",
            "http://10.0.0.1:80",
            "http://example.com:80",
            "http://user:hunter2@127.0.0.1:80",
        ] {
            let error = HttpConfig::new(url).place().expect_err(url);
            assert_eq!(error.fact("field"), Some("url"), "{url}");
            assert!(!format!("{error:?}").contains("hunter2"));
        }
    }
}
