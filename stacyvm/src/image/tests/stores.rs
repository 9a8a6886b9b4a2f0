//! Names, sharing, use, removal, damage.

use serde_json::json;

use super::build::*;
use super::*;

fn one() -> Vec<u8> {
    tar(&[dir("bin"), file("bin/true", "x").mode(0o755)])
}

fn host_arch() -> String {
    Platform::host().architecture
}

fn count(ground: &Ground, what: &str) -> usize {
    std::fs::read_dir(ground.images.path().join(what))
        .unwrap()
        .count()
}

#[test]
fn all_sources_give_the_same_root() {
    let ground = Ground::new();
    let layout = Layout::of(&[(zstd(&one()), one()), (upper(), upper())]);
    let image = ground.layout(&layout).unwrap();
    assert_eq!(image.config.command(), ["/bin/true"]);
    assert_eq!(image.name.as_deref(), Some("docker.io/library/test:1"));
    let path = ground.path("archive");
    for bytes in [
        layout.archive(),
        gzip(&layout.archive()),
        zstd(&layout.archive()),
    ] {
        std::fs::write(&path, bytes).unwrap();
        let again = ground
            .import(&format!("oci-archive:{}", path.display()))
            .unwrap();
        assert_eq!(again, image);
    }
    // Through both of our own archives, into a store that has nothing.
    for (format, prefix) in [
        (ExportFormat::Oci, "oci-archive"),
        (ExportFormat::Docker, "docker-archive"),
    ] {
        let other = Ground::new();
        let mut bytes = Vec::new();
        ground
            .images
            .export(&Context::default(), &image, format, &mut bytes)
            .unwrap();
        std::fs::write(&path, bytes).unwrap();
        let again = other
            .import(&format!("{prefix}:{}", path.display()))
            .unwrap();
        assert_eq!(again.config_digest, image.config_digest);
        assert_eq!(again.digest == image.digest, format == ExportFormat::Oci);
        for at in 0..2 {
            assert_eq!(
                tree(&other.layer(&again, at)),
                tree(&ground.layer(&image, at))
            );
        }
        other.is_clean();
    }
    ground.is_clean();
}

fn upper() -> Vec<u8> {
    tar(&[file("etc/f", "y")])
}

#[test]
fn tags_and_platforms_are_chosen_or_listed() {
    let ground = Ground::new();
    let mut layout = Layout::new();
    let layer = [(one(), one())];
    layout.add("a", "s390x", &json!({}), &layer);
    layout.add("a", &host_arch(), &json!({"Env": ["X=host"]}), &layer);
    let image = ground.layout(&layout).unwrap();
    assert_eq!(image.config.variable("X"), Some("host"));
    ground.images.remove("test:1").unwrap();

    let mut foreign = Layout::new();
    foreign.add("a", "s390x", &json!({}), &layer);
    let error = ground.layout(&foreign).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported);
    assert_eq!(error.fact("offered"), Some("linux/s390x"));
    let other = ground
        .images
        .with_platform(Platform::new("linux", "s390x", None))
        .unwrap();
    let source = format!("oci:{}", ground.path("layout").display())
        .parse()
        .unwrap();
    other
        .import(&Context::default(), &source, &ImportOptions::default())
        .unwrap();

    let mut tagged = Layout::new();
    tagged.add("a", &host_arch(), &json!({"Env": ["X=a"]}), &layer);
    tagged.add("b", &host_arch(), &json!({"Env": ["X=b"]}), &layer);
    let error = ground.layout(&tagged).unwrap_err();
    assert_eq!(
        (error.kind(), error.fact("tags")),
        (ErrorKind::NotFound, Some("a, b"))
    );
    let path = ground.path("layout");
    let image = ground.import(&format!("oci:{}:b", path.display())).unwrap();
    assert_eq!(image.config.variable("X"), Some("b"));
    let error = ground
        .import(&format!("oci:{}:c", path.display()))
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
}

#[test]
fn layers_are_shared_and_go_with_their_last_image() {
    let ground = Ground::new();
    let first = ground.layout(&Layout::of_tars(&[one()])).unwrap();
    let path = ground.path("layout");
    std::fs::remove_dir_all(&path).unwrap();
    Layout::of_tars(&[one(), upper()]).write(&path);
    let source = format!("oci:{}", path.display()).parse().unwrap();
    let options = ImportOptions::named("second");
    let second = ground
        .images
        .import(&Context::default(), &source, &options)
        .unwrap();
    assert_eq!(count(&ground, "layers"), 2);
    assert_eq!(first.layers[0], second.layers[0]);
    assert_eq!(ground.images.list().unwrap().len(), 2);
    let used = ground.images.disk_use().unwrap();
    assert_eq!(
        (used.names, used.layers.0, used.unreferenced_bytes),
        (2, 2, 0)
    );

    let removed = ground.images.remove("second").unwrap();
    assert_eq!((removed.freed.layers, count(&ground, "layers")), (1, 1));
    assert_eq!(ground.images.find("test:1").unwrap(), first);
    ground.images.remove(&first.digest.hex()[..12]).unwrap();
    assert_eq!(
        (
            count(&ground, "layers"),
            count(&ground, "blobs/sha256"),
            count(&ground, "refs")
        ),
        (0, 0, 0)
    );
    assert_eq!(
        ground.images.find("test:1").unwrap_err().kind(),
        ErrorKind::NotFound
    );
    ground.is_clean();
}

#[test]
fn an_image_in_use_stays() {
    let ground = Ground::new();
    let image = ground.layout(&Layout::of_tars(&[one()])).unwrap();
    let held = ground.images.hold(&image).unwrap().into_fd();
    let also = ground.images.hold(&image).unwrap();
    drop(also);
    assert_eq!(
        ground.images.remove("test:1").unwrap_err().kind(),
        ErrorKind::Conflict
    );
    // Its name goes to another image; what is used stays all the same.
    let newer = ground.layout(&Layout::of_tars(&[upper()])).unwrap();
    assert_eq!(ground.images.prune().unwrap(), Pruned::default());
    assert_eq!(tree(&ground.layer(&image, 0)).len(), 2);
    drop(held);
    let pruned = ground.images.prune().unwrap();
    assert_eq!((pruned.layers, pruned.blobs), (1, 3));
    assert!(pruned.bytes > 0);
    assert_eq!(
        ground.images.hold(&image).unwrap_err().kind(),
        ErrorKind::NotFound
    );
    assert_eq!(ground.images.find("test:1").unwrap(), newer);
    ground.is_clean();
}

#[test]
fn nothing_is_removed_while_an_image_is_added() {
    let ground = Ground::new();
    let shared = ground.images.shared(&Context::default()).unwrap();
    assert_eq!(
        ground.images.prune().unwrap_err().kind(),
        ErrorKind::Conflict
    );
    drop(shared);
    ground.images.prune().unwrap();
}

#[test]
fn many_imports_of_one_image_at_once_are_one() {
    let ground = Ground::new();
    let big = tar(&(0..200)
        .map(|n| file(format!("f{n}"), vec![7; 4096]))
        .collect::<Vec<_>>());
    let path = ground.path("layout");
    Layout::of_tars(&[big, one(), upper()]).write(&path);
    let source: ImageSource = format!("oci:{}", path.display()).parse().unwrap();
    let all: Vec<Image> = std::thread::scope(|scope| {
        let started: Vec<_> = (0..6)
            .map(|_| {
                let images = Images::open(ground.images.path()).unwrap();
                let source = &source;
                scope.spawn(move || {
                    let options = ImportOptions::named("test:1");
                    images
                        .import(&Context::default(), source, &options)
                        .unwrap()
                })
            })
            .collect();
        started
            .into_iter()
            .map(|thread| thread.join().unwrap())
            .collect()
    });
    assert!(all.windows(2).all(|pair| pair[0] == pair[1]));
    assert_eq!(
        (count(&ground, "layers"), count(&ground, "blobs/sha256")),
        (3, 5)
    );
    ground.is_clean();
}

#[test]
fn damage_is_named_and_mended() {
    let ground = Ground::new();
    let image = ground.layout(&Layout::of_tars(&[one()])).unwrap();
    let verify = || ground.images.verify(&Context::default()).unwrap();
    assert_eq!(verify(), []);
    let layer = ground.layer(&image, 0);
    let file = layer.join("bin/true");
    std::fs::write(&file, "longer").unwrap();
    assert!(verify()[0].path.starts_with("layers/"), "{:?}", verify());
    std::fs::remove_file(&file).unwrap();
    assert!(
        verify()[0].what.contains("1 files, expected 2"),
        "{:?}",
        verify()
    );
    // What is gone is unpacked again.
    std::fs::remove_dir_all(layer.parent().unwrap()).unwrap();
    ground.images.root(&image).unwrap();
    assert_eq!(verify(), []);

    let blob = ground
        .images
        .path()
        .join("blobs/sha256")
        .join(image.layers[0].digest.hex());
    let mut bytes = std::fs::read(&blob).unwrap();
    let last = bytes.len() - 1;
    bytes[last] ^= 1;
    std::fs::write(&blob, bytes).unwrap();
    let found = verify();
    assert_eq!(found.len(), 1);
    assert!(found[0].path.contains(&image.layers[0].digest.hex()));
    let mut sink = Vec::new();
    let error = ground
        .images
        .export(&Context::default(), &image, ExportFormat::Oci, &mut sink)
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Corrupt);

    // Importing it again mends layers and documents; a name goes whatever it
    // stands for.
    std::fs::remove_dir_all(ground.layer(&image, 0).parent().unwrap()).unwrap();
    let document = ground
        .images
        .path()
        .join("blobs/sha256")
        .join(image.digest.hex());
    std::fs::write(&document, "{}").unwrap();
    assert_eq!(
        ground.images.find("test:1").unwrap_err().kind(),
        ErrorKind::Corrupt
    );
    assert!(ground.images.list().unwrap()[0].image.is_err());
    ground.layout(&Layout::of_tars(&[one()])).unwrap();
    assert_eq!(verify(), []);
    std::fs::write(&document, "{}").unwrap();
    ground.images.remove("test:1").unwrap();
    assert_eq!(verify(), []);
    ground.is_clean();
}

#[test]
fn what_was_not_written_to_the_disk_before_a_restart_is_made_again() {
    let ground = Ground::new();
    let image = ground.layout(&Layout::of_tars(&[one()])).unwrap();
    let layer = ground.layer(&image, 0);
    let path = layer.parent().unwrap().join("record.json");
    let mut record: serde_json::Value =
        serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    assert_eq!(record["boot"], "", "an import that returned is on the disk");
    record["boot"] = "another-start".into();
    std::fs::write(&path, record.to_string()).unwrap();
    std::fs::remove_file(layer.join("bin/true")).unwrap();
    ground.images.root(&image).unwrap();
    assert!(layer.join("bin/true").exists());
    ground.is_clean();
}

#[test]
fn abandoned_work_is_swept_and_living_work_is_not() {
    let ground = Ground::new();
    let tmp = ground.images.path().join("tmp");
    let living = crate::image::store::Work::new(&ground.images).unwrap();
    std::fs::create_dir_all(tmp.join("dead/layer/fs/deep")).unwrap();
    std::fs::write(tmp.join("dead.lock"), "").unwrap();
    std::fs::create_dir(tmp.join("without-a-lock")).unwrap();
    let again = Images::open(ground.images.path()).unwrap();
    assert_eq!(count(&ground, "tmp"), 2, "the living one and its lock");
    drop(living);
    assert_eq!(count(&ground, "tmp"), 0);
    drop(again);
}

#[test]
fn a_cancelled_or_late_import_leaves_nothing() {
    let ground = Ground::new();
    let path = ground.path("layout");
    Layout::of_tars(&[one()]).write(&path);
    let source: ImageSource = format!("oci:{}", path.display()).parse().unwrap();
    let (context, canceller) = Context::default().cancellable();
    canceller.cancel();
    let late = Context::default().with_deadline(std::time::Instant::now());
    for (context, kind) in [(context, ErrorKind::Cancelled), (late, ErrorKind::Timeout)] {
        let error = ground
            .images
            .import(&context, &source, &ImportOptions::default())
            .unwrap_err();
        assert_eq!(error.kind(), kind);
        assert_eq!((count(&ground, "layers"), count(&ground, "refs")), (0, 0));
    }
    ground.is_clean();
}

#[test]
fn another_users_store_is_refused() {
    let ground = Ground::new();
    let path = ground.images.path().join("blobs");
    std::fs::remove_dir_all(&path).unwrap();
    std::os::unix::fs::symlink(ground.path("canary"), &path).unwrap();
    let error = Images::open(ground.images.path()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::PermissionDenied);
}

#[test]
fn documents_past_their_caps_are_refused_before_they_are_read() {
    let mut ground = Ground::new();
    let layout = Layout::of_tars(&[one(), upper(), one()]);
    for (cap, change) in [
        (
            "manifest_bytes",
            Box::new(|c: &mut Caps| c.manifest_bytes = 100) as Box<dyn Fn(&mut Caps)>,
        ),
        (
            "config_bytes",
            Box::new(|c: &mut Caps| c.config_bytes = 100),
        ),
        ("layers", Box::new(|c: &mut Caps| c.layers = 2)),
        ("blob_bytes", Box::new(|c: &mut Caps| c.blob_bytes = 10)),
        ("image_bytes", Box::new(|c: &mut Caps| c.image_bytes = 1)),
    ] {
        let mut caps = Caps::default();
        change(&mut caps);
        ground.images = ground.images.with_caps(caps).unwrap();
        let error = ground.layout(&layout).unwrap_err();
        assert_eq!(
            error.kind(),
            ErrorKind::ResourceExhausted,
            "{cap}: {error:?}"
        );
        assert_eq!(error.fact("cap"), Some(cap));
    }
    assert_eq!(count(&ground, "refs"), 0);
}

#[test]
fn a_name_with_a_digest_stands_for_nothing_else() {
    let ground = Ground::new();
    let bring = |layout: &Layout, name: &str| {
        let path = ground.path("archive");
        std::fs::write(&path, layout.archive()).unwrap();
        let source = format!("oci-archive:{}", path.display()).parse().unwrap();
        let options = ImportOptions::named(name);
        ground.images.import(&Context::default(), &source, &options)
    };
    let layout = Layout::of(&[(one(), one())]);
    let image = ground.layout(&layout).unwrap();
    let other = format!("registry.example/a@sha256:{}", "0".repeat(64));
    let error = bring(&layout, &other).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Corrupt, "{error}");
    assert!(ground.images.find(&other).is_err());
    let own = format!("registry.example/a@{}", image.digest);
    bring(&layout, &own).unwrap();
    assert_eq!(ground.images.find(&own).unwrap().digest, image.digest);
    // What looks like a digest is one, whatever is called so.
    let evil = Layout::of(&[(upper(), upper())]);
    let name = format!("docker.io/library/sha256:{}", image.digest.hex());
    let called = bring(&evil, &name).unwrap();
    assert_ne!(called.digest, image.digest);
    for text in [image.digest.to_string(), image.digest.hex()] {
        assert_eq!(ground.images.find(&text).unwrap().digest, image.digest);
    }
    assert_eq!(ground.images.find(&name).unwrap().digest, called.digest);
}
