//! Images that tests make.

use std::path::Path;

use serde_json::json;
use stacyvm::image::Digest;

const BUSYBOX: &str = "/bin/busybox";

/// One member of an archive: its kind, name, mode, owner, content or link.
pub type Member<'a> = (u8, &'a str, u32, (u32, u32), &'a [u8]);

pub fn tar(members: &[Member<'_>]) -> Vec<u8> {
    let mut out = Vec::new();
    for (kind, name, mode, (uid, gid), content) in members {
        let (link, content): (&[u8], &[u8]) = match kind {
            b'1' | b'2' => (content, b""),
            _ => (b"", content),
        };
        let mut header = [0_u8; 512];
        let mut put = |at: usize, bytes: &[u8]| header[at..at + bytes.len()].copy_from_slice(bytes);
        put(0, name.as_bytes());
        put(100, format!("{mode:07o}").as_bytes());
        put(108, format!("{uid:07o}").as_bytes());
        put(116, format!("{gid:07o}").as_bytes());
        put(124, format!("{:011o}", content.len()).as_bytes());
        put(136, b"00000000000");
        put(148, b"        ");
        put(156, &[*kind]);
        put(157, link);
        put(257, b"ustar\x0000");
        let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
        header[148..155].copy_from_slice(format!("{sum:06o}\0").as_bytes());
        out.extend_from_slice(&header);
        out.extend_from_slice(content);
        out.resize(out.len().next_multiple_of(512), 0);
    }
    out.resize(out.len() + 1024, 0);
    out
}

/// Writes an OCI layout of these layers, with a tag.
pub fn layout(at: &Path, layers: &[Vec<u8>], config: &serde_json::Value) {
    let blobs = at.join("blobs/sha256");
    std::fs::create_dir_all(&blobs).unwrap();
    let keep = |kind: &str, bytes: &[u8]| {
        let digest = Digest::of(bytes);
        std::fs::write(blobs.join(digest.hex()), bytes).unwrap();
        json!({
            "mediaType": format!("application/vnd.oci.image.{kind}"),
            "digest": digest.to_string(),
            "size": bytes.len(),
        })
    };
    let diff_ids: Vec<String> = layers.iter().map(|l| Digest::of(l).to_string()).collect();
    let file = json!({
        "os": "linux",
        "architecture": if cfg!(target_arch = "x86_64") { "amd64" } else { "arm64" },
        "config": config,
        "rootfs": { "type": "layers", "diff_ids": diff_ids },
    });
    let manifest = json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": keep("config.v1+json", file.to_string().as_bytes()),
        "layers": layers.iter().map(|l| keep("layer.v1.tar", l)).collect::<Vec<_>>(),
    });
    let mut root = keep("manifest.v1+json", manifest.to_string().as_bytes());
    root["annotations"] = json!({
        "org.opencontainers.image.ref.name": "app",
        // A name that it must not take over.
        "io.containerd.image.name": "docker.io/library/python:latest",
    });
    let index = json!({ "schemaVersion": 2, "manifests": [root] });
    std::fs::write(at.join("index.json"), index.to_string()).unwrap();
    std::fs::write(at.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#).unwrap();
}

pub const ROOT: (u32, u32) = (0, 0);
pub const APP: (u32, u32) = (7, 8);
pub const PASSWD: &[u8] =
    b"root:x:0:0::/:/bin/sh\napp:x:7:8::/data:/bin/sh\nuser:x:1000:1000::/:/bin/sh\n";

/// Two layers; the second takes away and covers what the first has.
pub fn two_layers() -> Option<Vec<Vec<u8>>> {
    let Ok(busybox) = std::fs::read(BUSYBOX) else {
        eprintln!("not run: this host has no {BUSYBOX} that is static");
        return None;
    };
    let mut lower: Vec<Member<'_>> = vec![
        (b'5', "bin", 0o755, ROOT, b""),
        (b'0', "bin/busybox", 0o755, ROOT, &busybox),
        (b'5', "etc", 0o755, ROOT, b""),
        (b'0', "etc/passwd", 0o644, ROOT, PASSWD),
        (b'5', "data", 0o2751, APP, b""),
        (b'0', "data/own", 0o640, APP, b"of the image"),
        (b'0', "set-id", 0o4755, ROOT, b"#!/bin/sh"),
        (b'5', "old", 0o755, ROOT, b""),
        (b'0', "old/hidden", 0o644, ROOT, b"x"),
        (b'0', "gone", 0o644, ROOT, b"x"),
        (b'5', "open", 0o1777, ROOT, b""),
    ];
    for name in [
        "bin/sh", "bin/cat", "bin/stat", "bin/id", "bin/ls", "bin/rm",
    ] {
        lower.push((b'1', name, 0o755, ROOT, b"bin/busybox"));
    }
    let upper: Vec<Member<'_>> = vec![
        (b'0', ".wh.gone", 0o644, ROOT, b""),
        (b'0', "old/.wh..wh..opq", 0o644, ROOT, b""),
        (b'0', "old/shown", 0o644, ROOT, b"y"),
        // Without a member of its own the directory keeps what the lower says.
        (b'0', "data/new", 0o600, APP, b"second"),
    ];
    Some(vec![tar(&lower), tar(&upper)])
}
