//! Archives and images, made byte by byte.

use std::io::Write as _;
use std::path::Path;

use serde_json::json;

use crate::image::digest::Digest;

/// One member. What a builder would never write can be set here.
#[derive(Clone)]
pub(super) struct Member {
    pub(super) name: Vec<u8>,
    pub(super) kind: u8,
    pub(super) mode: u32,
    pub(super) uid: u32,
    pub(super) gid: u32,
    pub(super) mtime: u64,
    pub(super) link: Vec<u8>,
    pub(super) device: (u32, u32),
    pub(super) content: Vec<u8>,
    pub(super) pax: Vec<(String, Vec<u8>)>,
    /// What the size field says, where that is a lie.
    pub(super) size: Option<u64>,
    /// Changes the header after all else, before the checksum.
    pub(super) patch: Vec<(usize, Vec<u8>)>,
    /// A wrong checksum.
    pub(super) unsealed: bool,
}

pub(super) fn member(kind: u8, name: impl AsRef<[u8]>) -> Member {
    Member {
        name: name.as_ref().to_vec(),
        kind,
        mode: if kind == b'5' { 0o755 } else { 0o644 },
        uid: 0,
        gid: 0,
        mtime: 1_700_000_000,
        link: Vec::new(),
        device: (0, 0),
        content: Vec::new(),
        pax: Vec::new(),
        size: None,
        patch: Vec::new(),
        unsealed: false,
    }
}

pub(super) fn file(name: impl AsRef<[u8]>, content: impl AsRef<[u8]>) -> Member {
    Member {
        content: content.as_ref().to_vec(),
        ..member(b'0', name)
    }
}

pub(super) fn dir(name: impl AsRef<[u8]>) -> Member {
    member(b'5', name)
}

pub(super) fn symlink(name: impl AsRef<[u8]>, to: impl AsRef<[u8]>) -> Member {
    Member {
        link: to.as_ref().to_vec(),
        ..member(b'2', name)
    }
}

pub(super) fn hard(name: impl AsRef<[u8]>, to: impl AsRef<[u8]>) -> Member {
    Member {
        link: to.as_ref().to_vec(),
        ..member(b'1', name)
    }
}

impl Member {
    pub(super) fn mode(mut self, mode: u32) -> Self {
        self.mode = mode;
        self
    }

    pub(super) fn owner(mut self, uid: u32, gid: u32) -> Self {
        (self.uid, self.gid) = (uid, gid);
        self
    }

    pub(super) fn pax(mut self, key: &str, value: impl AsRef<[u8]>) -> Self {
        self.pax.push((key.into(), value.as_ref().to_vec()));
        self
    }

    pub(super) fn size(mut self, size: u64) -> Self {
        self.size = Some(size);
        self
    }

    pub(super) fn patch(mut self, at: usize, bytes: &[u8]) -> Self {
        self.patch.push((at, bytes.to_vec()));
        self
    }

    pub(super) fn bytes(&self) -> Vec<u8> {
        let mut out = Vec::new();
        if !self.pax.is_empty() {
            let mut records = Vec::new();
            for (key, value) in &self.pax {
                let rest = key.len() + value.len() + 3;
                let mut length = rest + 1;
                while rest + length.to_string().len() != length {
                    length = rest + length.to_string().len();
                }
                records.extend_from_slice(format!("{length} {key}=").as_bytes());
                records.extend_from_slice(value);
                records.push(b'\n');
            }
            out.extend(file("PaxHeaders/x", records).kind(b'x').bytes());
        }
        let mut header = [0_u8; 512];
        let mut put = |at: usize, bytes: &[u8]| header[at..at + bytes.len()].copy_from_slice(bytes);
        put(0, &self.name[..self.name.len().min(100)]);
        put(100, format!("{:07o}", self.mode).as_bytes());
        put(108, format!("{:07o}", self.uid & 0o777_7777).as_bytes());
        put(116, format!("{:07o}", self.gid & 0o777_7777).as_bytes());
        let size = self.size.unwrap_or(self.content.len() as u64);
        put(124, format!("{size:011o}").as_bytes());
        put(136, format!("{:011o}", self.mtime).as_bytes());
        put(156, &[self.kind]);
        put(157, &self.link[..self.link.len().min(100)]);
        put(257, b"ustar\x0000");
        put(329, format!("{:07o}", self.device.0).as_bytes());
        put(337, format!("{:07o}", self.device.1).as_bytes());
        for (at, bytes) in &self.patch {
            put(*at, bytes);
        }
        put(148, b"        ");
        let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
        if !self.unsealed {
            header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        }
        out.extend_from_slice(&header);
        out.extend_from_slice(&self.content);
        out.resize(out.len().next_multiple_of(512), 0);
        out
    }

    pub(super) fn kind(mut self, kind: u8) -> Self {
        self.kind = kind;
        self
    }
}

/// An archive of members, with its end mark.
pub(super) fn tar(members: &[Member]) -> Vec<u8> {
    let mut out: Vec<u8> = members.iter().flat_map(Member::bytes).collect();
    out.resize(out.len() + 1024, 0);
    out
}

pub(super) fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

pub(super) fn zstd(bytes: &[u8]) -> Vec<u8> {
    zstd::stream::encode_all(bytes, 1).unwrap()
}

/// An OCI layout in memory: documents by digest, and an index.
pub(super) struct Layout {
    pub(super) blobs: Vec<Vec<u8>>,
    pub(super) manifests: Vec<serde_json::Value>,
}

impl Layout {
    pub(super) fn new() -> Self {
        Self {
            blobs: Vec::new(),
            manifests: Vec::new(),
        }
    }

    /// An image of these layers: the blob and the archive that it is.
    pub(super) fn of(layers: &[(Vec<u8>, Vec<u8>)]) -> Self {
        let mut layout = Self::new();
        let arch = crate::image::Platform::host().architecture;
        layout.add("latest", &arch, &json!({"Cmd": ["/bin/true"]}), layers);
        layout
    }

    /// The same of archives, compressed with gzip.
    pub(super) fn of_tars(layers: &[Vec<u8>]) -> Self {
        let layers: Vec<_> = layers.iter().map(|tar| (gzip(tar), tar.clone())).collect();
        Self::of(&layers)
    }

    pub(super) fn add(
        &mut self,
        tag: &str,
        architecture: &str,
        config: &serde_json::Value,
        layers: &[(Vec<u8>, Vec<u8>)],
    ) {
        let diff_ids: Vec<Digest> = layers.iter().map(|(_, tar)| Digest::of(tar)).collect();
        let config = json!({
            "architecture": architecture, "os": "linux", "config": config,
            "rootfs": {"type": "layers", "diff_ids": diff_ids},
        });
        let config = config.to_string().into_bytes();
        let described: Vec<_> = layers
            .iter()
            .map(|(blob, _)| {
                json!({"mediaType": "application/vnd.oci.image.layer.v1.tar+gzip",
                    "digest": Digest::of(blob), "size": blob.len()})
            })
            .collect();
        let manifest = json!({
            "schemaVersion": 2, "mediaType": crate::image::media::MANIFEST,
            "config": {"mediaType": crate::image::media::CONFIG,
                "digest": Digest::of(&config), "size": config.len()},
            "layers": described,
        });
        let manifest = manifest.to_string().into_bytes();
        self.manifests.push(json!({
            "mediaType": crate::image::media::MANIFEST, "digest": Digest::of(&manifest),
            "size": manifest.len(), "annotations": {"org.opencontainers.image.ref.name": tag},
            "platform": {"os": "linux", "architecture": architecture},
        }));
        self.blobs
            .extend(layers.iter().map(|(blob, _)| blob.clone()));
        self.blobs.extend([config, manifest]);
    }

    pub(super) fn index(&self) -> Vec<u8> {
        json!({"schemaVersion": 2, "manifests": self.manifests})
            .to_string()
            .into_bytes()
    }

    pub(super) fn write(&self, to: &Path) {
        std::fs::create_dir_all(to.join("blobs/sha256")).unwrap();
        std::fs::write(to.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#).unwrap();
        std::fs::write(to.join("index.json"), self.index()).unwrap();
        for blob in &self.blobs {
            let path = to.join("blobs/sha256").join(Digest::of(blob).hex());
            std::fs::write(path, blob).unwrap();
        }
    }

    pub(super) fn archive(&self) -> Vec<u8> {
        let mut members = vec![
            file("oci-layout", r#"{"imageLayoutVersion":"1.0.0"}"#),
            file("index.json", self.index()),
        ];
        for blob in &self.blobs {
            members.push(file(
                format!("blobs/sha256/{}", Digest::of(blob).hex()),
                blob,
            ));
        }
        tar(&members)
    }
}
