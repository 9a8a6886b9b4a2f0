//! Credentials of registries, as Docker and Podman keep them.

mod secret;

use std::collections::HashMap;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use base64::Engine as _;
use serde::Deserialize;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::process::Command;

#[cfg_attr(
    not(all(feature = "registry", target_os = "linux")),
    allow(unreachable_pub, reason = "public by way of `image`")
)]
pub use secret::{Credentials, Secret};

use crate::error::{Error, ErrorKind, Result};

/// The longest file and the longest answer of a helper.
const MOST: u64 = 1 << 20;
/// How long a helper may take; some ask a person.
const PATIENCE: Duration = Duration::from_mins(1);

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct File {
    auths: HashMap<String, Entry>,
    cred_helpers: HashMap<String, String>,
    creds_store: Option<String>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Entry {
    auth: Option<String>,
    username: Option<String>,
    password: Option<String>,
    identitytoken: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Answer {
    username: String,
    secret: String,
}

/// The file in force: `$REGISTRY_AUTH_FILE`, `$DOCKER_CONFIG/config.json` or
/// `~/.docker/config.json`. `None` where none of them is set.
pub(crate) fn default_file() -> Option<PathBuf> {
    let set = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty());
    set("REGISTRY_AUTH_FILE").map(PathBuf::from).or_else(|| {
        set("DOCKER_CONFIG")
            .map(PathBuf::from)
            .or_else(|| set("HOME").map(|home| Path::new(&home).join(".docker")))
            .map(|directory| directory.join("config.json"))
    })
}

/// The credentials of a file for a repository of a registry, by their full names;
/// anonymous where it has none.
///
/// # Errors
///
/// `invalid_argument` for a file that cannot be understood, which is not shown;
/// `permission_denied`; `unavailable` for a helper that fails.
pub(crate) async fn find(file: &Path, registry: &str, repository: &str) -> Result<Credentials> {
    let bytes = match std::fs::File::open(file) {
        Ok(opened) => read(opened).map_err(|e| unreadable(file, e))?,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            return Ok(Credentials::Anonymous);
        }
        Err(error) => return Err(unreadable(file, error)),
    };
    // What serde says of a wrong value may hold the value.
    let parsed: File = serde_json::from_slice(&bytes).map_err(|_| malformed(file))?;
    let keys = keys(registry, repository);
    let helper = keys.iter().find_map(|key| parsed.cred_helpers.get(key));
    if let Some(name) = helper.or(parsed.creds_store.as_ref())
        && let Some(found) = ask(name, server(registry)).await?
    {
        return Ok(found);
    }
    match keys.iter().find_map(|key| parsed.auths.get(key)) {
        Some(entry) => entry.read().ok_or_else(|| malformed(file)),
        None => Ok(Credentials::Anonymous),
    }
}

fn read(from: impl std::io::Read) -> std::io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    from.take(MOST + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > MOST {
        return Err(std::io::ErrorKind::FileTooLarge.into());
    }
    Ok(bytes)
}

/// The name under which Docker keeps a registry.
fn server(registry: &str) -> &str {
    match registry {
        "docker.io" => "https://index.docker.io/v1/",
        other => other,
    }
}

/// Names that an entry for a repository may have, the closest first.
fn keys(registry: &str, repository: &str) -> Vec<String> {
    let mut keys = Vec::new();
    let mut path = repository;
    loop {
        keys.push(format!("{registry}/{path}"));
        match path.rfind('/') {
            Some(at) => path = &path[..at],
            None => break,
        }
    }
    keys.push(server(registry).to_owned());
    for form in ["", "https://", "http://"] {
        for end in ["", "/", "/v1/", "/v2/"] {
            keys.push(format!("{form}{registry}{end}"));
        }
    }
    keys
}

impl Entry {
    fn read(&self) -> Option<Credentials> {
        let filled = |text: &Option<String>| text.clone().filter(|text| !text.is_empty());
        if let Some(token) = filled(&self.identitytoken) {
            return Some(Credentials::IdentityToken(Secret::new(token)));
        }
        if let Some(auth) = filled(&self.auth) {
            let engine = base64::engine::general_purpose::STANDARD;
            let text = String::from_utf8(engine.decode(auth.trim()).ok()?).ok()?;
            let (user, password) = text.split_once(':')?;
            return Some(Credentials::Password {
                user: user.to_owned(),
                password: Secret::new(password.trim_end_matches('\0')),
            });
        }
        Some(match (filled(&self.username), &self.password) {
            (Some(user), Some(password)) => Credentials::Password {
                user,
                password: Secret::new(password),
            },
            _ => Credentials::Anonymous,
        })
    }
}

/// Asks a helper of Docker. The server goes through its input, the answer comes
/// from its output; `None` where it has nothing.
async fn ask(name: &str, server: &str) -> Result<Option<Credentials>> {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"._-".contains(&b);
    if name.is_empty() || !name.bytes().all(plain) {
        return Err(Error::invalid(
            "credHelpers",
            name,
            "the end of a program's name, docker-credential-NAME",
            "correct the file of credentials",
        ));
    }
    let program = format!("docker-credential-{name}");
    let failed = |what: &str| {
        Error::new(ErrorKind::Unavailable, format!("{program} {what}")).context(
            "remedy",
            "install or repair the helper, or take it out of the file of credentials",
        )
    };
    let mut child = Command::new(&program)
        .arg("get")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .map_err(|e| failed("cannot be started").source(e))?;
    let work = async {
        if let Some(mut input) = child.stdin.take() {
            // One that does not read it says so by its answer.
            let _ = input.write_all(format!("{server}\n").as_bytes()).await;
        }
        let mut bytes = Vec::new();
        if let Some(output) = child.stdout.take() {
            output.take(MOST + 1).read_to_end(&mut bytes).await?;
        }
        if bytes.len() as u64 > MOST {
            return Err(std::io::ErrorKind::FileTooLarge.into());
        }
        Ok((bytes, child.wait().await?))
    };
    let (bytes, status) = match tokio::time::timeout(PATIENCE, work).await {
        Ok(done) => done.map_err(|e: std::io::Error| failed("cannot be read").source(e))?,
        Err(_) => return Err(failed("did not answer in 60 s")),
    };
    if !status.success() {
        let said = String::from_utf8_lossy(&bytes).to_lowercase();
        if said.contains("credentials not found") {
            return Ok(None);
        }
        return Err(failed("failed"));
    }
    let answer: Answer =
        serde_json::from_slice(&bytes).map_err(|_| failed("gave an answer that is none"))?;
    let secret = Secret::new(answer.secret);
    Ok(Some(match answer.username.as_str() {
        "<token>" => Credentials::IdentityToken(secret),
        _ => Credentials::Password {
            user: answer.username,
            password: secret,
        },
    }))
}

fn unreadable(file: &Path, error: std::io::Error) -> Error {
    let kind = match error.kind() {
        std::io::ErrorKind::PermissionDenied => ErrorKind::PermissionDenied,
        _ => ErrorKind::Unavailable,
    };
    Error::new(kind, "the file of credentials cannot be read")
        .context("file", file.display())
        .context("remedy", "let this user read it, or name another one")
        .source(error)
}

fn malformed(file: &Path) -> Error {
    Error::new(
        ErrorKind::InvalidArgument,
        "the file of credentials is malformed, expected JSON as `docker login` writes it",
    )
    .context("file", file.display())
    .context("remedy", "log in again, or name another file")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(text: &str, name: &str) -> Result<Credentials> {
        let home = tempfile::tempdir().unwrap();
        let file = home.path().join("config.json");
        std::fs::write(&file, text).unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        let (registry, repository) = name.split_once('/').unwrap();
        runtime.block_on(find(&file, registry, repository))
    }

    #[test]
    fn the_closest_entry_is_taken() {
        // u:whole and u:part
        let text = r#"{"auths": {"x.io": {"auth": "dTp3aG9sZQ=="}, "x.io/a": {"auth": "dTpwYXJ0"},
            "https://index.docker.io/v1/": {"identitytoken": "it"}}}"#;
        for (name, expected) in [("x.io/b", "whole"), ("x.io/a/c", "part")] {
            let Credentials::Password { user, password } = found(text, name).unwrap() else {
                panic!("{name}: no password");
            };
            assert_eq!((user.as_str(), password.expose()), ("u", expected));
        }
        assert!(matches!(
            found(text, "docker.io/library/busybox").unwrap(),
            Credentials::IdentityToken(_)
        ));
        assert!(matches!(
            found(text, "y.io/a").unwrap(),
            Credentials::Anonymous
        ));
    }

    #[test]
    fn what_is_malformed_is_not_shown() {
        for text in [
            r#"{"auths": {"x.io": {"auth": 4711}}}"#,
            r#"{"auths": {"x.io": {"auth": "c2VjcmV0LW9mLTQ3MTE"}}}"#,
        ] {
            let error = found(text, "x.io/a").unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidArgument);
            let shown = format!("{error:?}");
            assert!(
                !shown.contains("4711") && !shown.contains("c2Vj"),
                "{shown}"
            );
        }
        let shown = format!("{:?}", Secret::new("hush"));
        assert!(!shown.contains("hush"));
    }

    #[test]
    fn a_helper_is_only_a_name() {
        for name in ["../x", "a/b", "", "a b"] {
            let text = format!(r#"{{"credsStore": "{name}"}}"#);
            let error = found(&text, "x.io/a").unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidArgument, "{name}");
        }
    }
}
