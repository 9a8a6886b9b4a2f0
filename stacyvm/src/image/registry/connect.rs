//! Which hosts are asked, and how they are spoken to.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use reqwest::redirect::{Action, Attempt, Policy};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;

use super::PullOptions;
use crate::error::{Error, ErrorKind, Result};
use crate::image::source::Reference;

/// How long a connection may take, and how long one may be silent.
const CONNECT: Duration = Duration::from_secs(20);
const SILENCE: Duration = Duration::from_mins(1);
/// Redirections of one request; registries need one.
const REDIRECTS: usize = 5;

/// Where an image is asked for.
pub(super) struct Place {
    /// Registry and repository there.
    pub(super) reference: Reference,
    pub(super) is_mirror: bool,
}

/// The mirrors of a reference's registry, then the registry.
///
/// # Errors
///
/// `invalid_argument` for a mirror that is no `HOST[:PORT][/PATH]`.
pub(super) fn places(reference: &Reference, options: &PullOptions) -> Result<Vec<Place>> {
    let mut places = Vec::new();
    for (registry, mirror) in &options.mirrors {
        if registry != reference.registry() {
            continue;
        }
        let asked = format!("{mirror}/{}", reference.repository()).parse::<Reference>();
        let asked = asked.ok().filter(|asked| {
            // Nothing was completed or read as something else.
            format!("{}/{}", asked.registry(), asked.repository())
                == format!("{mirror}/{}", reference.repository())
        });
        let Some(reference) = asked else {
            return Err(Error::invalid(
                "mirrors",
                mirror,
                "HOST[:PORT][/PATH], the host with a dot or a port",
                "correct the mirror",
            ));
        };
        places.push(Place {
            reference,
            is_mirror: true,
        });
    }
    places.push(Place {
        reference: reference.clone(),
        is_mirror: false,
    });
    Ok(places)
}

/// Where the API of a registry is.
pub(super) fn api(host: &str) -> &str {
    match host {
        "docker.io" => "registry-1.docker.io",
        other => other,
    }
}

/// Whether a host is this one.
pub(super) fn is_loopback(host: &str) -> bool {
    let name = match host.strip_prefix('[') {
        Some(rest) => rest.split(']').next().unwrap_or_default(),
        None => host.rsplit_once(':').map_or(host, |(name, _)| name),
    };
    name == "localhost" || name.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

/// The HTTP clients for a host.
pub(super) struct Http {
    /// For manifests and blobs, which may be redirected to another host.
    pub(super) content: reqwest::Client,
    /// For tokens: such a request can hold a secret that a redirection would
    /// take along.
    pub(super) tokens: reqwest::Client,
}

/// The HTTP clients for a host.
pub(super) fn http(host: &str, options: &PullOptions) -> Result<Http> {
    let internal = |error: Box<dyn std::error::Error + Send + Sync>| {
        Error::new(ErrorKind::Internal, "cannot set up TLS").source(error)
    };
    // Named here, so that nothing global of the program is read or set.
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut authorities: Vec<CertificateDer<'static>> = Vec::new();
    for file in &options.ca_files {
        let bad = |error: rustls::pki_types::pem::Error| {
            Error::invalid(
                "ca_files",
                file.display(),
                "a readable file of certificates in PEM",
                "correct the path or the file",
            )
            .source(error)
        };
        let before = authorities.len();
        for one in CertificateDer::pem_file_iter(file).map_err(bad)? {
            authorities.push(one.map_err(bad)?);
        }
        if authorities.len() == before {
            return Err(bad(rustls::pki_types::pem::Error::NoItemsFound));
        }
    }
    let verifier = rustls_platform_verifier::Verifier::new_with_extra_roots(
        authorities,
        Arc::clone(&provider),
    )
    .map_err(|e| internal(e.into()))?;
    let tls = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|e| internal(e.into()))?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier))
        .with_no_client_auth();
    let client = |redirects| {
        let mut builder = reqwest::Client::builder()
            .tls_backend_preconfigured(tls.clone())
            .user_agent(concat!("stacyvm/", env!("CARGO_PKG_VERSION")))
            .connect_timeout(CONNECT)
            .read_timeout(SILENCE)
            .referer(false)
            .redirect(redirects);
        if is_loopback(host) {
            builder = builder.no_proxy();
        }
        builder
            .build()
            .map_err(|e| internal(e.without_url().into()))
    };
    Ok(Http {
        content: client(Policy::custom(follow))?,
        tokens: client(Policy::custom(follow_within_host))?,
    })
}

/// Credentials in headers stay behind where host, port or scheme differ.
fn follow(attempt: Attempt<'_>) -> Action {
    let secure = attempt.previous().iter().any(|url| url.scheme() == "https");
    if attempt.previous().len() > REDIRECTS || (secure && attempt.url().scheme() != "https") {
        attempt.error("redirected too often, or away from https")
    } else {
        attempt.follow()
    }
}

fn follow_within_host(attempt: Attempt<'_>) -> Action {
    let first = attempt.previous().first();
    if first.is_some_and(|first| first.origin() == attempt.url().origin()) {
        follow(attempt)
    } else {
        attempt.error("redirected to another host")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loopback_is_told_by_the_address() {
        for host in [
            "localhost",
            "localhost:5000",
            "127.0.0.1:1",
            "127.9.9.9",
            "[::1]:5000",
        ] {
            assert!(is_loopback(host), "{host}");
        }
        for host in [
            "127.0.0.1.x.io",
            "localhost.x.io:5000",
            "10.0.0.1",
            "[::2]:5000",
            "x.io",
        ] {
            assert!(!is_loopback(host), "{host}");
        }
    }
}
