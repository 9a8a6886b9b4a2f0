//! Why an engine did not pull: by its words, as it has no codes for them.

use std::time::Duration;

use bollard::errors::Error as Docker;

use super::error::map;
use crate::error::{Error, ErrorKind, Retry};

/// How long to wait before a pull that may succeed then.
const LATER: Duration = Duration::from_secs(10);
/// The most of an engine's words that is told.
const MOST: usize = 400;

/// What a pull is about.
#[derive(Clone, Copy, Debug)]
pub(super) struct Asked<'a> {
    pub(super) image: &'a str,
    pub(super) registry: &'a str,
    /// Whether credentials were given.
    pub(super) known: bool,
}

/// Words of registries, of the engine and of the libraries that it is made of, in
/// lower case; the first that fits decides.
const WORDS: &[(&str, Why)] = &[
    ("no matching manifest for", Why::Platform),
    ("toomanyrequests", Why::TooOften),
    ("too many requests", Why::TooOften),
    ("no space left on device", Why::NoSpace),
    ("no basic auth credentials", Why::Unknown),
    ("unauthorized", Why::Unknown),
    ("authentication required", Why::Unknown),
    ("incorrect username or password", Why::Unknown),
    ("manifest unknown", Why::Missing),
    ("name unknown", Why::Missing),
    ("access denied", Why::Denied),
    ("access to the resource is denied", Why::Denied),
    ("forbidden", Why::Denied),
    ("denied:", Why::Denied),
    ("x509:", Why::Certificate),
    ("server gave http response to https client", Why::Insecure),
    ("no such host", Why::Unreachable),
    ("dial tcp", Why::Unreachable),
    ("connection re", Why::Unreachable),
    ("timeout", Why::Unreachable),
    ("deadline exceeded", Why::Unreachable),
    ("proxyconnect", Why::Unreachable),
    ("eof", Why::Unreachable),
    ("received unexpected http status: 5", Why::Unreachable),
    ("parsing http 401", Why::Unknown),
    ("parsing http 403", Why::Denied),
    ("parsing http 404", Why::Missing),
    ("parsing http 429", Why::TooOften),
    ("parsing http 5", Why::Unreachable),
    ("failed to verify", Why::Damaged),
    ("verification failed", Why::Damaged),
    ("digest mismatch", Why::Damaged),
    ("not found", Why::Missing),
    ("invalid reference format", Why::Name),
    ("invalid tag", Why::Name),
];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Why {
    Platform,
    TooOften,
    NoSpace,
    Unknown,
    Missing,
    Denied,
    Certificate,
    Insecure,
    Unreachable,
    Damaged,
    Name,
}

impl Asked<'_> {
    /// What the engine, or the way to it, said instead of going on.
    pub(super) fn error(&self, error: Docker) -> Error {
        match error {
            Docker::DockerStreamError { error } => self.words(None, &error),
            Docker::DockerResponseServerError {
                status_code,
                message,
            } => self.words(Some(status_code), &message),
            other => self.about(map(other)),
        }
    }

    /// An error by the engine's words.
    pub(super) fn words(&self, status: Option<u16>, said: &str) -> Error {
        let lower = said.to_lowercase();
        let why = WORDS.iter().find(|(words, _)| lower.contains(words));
        let why = why.map(|(_, why)| *why).or(match status {
            Some(400) => Some(Why::Name),
            Some(401) => Some(Why::Unknown),
            Some(403) => Some(Why::Denied),
            Some(404) => Some(Why::Missing),
            _ => None,
        });
        let (image, registry) = (self.image, self.registry);
        let (kind, message, remedy) = match why {
            Some(Why::Unknown) if self.known => (
                ErrorKind::Unauthenticated,
                format!("the registry {registry} refuses the credentials for `{image}`"),
                format!("log in again with `docker login {registry}`"),
            ),
            Some(Why::Unknown) => (
                ErrorKind::Unauthenticated,
                format!("the registry {registry} wants credentials for `{image}`"),
                format!("log in with `docker login {registry}`; check the name too"),
            ),
            Some(Why::Denied) => (
                ErrorKind::PermissionDenied,
                format!("the registry {registry} has no `{image}` that this user may have"),
                format!("check the name; log in with `docker login {registry}` as who may pull it"),
            ),
            Some(Why::Missing) => (
                ErrorKind::NotFound,
                format!("the registry {registry} has no `{image}`"),
                format!(
                    "check name, tag and digest; some registries say this of what \
                     `docker login {registry}` would show"
                ),
            ),
            Some(Why::Platform) => (
                ErrorKind::Unsupported,
                format!("the registry {registry} has no `{image}` for the engine's architecture"),
                "name an image that was built for it".to_owned(),
            ),
            Some(Why::Name) => (
                ErrorKind::InvalidArgument,
                format!("the docker engine takes `{image}` for no name of an image"),
                "correct the name: [REGISTRY/]NAME[:TAG][@DIGEST]".to_owned(),
            ),
            Some(Why::TooOften) => (
                ErrorKind::ResourceExhausted,
                format!("the registry {registry} was asked too often for `{image}`"),
                "wait, or log in for a higher limit".to_owned(),
            ),
            Some(Why::NoSpace) => (
                ErrorKind::NoSpace,
                format!("the docker engine has no room for `{image}`"),
                "make room with `docker system prune`".to_owned(),
            ),
            Some(Why::Certificate) => (
                ErrorKind::Unavailable,
                format!("the docker engine does not trust the certificate of {registry}"),
                format!("put its authority into /etc/docker/certs.d/{registry}/ca.crt there"),
            ),
            Some(Why::Insecure) => (
                ErrorKind::Unavailable,
                format!("the registry {registry} speaks no TLS, which the docker engine wants"),
                "name it under `insecure-registries` of the engine's configuration".to_owned(),
            ),
            Some(Why::Damaged) => (
                ErrorKind::Corrupt,
                format!("the registry {registry} sent something else than `{image}`"),
                "try again; if it stays, the registry or a mirror is damaged".to_owned(),
            ),
            Some(Why::Unreachable) => (
                ErrorKind::Unavailable,
                format!("the docker engine does not reach the registry {registry}"),
                "check its name, and the engine's network and proxy".to_owned(),
            ),
            None => (
                ErrorKind::Unavailable,
                format!("the docker engine did not pull `{image}` from {registry}"),
                "see what it said".to_owned(),
            ),
        };
        let again = match why {
            Some(Why::TooOften | Why::Unreachable) => Retry::Maybe { after: LATER },
            _ => Retry::Never,
        };
        let error = self
            .about(Error::new(kind, message))
            .context("remedy", remedy);
        match told(said) {
            said if said.is_empty() => error,
            said => error.context("engine", said),
        }
        .retry(again)
    }

    fn about(&self, error: Error) -> Error {
        error
            .context("field", "image")
            .context("value", self.image)
            .context("registry", self.registry)
            .context(
                "instead",
                "bring the image to the engine with `docker load` or `docker import`",
            )
    }
}

/// An engine that says nothing any more.
pub(super) fn silent(asked: &Asked<'_>, within: Duration) -> Error {
    let message = format!(
        "the docker engine said nothing of the pull of `{}` for {} s",
        asked.image,
        within.as_secs()
    );
    asked
        .about(Error::new(ErrorKind::Unavailable, message))
        .context(
            "remedy",
            "check the registry, and the engine's network and proxy",
        )
        .retry(Retry::Maybe { after: LATER })
}

/// The engine's words without what follows the path of an address, which can be a
/// signature that is a secret, and without a user before a host.
fn told(said: &str) -> String {
    let mut told = String::new();
    for word in said.split_inclusive([' ', '\n', '"', '\'']) {
        let (word, end) = match word.chars().last() {
            Some(last) if " \n\"'".contains(last) => word.split_at(word.len() - 1),
            _ => (word, ""),
        };
        let word = match word.split_once("://") {
            Some((scheme, rest)) => {
                let rest = rest.split(['?', '#']).next().unwrap_or_default();
                let (host, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
                let host = host.rsplit('@').next().unwrap_or_default();
                format!("{scheme}://{host}{path}")
            }
            None => word.to_owned(),
        };
        told.push_str(&word);
        told.push_str(end);
        if told.len() > MOST {
            break;
        }
    }
    let cut = told
        .char_indices()
        .nth(MOST)
        .map_or(told.len(), |(at, _)| at);
    told.truncate(cut);
    told.trim().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_words_of_engines_have_their_kinds() {
        let asked = Asked {
            image: "x.io/a:1",
            registry: "x.io",
            known: false,
        };
        // As engines and registries have said them.
        for (said, kind) in [
            (
                "manifest for x.io/a:1 not found: manifest unknown: manifest unknown",
                ErrorKind::NotFound,
            ),
            (
                "pull access denied for a, repository does not exist or may require 'docker login': denied: requested access to the resource is denied",
                ErrorKind::PermissionDenied,
            ),
            (
                "denied: requested access to the resource is denied",
                ErrorKind::PermissionDenied,
            ),
            (
                "error pulling image configuration: download failed after attempts=1: received unexpected HTTP status: 503 Service Unavailable",
                ErrorKind::Unavailable,
            ),
            (
                "Get http://127.0.0.1:1/v2/a/manifests/1: no basic auth credentials",
                ErrorKind::Unauthenticated,
            ),
            (
                "Head \"http://127.0.0.1:1/v2/a/manifests/1\": unauthorized: authentication required",
                ErrorKind::Unauthenticated,
            ),
            (
                "Get \"http://127.0.0.1:1/v2/\": dial tcp 127.0.0.1:1: connect: connection refused",
                ErrorKind::Unavailable,
            ),
            (
                "Get \"https://x.io/v2/\": x509: certificate signed by unknown authority",
                ErrorKind::Unavailable,
            ),
            (
                "http: server gave HTTP response to HTTPS client",
                ErrorKind::Unavailable,
            ),
            (
                "no matching manifest for linux/amd64 in the manifest list entries",
                ErrorKind::Unsupported,
            ),
            (
                "toomanyrequests: You have reached your pull rate limit.",
                ErrorKind::ResourceExhausted,
            ),
            (
                "write /var/lib/docker/tmp/x: no space left on device",
                ErrorKind::NoSpace,
            ),
            (
                "filesystem layer verification failed for digest sha256:aa",
                ErrorKind::Corrupt,
            ),
            ("invalid reference format", ErrorKind::InvalidArgument),
            (
                "error parsing HTTP 404 response body: unexpected end of JSON input: \"\"",
                ErrorKind::NotFound,
            ),
            ("something new", ErrorKind::Unavailable),
            ("", ErrorKind::Unavailable),
        ] {
            let error = asked.error(Docker::DockerStreamError { error: said.into() });
            assert_eq!(error.kind(), kind, "{said}");
            assert_eq!(error.fact("value"), Some("x.io/a:1"));
            assert!(error.fact("remedy").is_some(), "{said}");
        }
        let error = asked.words(Some(404), "no words");
        assert_eq!(error.kind(), ErrorKind::NotFound);
    }

    #[test]
    fn credentials_that_were_given_are_refused_and_others_are_wanted() {
        let of = |known| {
            let asked = Asked {
                image: "a",
                registry: "x.io",
                known,
            };
            asked.words(None, "unauthorized").message().to_owned()
        };
        assert!(of(true).contains("refuses the credentials"));
        assert!(of(false).contains("wants credentials"));
    }

    #[test]
    fn secrets_of_addresses_are_not_told() {
        let said = "Get \"https://ann:hush@cdn.io/blob/1?X-Signature=hush&b=hush\": bad";
        assert_eq!(told(said), "Get \"https://cdn.io/blob/1\": bad");
        let long = told(&"é ".repeat(900)).chars().count();
        assert!(long > MOST / 2 && long <= MOST, "{long}");
        let asked = Asked {
            image: "a",
            registry: "x.io",
            known: true,
        };
        let error = asked.words(None, "a\nerror: b\x1b[2J");
        assert!(!error.to_string().contains(['\n', '\x1b']));
    }
}
