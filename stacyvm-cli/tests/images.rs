//! Images of the store from the command line.
#![cfg(target_os = "linux")]
#![expect(
    clippy::unwrap_used,
    reason = "a test that panics has failed, and one that cannot run says why"
)]

mod support;

use serde_json::Value;
use support::{cli, shown, tiny_root};

#[test]
fn an_image_is_imported_run_exported_and_removed() {
    let cli = cli();
    let work = tempfile::tempdir().unwrap();
    let path = |name: &str| work.path().join(name).to_str().unwrap().to_owned();
    let Some(source) = tiny_root(work.path()) else {
        return;
    };
    let told = cli.ok(&["image", "import", &source, "--name", "tiny:1"]);
    assert!(told.contains("tiny:1"), "{told}");
    let list: Value = serde_json::from_str(&cli.ok(&["--json", "image", "ls"])).unwrap();
    let name = list[0]["name"].as_str().unwrap().to_owned();
    assert!(name.contains("tiny:1"), "{list}");
    let seen = cli.ok(&["run", "--image", "tiny:1", "--", "/bin/cat", "/which"]);
    assert_eq!(seen, "this image\n");
    let id = cli.create(&["--image", "tiny:1"]);
    let output = cli.run(&["image", "rm", "tiny:1"]);
    assert_eq!(output.status.code(), Some(125), "{}", shown(&output));
    cli.ok(&["kill", &id]);
    cli.ok(&["image", "export", "tiny:1", &path("out.tar")]);
    // A link, a device or the like is not replaced by a file.
    std::os::unix::fs::symlink("/dev/null", path("link")).unwrap();
    let output = cli.run(&["image", "export", "tiny:1", &path("link")]);
    assert_eq!(output.status.code(), Some(125), "{}", shown(&output));
    assert!(
        std::fs::symlink_metadata(path("link"))
            .unwrap()
            .is_symlink()
    );
    let digest = list[0]["digest"].as_str().unwrap();
    cli.ok(&["image", "rm", "tiny:1"]);
    assert_eq!(cli.ok(&["--json", "image", "ls"]).trim(), "[]");
    let source = format!("oci-archive:{}", path("out.tar"));
    cli.ok(&["image", "import", &source, "--name", "again"]);
    let image: Value = serde_json::from_str(&cli.ok(&["image", "inspect", "again"])).unwrap();
    assert_eq!(image["digest"], digest);
    let output = cli.run(&["image", "inspect", "missing"]);
    assert_eq!(output.status.code(), Some(125), "{}", shown(&output));
}

#[test]
fn caps_of_images_are_settings() {
    let cli = cli();
    let work = tempfile::tempdir().unwrap();
    let Some(source) = tiny_root(work.path()) else {
        return;
    };
    let file = work.path().join("stacyvm.yaml");
    let config = ["--config", file.to_str().unwrap()];
    std::fs::write(&file, "images:\n  caps:\n    entries: 2\n").unwrap();
    let import = ["image", "import", &source];
    let run = ["run", "--image", &source, "--", "/bin/cat", "/which"];
    for arguments in [&import[..], &run[..]] {
        let output = cli.run(&[&config[..], arguments].concat());
        let error = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(125), "{error}");
        assert!(
            error.contains("the cap `entries` is 2") && error.contains("`images.caps.entries`"),
            "{error}"
        );
    }
    std::fs::write(&file, "images:\n  caps:\n    entries: 50\n").unwrap();
    let seen = cli.ok(&[&config[..], &run].concat());
    assert_eq!(seen, "this image\n");
}

#[test]
fn without_a_command_the_image_s_own_one_is_run() {
    let cli = cli();
    let work = tempfile::tempdir().unwrap();
    let path = |name: &str| work.path().join(name).to_str().unwrap().to_owned();
    let Some(source) = tiny_root(work.path()) else {
        return;
    };
    cli.ok(&["image", "import", &source, "--name", "tiny:1"]);
    let output = cli.run(&["run", "--image", "tiny:1"]);
    let error = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(125), "{error}");
    assert!(
        error.contains("none is known") && error.contains("--"),
        "{error}"
    );
    assert_eq!(cli.run(&["run"]).status.code(), Some(125));
    // The same image with an entrypoint and arguments for it.
    cli.ok(&[
        "image",
        "export",
        "--format",
        "docker",
        "tiny:1",
        &path("out.tar"),
    ]);
    let tar = |arguments: &[&str]| {
        let done = std::process::Command::new("tar").args(arguments).status();
        assert!(done.unwrap().success());
    };
    std::fs::create_dir(path("saved")).unwrap();
    tar(&["-C", &path("saved"), "-xf", &path("out.tar")]);
    let read = |name: &str| -> Value {
        serde_json::from_slice(&std::fs::read(work.path().join("saved").join(name)).unwrap())
            .unwrap()
    };
    let write = |name: &str, value: &Value| {
        std::fs::write(work.path().join("saved").join(name), value.to_string()).unwrap();
    };
    let mut manifest = read("manifest.json");
    let mut config = read(manifest[0]["Config"].as_str().unwrap());
    config["config"] = serde_json::json!({ "Entrypoint": ["/bin/cat"], "Cmd": ["/which"] });
    write("config.json", &config);
    manifest[0]["Config"] = "config.json".into();
    manifest[0]["RepoTags"] = serde_json::json!(["says:1"]);
    write("manifest.json", &manifest);
    tar(&["-C", &path("saved"), "-cf", &path("says.tar"), "."]);
    cli.ok(&[
        "image",
        "import",
        &format!("docker-archive:{}", path("says.tar")),
    ]);
    assert_eq!(cli.ok(&["run", "--image", "says:1"]), "this image\n");
    // What is given is the whole command.
    let given = cli.ok(&[
        "run",
        "--image",
        "says:1",
        "--",
        "/bin/busybox",
        "echo",
        "a",
    ]);
    assert_eq!(given, "a\n");
}
