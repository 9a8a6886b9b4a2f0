//! TLS to an engine: who it must be, and who this is.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::pki_types::pem::{self, PemObject as _};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

use crate::error::{Error, ErrorKind, Result};

/// The names of the files in a directory of certificates, as Docker has them.
const NAMES: [&str; 3] = ["ca.pem", "cert.pem", "key.pem"];

/// The files in PEM by which an engine and this client prove who they are. The
/// engine is always verified.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct DockerTls {
    /// The authorities of which the engine's certificate must be; those of the
    /// system if none is named, and no others if one is.
    pub ca: Option<PathBuf>,
    /// This client's certificate and its key, for engines that ask for them.
    pub client: Option<(PathBuf, PathBuf)>,
}

impl DockerTls {
    /// The files `ca.pem`, `cert.pem` and `key.pem` of a directory, as
    /// `DOCKER_CERT_PATH` names one. The last two may be missing together.
    ///
    /// # Errors
    ///
    /// `invalid_argument` where `ca.pem` is missing, or one of the other two.
    pub fn directory(directory: impl AsRef<Path>) -> Result<Self> {
        let directory = directory.as_ref();
        let [ca, cert, key] = NAMES.map(|name| directory.join(name));
        let client = match (cert.exists(), key.exists()) {
            (true, true) => Some((cert, key)),
            (false, false) => None,
            _ => return Err(incomplete(directory, "cert.pem and key.pem, or neither")),
        };
        if !ca.exists() {
            return Err(incomplete(directory, "ca.pem of the engine's authority"));
        }
        Ok(Self {
            ca: Some(ca),
            client,
        })
    }

    /// The settings of connections.
    pub(super) fn client_config(&self) -> Result<rustls::ClientConfig> {
        // Named here, so that nothing global of the program is read or set.
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = rustls::ClientConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()
            .map_err(internal)?;
        let builder = if let Some(ca) = &self.ca {
            let mut roots = rustls::RootCertStore::empty();
            for certificate in certificates(ca)? {
                roots.add(certificate).map_err(|e| unfit(ca, e))?;
            }
            builder.with_root_certificates(roots)
        } else {
            let system = rustls_platform_verifier::Verifier::new(provider).map_err(internal)?;
            builder
                .dangerous()
                .with_custom_certificate_verifier(Arc::new(system))
        };
        let Some((cert, key)) = &self.client else {
            return Ok(builder.with_no_client_auth());
        };
        let chain = certificates(cert)?;
        let secret = PrivateKeyDer::from_pem_file(key).map_err(|e| unfit(key, e))?;
        builder
            .with_client_auth_cert(chain, secret)
            .map_err(|e| unfit(key, e))
    }
}

fn certificates(file: &Path) -> Result<Vec<CertificateDer<'static>>> {
    let read = |file| CertificateDer::pem_file_iter(file)?.collect::<Result<Vec<_>, pem::Error>>();
    let all = read(file).map_err(|e| unfit(file, e))?;
    if all.is_empty() {
        return Err(unfit(file, pem::Error::NoItemsFound));
    }
    Ok(all)
}

fn unfit(file: &Path, error: impl std::error::Error + Send + Sync + 'static) -> Error {
    Error::invalid(
        "docker.certs",
        file.display(),
        "a readable file in PEM, and a key that belongs to its certificate",
        "correct the path or the file",
    )
    .source(error)
}

fn incomplete(directory: &Path, expected: &str) -> Error {
    Error::invalid(
        "docker.certs",
        directory.display(),
        &format!("a directory with {expected}"),
        "correct the path, as in DOCKER_CERT_PATH",
    )
}

fn internal(error: rustls::Error) -> Error {
    Error::new(ErrorKind::Internal, "cannot set up TLS").source(error)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_is_taken_as_docker_takes_it() {
        let home = tempfile::tempdir().unwrap();
        let make = |name: &str| std::fs::write(home.path().join(name), "").unwrap();
        let refused = |expected: &str| {
            let error = DockerTls::directory(home.path()).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidArgument);
            assert!(error.to_string().contains(expected), "{error}");
        };
        refused("ca.pem");
        make("cert.pem");
        refused("cert.pem and key.pem");
        make("key.pem");
        refused("ca.pem");
        make("ca.pem");
        let tls = DockerTls::directory(home.path()).unwrap();
        assert_eq!(tls.ca, Some(home.path().join("ca.pem")));
        assert!(tls.client.is_some());
    }

    #[test]
    fn files_that_are_none_of_certificates_are_refused_by_name() {
        let home = tempfile::tempdir().unwrap();
        let ca = home.path().join("ca.pem");
        let tls = DockerTls {
            ca: Some(ca.clone()),
            client: None,
        };
        for content in [
            None,
            Some(""),
            Some("words"),
            Some("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"),
        ] {
            if let Some(content) = content {
                std::fs::write(&ca, content).unwrap();
            }
            let error = tls.client_config().unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidArgument, "{content:?}");
            let named = ca.display().to_string();
            assert_eq!(error.fact("value"), Some(named.as_str()));
        }
        DockerTls::default().client_config().unwrap();
    }
}
