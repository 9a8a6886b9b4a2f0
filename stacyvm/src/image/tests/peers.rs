//! Images that other programs made.

use std::process::Command;

use super::*;

/// A busybox, or a word about that there is none.
fn busybox() -> Option<PathBuf> {
    let path = PathBuf::from("/bin/busybox");
    if !path.exists() {
        eprintln!("not run: no /bin/busybox");
        return None;
    }
    Some(path)
}

fn have(programs: &[&str]) -> bool {
    for program in programs {
        if Command::new(program).arg("--version").output().is_err() {
            eprintln!("not run: no {program}");
            return false;
        }
    }
    true
}

fn run(command: &mut Command) {
    let done = command.output().unwrap();
    assert!(
        done.status.success(),
        "{command:?}: {}",
        String::from_utf8_lossy(&done.stderr)
    );
}

/// A layout by umoci, of two layers with a whiteout.
fn by_umoci(ground: &Ground) -> Option<PathBuf> {
    let busybox = busybox()?;
    if !have(&["umoci"]) || !rustix::process::geteuid().is_root() {
        eprintln!("not run: umoci needs root here");
        return None;
    }
    let layout = ground.path("layout");
    let bundle = ground.path("out");
    let image = format!("{}:v1", layout.display());
    run(Command::new("umoci")
        .arg("init")
        .arg("--layout")
        .arg(&layout));
    run(Command::new("umoci").args(["new", "--image", &image]));
    run(Command::new("umoci")
        .args(["unpack", "--image", &image])
        .arg(&bundle));
    let root = bundle.join("rootfs");
    for dir in ["bin", "etc", "tmp", "gone"] {
        std::fs::create_dir(root.join(dir)).unwrap();
    }
    std::fs::copy(&busybox, root.join("bin/busybox")).unwrap();
    std::os::unix::fs::symlink("busybox", root.join("bin/sh")).unwrap();
    std::fs::hard_link(root.join("bin/busybox"), root.join("bin/ls")).unwrap();
    std::fs::write(root.join("gone/file"), "x").unwrap();
    run(Command::new("chmod").arg("1777").arg(root.join("tmp")));
    std::os::unix::fs::chown(root.join("etc"), Some(12), Some(34)).unwrap();
    run(Command::new("umoci")
        .args(["repack", "--image", &image, "--refresh-bundle"])
        .arg(&bundle));
    std::fs::remove_dir_all(root.join("gone")).unwrap();
    std::fs::write(root.join("etc/new"), "new").unwrap();
    run(Command::new("umoci")
        .args(["repack", "--image", &image])
        .arg(&bundle));
    run(Command::new("umoci").args([
        "config",
        "--image",
        &image,
        "--config.env",
        "A=b",
        "--config.user",
        "12:34",
        "--config.workingdir",
        "/etc",
    ]));
    Some(layout)
}

#[test]
fn an_image_of_umoci_becomes_what_umoci_makes_of_it() {
    let ground = Ground::new();
    let Some(layout) = by_umoci(&ground) else {
        return;
    };
    let image = ground
        .import(&format!("oci:{}:v1", layout.display()))
        .unwrap();
    assert_eq!(image.layers.len(), 2);
    assert_eq!(image.config.variable("A"), Some("b"));
    assert_eq!(image.config.user.as_deref(), Some("12:34"));
    assert_eq!(image.config.workdir.as_deref(), Some("/etc"));
    let copy = tempfile::tempdir().unwrap();
    ground
        .images
        .materialize(&Context::default(), &image, copy.path())
        .unwrap();
    let theirs = tempfile::tempdir().unwrap();
    let bundle = theirs.path().join("b");
    let name = format!("{}:v1", layout.display());
    run(Command::new("umoci")
        .args(["unpack", "--image", &name])
        .arg(&bundle));
    assert_eq!(tree(copy.path()), tree(&bundle.join("rootfs")));
    assert!(!copy.path().join("gone").exists());
    let owner = std::fs::metadata(copy.path().join("etc")).unwrap();
    assert_eq!((owner.uid(), owner.gid()), (12, 34));
}

#[test]
fn archives_of_skopeo_are_read_and_it_reads_ours() {
    let ground = Ground::new();
    let Some(layout) = by_umoci(&ground) else {
        return;
    };
    if !have(&["skopeo"]) {
        return;
    }
    let archive = ground.path("archive");
    let from = format!("oci:{}:v1", layout.display());
    let reference = ground.import(&from).unwrap();
    for form in ["oci-archive", "docker-archive"] {
        let _ = std::fs::remove_file(&archive);
        let tag = if form == "oci-archive" {
            "v1"
        } else {
            "some/name:v1"
        };
        let to = format!("{form}:{}:{tag}", archive.display());
        run(Command::new("skopeo").args(["--insecure-policy", "copy", "-q", &from, &to]));
        let other = Ground::new();
        let image = other.import(&to).unwrap();
        let ids = |image: &Image| image.layers.iter().map(|l| l.diff_id).collect::<Vec<_>>();
        assert_eq!(ids(&image), ids(&reference), "{form}");
    }
    for (format, form) in [
        (ExportFormat::Oci, "oci-archive"),
        (ExportFormat::Docker, "docker-archive"),
    ] {
        let mut bytes = Vec::new();
        ground
            .images
            .export(&Context::default(), &reference, format, &mut bytes)
            .unwrap();
        std::fs::write(&archive, bytes).unwrap();
        let back = tempfile::tempdir().unwrap();
        let source = format!("{form}:{}", archive.display());
        let to = format!("oci:{}:x", back.path().display());
        run(Command::new("skopeo").args(["--insecure-policy", "copy", "-q", &source, &to]));
        let other = Ground::new();
        let image = other.import(&to).unwrap();
        assert_eq!(image.config.variable("A"), Some("b"), "{form}");
    }
}

/// The tool of every system, with its own formats: long names, holes, links.
#[test]
fn archives_of_the_systems_tar_become_what_it_was_made_from() {
    if !have(&["tar"]) {
        return;
    }
    let ground = Ground::new();
    let tree_dir = tempfile::tempdir().unwrap();
    let root = tree_dir.path();
    let deep = root.join("d".repeat(90)).join("e".repeat(200));
    std::fs::create_dir_all(&deep).unwrap();
    std::fs::write(deep.join("f".repeat(250)), "long").unwrap();
    std::fs::write(root.join("file"), "content").unwrap();
    std::fs::hard_link(root.join("file"), root.join("hard")).unwrap();
    std::os::unix::fs::symlink("x".repeat(300), root.join("link")).unwrap();
    let holes = std::fs::File::create(root.join("holes")).unwrap();
    for at in 0..30 {
        std::os::unix::fs::FileExt::write_at(&holes, b"data", at << 20).unwrap();
    }
    holes.set_len(40 << 20).unwrap();
    for options in [
        &["--format=gnu", "-S"][..],
        &["--format=pax", "-S", "--sparse-version=1.0"],
        &["--format=pax", "-S", "--sparse-version=0.1"],
        &["--format=pax", "-S", "--sparse-version=0.0"],
        &["--format=pax", "-z"],
    ] {
        let archive = ground.path("rootfs.tar");
        run(Command::new("tar")
            .args(options)
            .arg("-cf")
            .arg(&archive)
            .arg("-C")
            .arg(root)
            .arg("."));
        let source = format!("rootfs-archive:{}", archive.display());
        let image = ground.import(&source).unwrap();
        let layer = ground.layer(&image, 0);
        assert_eq!(tree(&layer), tree(root), "{options:?}");
        let found = std::fs::metadata(layer.join("holes")).unwrap();
        assert_eq!(found.len(), 40 << 20);
        if options.contains(&"-S") {
            assert!(
                found.blocks() * 512 < 2 << 20,
                "{options:?}: {}",
                found.blocks()
            );
        }
        let same = |a: &Path, b: &Path| std::fs::read(a).unwrap() == std::fs::read(b).unwrap();
        assert!(
            same(&layer.join("holes"), &root.join("holes")),
            "{options:?}"
        );
        ground.images.remove("test:1").unwrap();
    }
}

/// `docker save` of an engine that the tests were given.
#[test]
fn an_image_that_docker_saved_is_read() {
    #[expect(clippy::disallowed_methods, reason = "the tests' own setting")]
    let Ok(host) = std::env::var("STACYVM_TEST_DOCKER_HOST") else {
        eprintln!("not run: no Docker Engine (STACYVM_TEST_DOCKER_HOST)");
        return;
    };
    let Some(busybox) = busybox() else { return };
    let ground = Ground::new();
    let root = tempfile::tempdir().unwrap();
    std::fs::create_dir(root.path().join("bin")).unwrap();
    std::fs::copy(busybox, root.path().join("bin/busybox")).unwrap();
    let archive = ground.path("archive");
    run(Command::new("tar")
        .arg("-cf")
        .arg(&archive)
        .arg("-C")
        .arg(root.path())
        .arg("."));
    let docker = || {
        let mut command = Command::new("docker");
        command.env("DOCKER_HOST", &host);
        command
    };
    let name = format!("stacyvm-test/saved:{}", std::process::id());
    let change = "ENV A=b";
    run(docker()
        .args(["import", "-c", change])
        .arg(&archive)
        .arg(&name));
    run(docker().args(["save", "-o"]).arg(&archive).arg(&name));
    run(docker().args(["rmi", &name]));
    let image = ground
        .import(&format!("docker-archive:{}", archive.display()))
        .unwrap();
    assert_eq!(image.config.variable("A"), Some("b"));
    assert!(ground.layer(&image, 0).join("bin/busybox").exists());
}
