//! The way to an engine: the client, the version that both speak, and what
//! stands in the way, with its remedy.

use std::error::Error as StdError;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bollard::errors::Error as Failed;
use bollard::{BollardRequest, ClientVersion, Docker};
use hyper_rustls::HttpsConnector;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;

use super::config::DockerConfig;
use super::error::{io_kind, map, soon, status};
use super::host::{self, Target};
use super::patience::Answer;
use crate::error::{Error, ErrorKind, Result};

/// The oldest version of the API that has all that is asked for: Docker Engine 20.10.
const OLDEST: ClientVersion = ClientVersion {
    major_version: 1,
    minor_version: 41,
};
/// How long a connection over a network may take.
const CONNECT: Duration = Duration::from_secs(20);
/// How long a silent one may be gone unnoticed.
const KEEPALIVE: Duration = Duration::from_secs(30);

/// Connects to an engine, and agrees with it on the newest version of the API
/// that both speak. Every later request names it.
pub(super) async fn connect(config: &DockerConfig) -> Result<Docker> {
    let about = |error: Error| {
        let error = error.context("host", host::shown(&config.host));
        match &config.found_by {
            Some(by) => error.context("from", by),
            None => error,
        }
    };
    let target = Target::new(&config.host, config.tls.as_ref()).map_err(about)?;
    let docker = config.client().map_err(about)?;
    let told = docker.version().within(&docker).await;
    let told = told.map_err(|e| about(unreachable(&target, e)))?;
    let version = agree(told.api_version.as_deref(), told.min_api_version.as_deref());
    let version = version.map_err(about)?;
    let prefix = format!("/v{version}");
    Ok(docker.with_request_modifier(move |request| versioned(&prefix, request)))
}

/// A client that has said nothing yet.
pub(super) fn client(target: &Target, answer_within: Duration) -> Result<Docker> {
    let seconds = answer_within.as_secs().max(1);
    let newest = bollard::API_DEFAULT_VERSION;
    match target {
        Target::Socket(path) => {
            #[cfg(unix)]
            {
                check_socket(path)?;
                let path = path.display().to_string();
                Docker::connect_with_unix(&path, seconds, newest).map_err(map)
            }
            #[cfg(not(unix))]
            {
                let _ = path;
                Err(Error::unsupported("there are no unix sockets here"))
            }
        }
        #[cfg(windows)]
        Target::Pipe(pipe) => Docker::connect_with_named_pipe(pipe, seconds, newest).map_err(map),
        Target::Plain(address) => {
            let client = Client::builder(TokioExecutor::new())
                .pool_max_idle_per_host(0)
                .build(tcp());
            let transport = move |request: BollardRequest| {
                let answer = client.request(request);
                async move { answer.await.map_err(Failed::from) }
            };
            let url = format!("http://{address}");
            Docker::connect_with_custom_transport(transport, Some(url), seconds, newest)
                .map_err(map)
        }
        Target::Tls(address, tls) => {
            let settings = Arc::new(tls.client_config()?);
            let client = Client::builder(TokioExecutor::new())
                .pool_max_idle_per_host(0)
                .build(HttpsConnector::from((tcp(), settings)));
            let transport = move |request: BollardRequest| {
                let answer = client.request(request);
                async move { answer.await.map_err(Failed::from) }
            };
            let url = format!("https://{address}");
            Docker::connect_with_custom_transport(transport, Some(url), seconds, newest)
                .map_err(map)
        }
    }
}

fn tcp() -> HttpConnector {
    let mut tcp = HttpConnector::new();
    tcp.enforce_http(false);
    // Frames of the agent's protocol are small, and each is waited for.
    tcp.set_nodelay(true);
    tcp.set_connect_timeout(Some(CONNECT));
    tcp.set_keepalive(Some(KEEPALIVE));
    tcp
}

/// Puts the version in front of a request's path.
fn versioned(prefix: &str, request: BollardRequest) -> BollardRequest {
    let (mut head, body) = request.into_parts();
    let mut uri = head.uri.clone().into_parts();
    let path = uri.path_and_query.as_ref().map_or("/", |p| p.as_str());
    uri.path_and_query = format!("{prefix}{path}").parse().ok();
    if let Ok(uri) = uri.try_into() {
        head.uri = uri;
    }
    BollardRequest::from_parts(head, body)
}

/// The newest version that an engine and this build speak.
fn agree(newest: Option<&str>, oldest: Option<&str>) -> Result<ClientVersion> {
    let ours = bollard::API_DEFAULT_VERSION;
    let unknown = || {
        Error::new(
            ErrorKind::Incompatible,
            "what answers names no version of the docker api, expected a docker engine; \
             check the address",
        )
    };
    let theirs = newest.and_then(number).ok_or_else(unknown)?;
    let differs = |theirs: &str, remedy: &str| {
        Error::new(
            ErrorKind::Incompatible,
            format!(
                "the docker engine speaks version {theirs} of the api, expected one of \
                 {OLDEST} to {ours}; {remedy}"
            ),
        )
        .context("value", theirs)
        .context("expected", format!("{OLDEST} to {ours}"))
        .context("remedy", remedy)
    };
    if theirs < OLDEST {
        return Err(differs(
            newest.unwrap_or_default(),
            "update it to Docker Engine 20.10 or newer, or Podman 4 or newer",
        ));
    }
    if oldest.and_then(number).is_some_and(|oldest| oldest > *ours) {
        let from = format!("{} and newer", oldest.unwrap_or_default());
        return Err(differs(&from, "update stacyvm"));
    }
    Ok(if theirs < *ours { theirs } else { *ours })
}

fn number(text: &str) -> Option<ClientVersion> {
    let (major, minor) = text.split_once('.')?;
    Some(ClientVersion {
        major_version: major.parse().ok()?,
        minor_version: minor.parse().ok()?,
    })
}

/// Tells a socket that is missing from one that this user may not see.
#[cfg(unix)]
fn check_socket(path: &Path) -> Result<()> {
    use std::os::unix::fs::FileTypeExt as _;
    match std::fs::metadata(path) {
        Ok(found) if found.file_type().is_socket() => Ok(()),
        Ok(_) => Err(Error::invalid(
            "docker.host",
            format!("unix://{}", path.display()),
            "the path of a socket",
            "name the engine's socket, as /var/run/docker.sock",
        )),
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => Err(not_allowed(path)),
        Err(error) => Err(absent(
            &format!("there is no docker engine at {}", path.display()),
            "start it, as by `systemctl start docker`, or name another with DOCKER_HOST",
        )
        .source(error)),
    }
}

/// Why an engine cannot be spoken to at all.
fn unreachable(target: &Target, failed: Failed) -> Error {
    match target {
        Target::Socket(path) => match io_kind(&failed) {
            Some(io::ErrorKind::PermissionDenied) => not_allowed(path).source(failed),
            Some(io::ErrorKind::ConnectionRefused | io::ErrorKind::NotFound) => absent(
                &format!(
                    "nobody listens at {}: the docker engine does not run",
                    path.display()
                ),
                "start it, as by `systemctl start docker`, or name another with DOCKER_HOST",
            )
            .source(failed),
            _ => map(failed),
        },
        #[cfg(windows)]
        Target::Pipe(_) => map(failed),
        Target::Plain(address) => unreachable_plain(address, failed),
        Target::Tls(address, tls) => unreachable_tls(address, tls.client.is_some(), failed),
    }
}

fn unreachable_plain(address: &str, failed: Failed) -> Error {
    // Go's servers say so in plain text; others close, or answer with TLS.
    let said = failed.to_string();
    let wants_tls = status(&failed) == Some(400) && said.contains("HTTPS server");
    if wants_tls || is_no_http(&failed) {
        return Error::invalid(
            "docker.host",
            format!("tcp://{address}"),
            "an engine that speaks HTTP there",
            "where it speaks TLS, name its certificates: DOCKER_TLS_VERIFY and \
             DOCKER_CERT_PATH, or the setting `certs` of the provider",
        )
        .source(failed);
    }
    over_network(address, failed)
}

fn unreachable_tls(address: &str, has_certificate: bool, failed: Failed) -> Error {
    let unproved = |message: String, remedy: &str| {
        Error::new(ErrorKind::Unauthenticated, format!("{message}; {remedy}"))
            .context("remedy", remedy)
    };
    let error = match of_tls(&failed) {
        Some(rustls::Error::InvalidCertificate(why)) => unproved(
            format!("the docker engine at {address} does not prove who it is: {why}"),
            "name the ca.pem of its authority, and the engine as in its certificate",
        ),
        Some(rustls::Error::AlertReceived(alert)) if !is_about_client(*alert) => Error::new(
            ErrorKind::Protocol,
            format!("the docker engine at {address} refuses TLS with {alert:?}"),
        ),
        Some(rustls::Error::AlertReceived(alert)) if has_certificate => unproved(
            format!("the docker engine at {address} refuses this client's certificate: {alert:?}"),
            "take a cert.pem and key.pem of the authority that the engine trusts",
        ),
        Some(rustls::Error::AlertReceived(alert)) => unproved(
            format!("the docker engine at {address} wants a certificate of its clients: {alert:?}"),
            "put cert.pem and key.pem beside ca.pem",
        ),
        Some(rustls::Error::InvalidMessage(_)) => Error::invalid(
            "docker.host",
            format!("https://{address}"),
            "an engine that speaks TLS there",
            "leave DOCKER_TLS_VERIFY and the certificates out where it does not, which only a \
             protected network may offer",
        ),
        _ => return over_network(address, failed),
    };
    error.source(failed)
}

/// Whether an engine speaks of its client's certificate.
fn is_about_client(alert: rustls::AlertDescription) -> bool {
    use rustls::AlertDescription as Of;
    matches!(
        alert,
        Of::CertificateRequired
            | Of::NoCertificate
            | Of::BadCertificate
            | Of::UnsupportedCertificate
            | Of::CertificateRevoked
            | Of::CertificateExpired
            | Of::CertificateUnknown
            | Of::UnknownCA
            | Of::AccessDenied
            | Of::DecryptError
            // What TLS 1.2 has for a client without one.
            | Of::HandshakeFailure
    )
}

fn over_network(address: &str, failed: Failed) -> Error {
    match io_kind(&failed) {
        Some(io::ErrorKind::ConnectionRefused) => absent(
            &format!("nobody listens at {address}"),
            "start the docker engine with this address, or name another with DOCKER_HOST",
        )
        .source(failed),
        Some(_) => absent(
            &format!("the docker engine at {address} cannot be reached"),
            "check the name, the port and the network",
        )
        .source(failed),
        None => map(failed),
    }
}

fn absent(message: &str, remedy: &str) -> Error {
    Error::new(ErrorKind::Unavailable, format!("{message}; {remedy}"))
        .context("remedy", remedy)
        .retry(soon())
}

fn not_allowed(path: &Path) -> Error {
    let remedy = "add the user to its group, as by `sudo usermod --append --groups docker USER` \
                  and a new login, or use a rootless engine";
    Error::new(
        ErrorKind::PermissionDenied,
        format!(
            "this user may not use the docker engine at {}; {remedy}",
            path.display()
        ),
    )
    .context("remedy", remedy)
}

/// Whether what came back is no HTTP.
fn is_no_http(failed: &Failed) -> bool {
    causes(failed).any(|cause| {
        cause
            .downcast_ref::<hyper::Error>()
            .is_some_and(hyper::Error::is_parse)
    })
}

/// The failure of TLS behind an error.
fn of_tls(failed: &Failed) -> Option<&rustls::Error> {
    causes(failed).find_map(|cause| cause.downcast_ref())
}

/// An error and its causes, with those that a system error holds.
fn causes(failed: &Failed) -> impl Iterator<Item = &(dyn StdError + 'static)> {
    fn next<'a>(at: &&'a (dyn StdError + 'static)) -> Option<&'a (dyn StdError + 'static)> {
        let at = *at;
        let held = at.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
        match held {
            Some(held) => Some(held as &(dyn StdError + 'static)),
            None => at.source(),
        }
    }
    std::iter::successors(Some(failed as &(dyn StdError + 'static)), next)
}

#[cfg(test)]
#[path = "connect_tests.rs"]
mod tests;
