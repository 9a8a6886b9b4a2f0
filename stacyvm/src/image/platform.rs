//! What an image was built for.

use std::fmt;

/// An operating system, an architecture and its variant, as images name them.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Platform {
    /// The operating system, as `linux`.
    pub os: String,
    /// The architecture by the names of Go, as `amd64`.
    pub architecture: String,
    /// The variant, as `v7`; images of one variant mostly leave it out.
    pub variant: Option<String>,
}

impl Platform {
    /// The platform that this host runs.
    pub fn host() -> Self {
        let (architecture, variant) = match std::env::consts::ARCH {
            "x86_64" => ("amd64", None),
            "aarch64" => ("arm64", Some("v8")),
            "arm" => ("arm", Some("v7")),
            "x86" => ("386", None),
            "powerpc64" if cfg!(target_endian = "little") => ("ppc64le", None),
            "powerpc64" => ("ppc64", None),
            "loongarch64" => ("loong64", None),
            other => (other, None),
        };
        Self {
            os: "linux".into(),
            architecture: architecture.into(),
            variant: variant.map(Into::into),
        }
    }

    /// A platform of its parts; an empty variant is none.
    pub fn new(os: &str, architecture: &str, variant: Option<&str>) -> Self {
        Self {
            os: os.into(),
            architecture: architecture.into(),
            variant: variant.filter(|v| !v.is_empty()).map(Into::into),
        }
    }

    /// How well an image of `offered` runs here: the greater the better, `None`
    /// where it does not.
    ///
    /// arm64 without a variant is v8. A 32-bit ARM runs what was built for an
    /// older variant, the newest first; amd64 runs no higher level than the
    /// plain one, because the host's level is not asked.
    pub fn fit(&self, offered: &Self) -> Option<u32> {
        if self.os != offered.os || self.architecture != offered.architecture {
            return None;
        }
        let plain = |platform: &Self| match platform.architecture.as_str() {
            "arm64" => number(platform.variant.as_deref()).unwrap_or(8),
            "arm" => number(platform.variant.as_deref()).unwrap_or(7),
            _ => number(platform.variant.as_deref()).unwrap_or(1),
        };
        if number(offered.variant.as_deref()).is_none() && offered.variant.is_some() {
            return (self.variant == offered.variant).then_some(0);
        }
        let (host, image) = (plain(self), plain(offered));
        (image <= host).then_some(image)
    }
}

fn number(variant: Option<&str>) -> Option<u32> {
    variant?.strip_prefix('v')?.parse().ok()
}

impl fmt::Display for Platform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.os, self.architecture)?;
        match &self.variant {
            Some(variant) => write!(f, "/{variant}"),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variants_fit_as_processors_do() {
        let of = |architecture, variant| Platform::new("linux", architecture, variant);
        let arm = of("arm", Some("v7"));
        assert_eq!(arm.fit(&of("arm", Some("v6"))), Some(6));
        assert_eq!(arm.fit(&of("arm", None)), Some(7));
        assert_eq!(arm.fit(&of("arm", Some("v8"))), None);
        assert_eq!(of("arm64", Some("v8")).fit(&of("arm64", None)), Some(8));
        assert_eq!(of("arm64", None).fit(&of("arm64", Some("v8"))), Some(8));
        assert_eq!(of("amd64", None).fit(&of("amd64", Some("v2"))), None);
        assert_eq!(of("amd64", None).fit(&of("arm64", None)), None);
        let windows = Platform::new("windows", "amd64", None);
        assert_eq!(of("amd64", None).fit(&windows), None);
    }
}
