//! Credential helpers, as Docker has them: programs on the `PATH`.

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde_json::json;

use super::child::{Pull, path_behind};
use super::made::Made;
use super::server::{Server, send};

/// `ann:hush`, as a header has it.
const BASIC: &str = "Basic YW5uOmh1c2g=";

/// A registry that wants a password where `closed`, and a directory of helpers.
struct World {
    home: tempfile::TempDir,
    server: Server,
}

impl World {
    fn new(closed: bool) -> Self {
        let server = Server::start(
            &Made::here(),
            Box::new(move |request, stream| {
                let refused = closed && request.header("authorization") != Some(BASIC);
                if refused {
                    let wants = "WWW-Authenticate: Basic realm=\"r\"\r\n";
                    send(stream, "401 Unauthorized", wants, b"");
                }
                refused
            }),
        );
        let home = tempfile::tempdir().unwrap();
        Self { home, server }
    }

    fn at(&self, name: &str) -> PathBuf {
        self.home.path().join(name)
    }

    /// Makes the program `docker-credential-NAME`.
    fn helper(&self, name: &str, script: &str) {
        let file = self.at(&format!("docker-credential-{name}"));
        std::fs::write(&file, format!("#!/bin/sh\n{script}\n")).unwrap();
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o755)).unwrap();
    }

    fn pull(
        &self,
        config: &serde_json::Value,
        seconds: Option<u64>,
    ) -> Result<(), (String, String)> {
        let file = self.at("config.json");
        std::fs::write(&file, config.to_string()).unwrap();
        let pull = Pull {
            reference: self.server.reference().to_string(),
            auth_file: Some(file),
            seconds,
            ca_file: None,
        };
        pull.run(&[("PATH", &path_behind(self.home.path()))])
    }
}

fn answer(user: &str, secret: &str) -> String {
    format!("cat > /dev/null; echo '{{\"Username\": \"{user}\", \"Secret\": \"{secret}\"}}'")
}

#[test]
fn a_helper_is_asked_for_the_registry_and_believed() {
    let world = World::new(true);
    let asked = world.at("asked").display().to_string();
    let script = format!(
        "echo \"$@\" > {asked}; cat >> {asked}; {}",
        answer("ann", "hush")
    );
    world.helper("mine", &script);
    world.helper("other", &answer("ann", "wrong"));
    let host = world.server.host.clone();
    // The helper of the registry wins over that of all, and both over what is
    // written in the file.
    for config in [
        json!({"credHelpers": {host.clone(): "mine"}, "credsStore": "other"}),
        json!({"credsStore": "mine", "auths": {host.clone(): {}}}),
        json!({"credHelpers": {host.clone(): "mine"}, "auths": {host.clone(): {"auth": "YW5uOndyb25n"}}}),
    ] {
        world.pull(&config, None).unwrap();
        let seen = std::fs::read_to_string(&asked).unwrap();
        assert_eq!(seen, format!("get\n{host}\n"), "{config}");
    }
}

#[test]
fn a_helper_without_an_entry_leaves_the_rest_to_the_file() {
    let world = World::new(true);
    let host = world.server.host.clone();
    world.helper(
        "none",
        "echo 'credentials not found in native keychain'; exit 1",
    );
    let config = json!({"credsStore": "none", "auths": {host: {"auth": "YW5uOmh1c2g="}}});
    world.pull(&config, None).unwrap();
    // Where the file has nothing either, nobody says who asks.
    let open = World::new(false);
    open.helper(
        "none",
        "echo 'credentials not found in native keychain'; exit 1",
    );
    open.pull(&json!({"credsStore": "none"}), None).unwrap();
    let seen = open.server.seen.lock().unwrap();
    assert!(seen.iter().all(|one| one.header("authorization").is_none()));
}

#[test]
fn a_helper_that_fails_is_named_and_what_it_said_is_not_shown() {
    let world = World::new(true);
    let endless = "while :; do echo hush-4711-hush-4711-hush-4711-hush-4711; done";
    for (name, script) in [
        ("fails", "echo hush-4711; echo hush-4711 >&2; exit 1"),
        ("garbage", "echo hush-4711"),
        (
            "numbers",
            "echo '{\"Username\": 4711, \"Secret\": \"hush-4711\"}'",
        ),
        ("silent", "exit 0"),
        ("endless", endless),
    ] {
        world.helper(name, script);
        let (kind, text) = world.pull(&json!({"credsStore": name}), None).unwrap_err();
        assert_eq!(kind, "unavailable", "{name}: {text}");
        assert!(
            text.contains(&format!("docker-credential-{name}")),
            "{text}"
        );
        assert!(
            text.contains("remedy") && !text.contains("4711"),
            "{name}: {text}"
        );
    }
    let (kind, text) = world
        .pull(&json!({"credsStore": "absent"}), None)
        .unwrap_err();
    assert_eq!(kind, "unavailable");
    assert!(
        text.contains("docker-credential-absent cannot be started"),
        "{text}"
    );
    assert_eq!(
        world.server.count("/manifests/"),
        0,
        "it was asked all the same"
    );
}

#[test]
fn a_helper_that_hangs_ends_with_the_deadline() {
    let world = World::new(true);
    let note = world.at("process").display().to_string();
    world.helper("hangs", &format!("echo $$ > {note}; exec sleep 600"));
    let (kind, text) = world
        .pull(&json!({"credsStore": "hangs"}), Some(2))
        .unwrap_err();
    assert_eq!(kind, "timeout", "{text}");
    let process = std::fs::read_to_string(&note).unwrap();
    let alive = || {
        let name = std::fs::read_to_string(format!("/proc/{}/comm", process.trim()));
        name.is_ok_and(|name| name.trim() == "sleep") && !is_zombie(process.trim())
    };
    // Long enough for any machine, so that one that stays fails the test.
    let latest = Instant::now() + Duration::from_secs(30);
    while alive() {
        assert!(Instant::now() < latest, "the helper stays");
        std::thread::sleep(Duration::from_millis(10));
    }
}

fn is_zombie(process: &str) -> bool {
    let stat = std::fs::read_to_string(Path::new("/proc").join(process).join("stat"));
    stat.is_ok_and(|stat| stat.contains(") Z "))
}
