//! Where a root file system comes from, as users write it.

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use super::digest::Digest;
use crate::error::{Error, Result};

/// What the text of a spec's image names.
///
/// | text | source |
/// |---|---|
/// | `host` | the host's own system directories, read-only |
/// | `/DIR` | a root directory |
/// | `oci:DIR[:TAG]` | an OCI layout directory |
/// | `oci-archive:FILE[:TAG]` | a tar of one |
/// | `docker-archive:FILE[:TAG]` | what `docker save` writes |
/// | `rootfs-archive:FILE` | a tar of a root directory, compressed or not |
/// | anything else | a [`Reference`] |
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ImageSource {
    /// The host's own system directories.
    Host,
    /// A root directory, used as it is.
    Directory(PathBuf),
    /// An OCI layout directory, and the tag in it.
    Layout(PathBuf, Option<String>),
    /// A tar of an OCI layout, and the tag in it.
    OciArchive(PathBuf, Option<String>),
    /// What `docker save` writes, and the name in it.
    DockerArchive(PathBuf, Option<String>),
    /// A tar of a root directory.
    RootfsArchive(PathBuf),
    /// A name in the store or in a registry.
    Registry(Reference),
}

/// What makes a source of a path and a tag.
type Form = fn(PathBuf, Option<String>) -> ImageSource;

impl FromStr for ImageSource {
    type Err = Error;

    /// # Errors
    ///
    /// `invalid_argument` for text that is none of the forms.
    fn from_str(text: &str) -> Result<Self> {
        if text == "host" {
            return Ok(Self::Host);
        }
        if text.starts_with('/') {
            return Ok(Self::Directory(clean(text)?));
        }
        let forms: [(&str, Form); 3] = [
            ("oci:", Self::Layout),
            ("oci-archive:", Self::OciArchive),
            ("docker-archive:", Self::DockerArchive),
        ];
        for (prefix, make) in forms {
            if let Some(rest) = text.strip_prefix(prefix) {
                let (path, tag) = match rest.split_once(':') {
                    Some((path, tag)) if !tag.is_empty() => (path, Some(tag.to_owned())),
                    Some(_) => return Err(bad(text)),
                    None => (rest, None),
                };
                return Ok(make(clean(path)?, tag));
            }
        }
        if let Some(rest) = text.strip_prefix("rootfs-archive:") {
            return Ok(Self::RootfsArchive(clean(rest)?));
        }
        Ok(Self::Registry(text.parse()?))
    }
}

impl fmt::Display for ImageSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (form, path, tag) = match self {
            Self::Host => return f.write_str("host"),
            Self::Directory(path) => return write!(f, "{}", path.display()),
            Self::Registry(reference) => return fmt::Display::fmt(reference, f),
            Self::RootfsArchive(path) => return write!(f, "rootfs-archive:{}", path.display()),
            Self::Layout(path, tag) => ("oci", path, tag),
            Self::OciArchive(path, tag) => ("oci-archive", path, tag),
            Self::DockerArchive(path, tag) => ("docker-archive", path, tag),
        };
        write!(f, "{form}:{}", path.display())?;
        match tag {
            Some(tag) => write!(f, ":{tag}"),
            None => Ok(()),
        }
    }
}

fn clean(path: &str) -> Result<PathBuf> {
    if path.is_empty() || path.contains('\0') {
        return Err(bad(path));
    }
    Ok(Path::new(path).to_owned())
}

fn bad(text: &str) -> Error {
    Error::invalid(
        "image",
        text,
        "host, /DIR, oci:DIR[:TAG], oci-archive:FILE[:TAG], docker-archive:FILE[:TAG], rootfs-archive:FILE or [REGISTRY/]NAME[:TAG][@DIGEST]",
        "correct the name of the image",
    )
}

/// The registry that a name without one means.
const DEFAULT_REGISTRY: &str = "docker.io";

/// A name of an image, completed as Docker does: `python` is
/// `docker.io/library/python:latest`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Reference {
    registry: String,
    repository: String,
    tag: Option<String>,
    digest: Option<Digest>,
}

impl Reference {
    /// Host and port of the registry.
    pub fn registry(&self) -> &str {
        &self.registry
    }

    /// The name within the registry.
    pub fn repository(&self) -> &str {
        &self.repository
    }

    /// The tag; `None` only beside a digest.
    pub fn tag(&self) -> Option<&str> {
        self.tag.as_deref()
    }

    /// The digest of the manifest or index; it wins over the tag.
    pub fn digest(&self) -> Option<Digest> {
        self.digest
    }
}

impl FromStr for Reference {
    type Err = Error;

    /// # Errors
    ///
    /// `invalid_argument` for text that is no reference; `unsupported` for a
    /// digest that is not SHA-256.
    fn from_str(text: &str) -> Result<Self> {
        let (rest, digest) = match text.split_once('@') {
            Some((rest, digest)) => (rest, Some(digest.parse::<Digest>()?)),
            None => (text, None),
        };
        // A colon after the last slash is a tag's, one before it is a port's.
        let after_slash = rest.rfind('/').map_or(0, |at| at + 1);
        let (name, tag) = match rest[after_slash..].find(':') {
            Some(at) => {
                let at = after_slash + at;
                (&rest[..at], Some(&rest[at + 1..]))
            }
            None => (rest, None),
        };
        let (registry, repository) = match name.split_once('/') {
            Some((first, rest)) if first.contains(['.', ':']) || first == "localhost" => {
                (first, rest.to_owned())
            }
            Some(_) => (DEFAULT_REGISTRY, name.to_owned()),
            None => (DEFAULT_REGISTRY, format!("library/{name}")),
        };
        let (registry, repository) = match registry {
            "index.docker.io" | "registry-1.docker.io" | DEFAULT_REGISTRY => {
                let whole = if repository.contains('/') {
                    repository
                } else {
                    format!("library/{repository}")
                };
                (DEFAULT_REGISTRY, whole)
            }
            other => (other, repository),
        };
        let tag = match (tag, digest) {
            (None, None) => Some("latest"),
            (tag, _) => tag,
        };
        if !is_registry(registry)
            || repository.len() > 255
            || !repository.split('/').all(is_component)
            || !tag.is_none_or(is_tag)
        {
            return Err(bad(text));
        }
        Ok(Self {
            registry: registry.to_owned(),
            repository,
            tag: tag.map(str::to_owned),
            digest,
        })
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.registry, self.repository)?;
        if let Some(tag) = &self.tag {
            write!(f, ":{tag}")?;
        }
        match &self.digest {
            Some(digest) => write!(f, "@{digest}"),
            None => Ok(()),
        }
    }
}

fn is_registry(text: &str) -> bool {
    let (host, port) = match text.strip_prefix('[') {
        Some(rest) => match rest.split_once(']') {
            Some((host, port)) if host.bytes().all(|b| b.is_ascii_hexdigit() || b == b':') => (
                if host.is_empty() { "" } else { "v6" },
                port.strip_prefix(':'),
            ),
            _ => return false,
        },
        None => match text.split_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (text, None),
        },
    };
    let label = |l: &str| {
        !l.is_empty()
            && l.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
            && !l.starts_with('-')
            && !l.ends_with('-')
    };
    text.len() <= 255
        && host.split('.').all(label)
        && port.is_none_or(|p| p.parse::<u16>().is_ok() && p.bytes().all(|b| b.is_ascii_digit()))
}

/// Lower-case letters and digits, with `.`, `_`, `__` or dashes between them.
fn is_component(text: &str) -> bool {
    let bytes = text.as_bytes();
    let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let (Some(first), Some(last)) = (bytes.first(), bytes.last()) else {
        return false;
    };
    plain(*first)
        && plain(*last)
        && bytes.iter().all(|b| plain(*b) || b"._-".contains(b))
        && bytes.split(|b| plain(*b)).all(|between| {
            matches!(between, b"" | b"." | b"_" | b"__") || between.iter().all(|b| *b == b'-')
        })
}

fn is_tag(text: &str) -> bool {
    let bytes = text.as_bytes();
    let plain = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
    bytes.len() <= 128
        && bytes.first().is_some_and(|b| plain(*b))
        && bytes.iter().all(|b| plain(*b) || b".-".contains(b))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn references_are_completed_as_docker_does() {
        let digest = format!("sha256:{}", "a".repeat(64));
        for (text, whole) in [
            ("python", "docker.io/library/python:latest"),
            ("python:3.12", "docker.io/library/python:3.12"),
            ("index.docker.io/python", "docker.io/library/python:latest"),
            ("me/app", "docker.io/me/app:latest"),
            ("localhost/app", "localhost/app:latest"),
            ("localhost:5000/app", "localhost:5000/app:latest"),
            ("[::1]:5000/app:t", "[::1]:5000/app:t"),
            ("ghcr.io/a/b/c:v1", "ghcr.io/a/b/c:v1"),
            ("quay.io/a/b__c-d.e", "quay.io/a/b__c-d.e:latest"),
        ] {
            assert_eq!(text.parse::<Reference>().unwrap().to_string(), whole);
            assert_eq!(whole.parse::<Reference>().unwrap().to_string(), whole);
        }
        let pinned: Reference = format!("a@{digest}").parse().unwrap();
        assert_eq!(pinned.to_string(), format!("docker.io/library/a@{digest}"));
        assert_eq!(pinned.tag(), None);
    }

    #[test]
    fn what_is_no_reference_is_refused() {
        for text in [
            "",
            ":",
            "a:",
            "A",
            "a//b",
            "/",
            "a/../b",
            "..",
            "a b",
            "a\0",
            "a:b:c",
            "-a",
            "a-",
            "a:.x",
            "x.io:port/a",
            "x.io:70000/a",
            "x..io/a",
            "a._b",
            "a@sha256:1",
            "https://x.io/a",
            "[::1/a",
            "a\u{202e}",
        ] {
            assert!(text.parse::<Reference>().is_err(), "{text:?}");
        }
    }

    #[test]
    fn sources_are_told_by_their_form() {
        let read = |text: &str| text.parse::<ImageSource>().unwrap();
        assert_eq!(read("host"), ImageSource::Host);
        assert_eq!(
            read("/srv/root"),
            ImageSource::Directory("/srv/root".into())
        );
        assert_eq!(read("oci:dir"), ImageSource::Layout("dir".into(), None));
        assert_eq!(
            read("oci-archive:/a.tar:v1"),
            ImageSource::OciArchive("/a.tar".into(), Some("v1".into()))
        );
        assert_eq!(
            read("docker-archive:a.tar:busybox:1"),
            ImageSource::DockerArchive("a.tar".into(), Some("busybox:1".into()))
        );
        assert_eq!(
            read("rootfs-archive:a:b.tar"),
            ImageSource::RootfsArchive("a:b.tar".into())
        );
        assert!(matches!(read("busybox"), ImageSource::Registry(_)));
        for text in [
            "oci:",
            "oci:a:",
            "docker-archive:",
            "rootfs-archive:",
            "./x",
        ] {
            assert!(text.parse::<ImageSource>().is_err(), "{text}");
        }
        for text in ["host", "/srv", "oci:d:t", "rootfs-archive:x"] {
            assert_eq!(read(text).to_string(), text);
        }
    }
}
