//! Which hosts are asked, and how they are spoken to.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

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

/// The mirrors of a reference's registry, then the registry.
///
/// # Errors
///
/// `invalid_argument` for a mirror that is no `HOST[:PORT]`.
pub(super) fn hosts(reference: &Reference, options: &PullOptions) -> Result<Vec<String>> {
    let mut hosts = Vec::new();
    for (registry, mirror) in &options.mirrors {
        if registry != reference.registry() {
            continue;
        }
        let parsed = format!("{mirror}/x").parse::<Reference>();
        if !parsed.is_ok_and(|parsed| parsed.registry() == mirror) {
            return Err(Error::invalid(
                "mirrors",
                mirror,
                "HOST[:PORT] with a dot or a port",
                "correct the mirror",
            ));
        }
        hosts.push(mirror.clone());
    }
    hosts.push(reference.registry().to_owned());
    Ok(hosts)
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

/// The HTTP client for a host.
pub(super) fn http(host: &str, options: &PullOptions) -> Result<reqwest::Client> {
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
    let redirects = reqwest::redirect::Policy::custom(|attempt| {
        let secure = attempt.previous().iter().any(|url| url.scheme() == "https");
        if attempt.previous().len() > REDIRECTS || (secure && attempt.url().scheme() != "https") {
            attempt.error("redirected too often, or away from https")
        } else {
            // Credentials stay behind where host, port or scheme differ.
            attempt.follow()
        }
    });
    let mut builder = reqwest::Client::builder()
        .tls_backend_preconfigured(tls)
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
