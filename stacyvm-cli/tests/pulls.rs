//! Pulls from a registry on loopback: what is shown, and what `run` does.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, clippy::print_stderr, reason = "tests")]

mod support;
#[path = "support/terminal.rs"]
mod tty;

use std::io::{BufRead as _, BufReader};
use std::net::TcpListener;
use std::process::{Child, Command, Stdio};

use support::{Cli, cli, shown, tiny_root};
use tty::Terminal;

/// A registry without TLS that has the image `app:1`.
struct Registry {
    _home: tempfile::TempDir,
    child: Child,
    image: String,
}

impl Drop for Registry {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Registry {
    /// `None`, and why, where a program is missing.
    fn start() -> Option<Self> {
        let home = tempfile::tempdir().unwrap();
        let at = |name: &str| home.path().join(name).to_str().unwrap().to_owned();
        let port = TcpListener::bind("127.0.0.1:0").unwrap();
        let host = port.local_addr().unwrap().to_string();
        drop(port);
        let config = format!(
            "version: 0.1\nlog: {{level: info}}\nstorage: {{filesystem: {{rootdirectory: {}}}}}\nhttp: {{addr: {host}}}\n",
            at("data"),
        );
        std::fs::write(at("config.yml"), config).unwrap();
        let child = Command::new("docker-registry")
            .args(["serve", &at("config.yml")])
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn();
        let Ok(mut child) = child else {
            eprintln!("not run: docker-registry is not installed");
            return None;
        };
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let ready = lines.any(|line| line.is_ok_and(|line| line.contains("listening on")));
        assert!(ready, "the registry did not start");
        // What comes after is read so that it never blocks.
        std::thread::spawn(move || lines.for_each(drop));
        let image = format!("{host}/app:1");
        let registry = Self {
            child,
            image,
            _home: home,
        };
        registry.fill().then_some(registry)
    }

    fn fill(&self) -> bool {
        let (maker, work) = (cli(), tempfile::tempdir().unwrap());
        let Some(source) = tiny_root(work.path()) else {
            return false;
        };
        let archive = work.path().join("app.tar");
        let archive = archive.to_str().unwrap();
        maker.ok(&["image", "import", &source, "--name", "app:1"]);
        maker.ok(&["image", "export", "app:1", archive]);
        let copied = Command::new("skopeo")
            .args([
                "copy",
                "--quiet",
                "--insecure-policy",
                "--dest-tls-verify=false",
            ])
            .arg(format!("oci-archive:{archive}"))
            .arg(format!("docker://{}", self.image))
            .status();
        let Ok(copied) = copied else {
            eprintln!("not run: skopeo is not installed");
            return false;
        };
        assert!(copied.success());
        true
    }
}

/// What a command shows on a terminal.
fn on_terminal(cli: &Cli, arguments: &[&str]) -> String {
    use std::io::Read as _;
    let mut terminal = Terminal::open();
    let mut child = terminal.start(cli, arguments);
    // Read while it is written; it ends with the last of the programs' sides.
    let mut person = terminal.person.try_clone().unwrap();
    drop(std::mem::replace(
        &mut terminal.programs,
        std::fs::File::open("/dev/null").unwrap(),
    ));
    let mut seen = Vec::new();
    let mut part = [0; 4096];
    while let Ok(count @ 1..) = person.read(&mut part) {
        seen.extend_from_slice(&part[..count]);
    }
    assert!(child.wait().unwrap().success(), "{arguments:?}");
    String::from_utf8(seen).unwrap()
}

/// Whether a bar was shown that knows how much there is: an empty one has bytes
/// alone.
fn shows_how_far(seen: &str) -> bool {
    seen.contains("B/s") && seen.contains("iB")
}

#[test]
fn a_pull_shows_how_far_it_is_on_a_terminal_alone() {
    let Some(registry) = Registry::start() else {
        return;
    };
    let image = registry.image.as_str();
    // Each pull into a store of its own.
    let seen = on_terminal(&cli(), &["image", "pull", image]);
    assert!(shows_how_far(&seen), "{seen:?}");
    let seen = on_terminal(
        &cli(),
        &["run", "--image", image, "--", "/bin/cat", "/which"],
    );
    assert!(
        shows_how_far(&seen) && seen.contains("this image"),
        "{seen:?}"
    );
    let seen = on_terminal(&cli(), &["--json", "image", "pull", image]);
    assert!(!seen.contains("B/s") && seen.starts_with('{'), "{seen:?}");
    let output = cli().run(&["image", "pull", image]);
    assert_eq!(output.status.code(), Some(0), "{}", shown(&output));
    assert_eq!(output.stderr, b"", "{}", shown(&output));
}

#[test]
fn run_and_create_pull_what_is_missing_unless_told_otherwise() {
    let Some(registry) = Registry::start() else {
        return;
    };
    let (cli, image) = (cli(), registry.image.clone());
    let image = image.as_str();
    let which = ["--image", image, "--", "/bin/cat", "/which"];
    let output = cli.run(&[&["run", "--pull", "never"], &which[..]].concat());
    let text = String::from_utf8(output.stderr).unwrap();
    assert!(
        text.contains(&format!("stacyvm image pull {image}")),
        "{text}"
    );
    assert_eq!(cli.ok(&["--json", "image", "ls"]).trim(), "[]");
    let id = cli.create(&["--image", image]);
    assert_eq!(cli.ok(&["exec", &id, "/bin/cat", "/which"]), "this image\n");
    cli.ok(&["kill", &id]);
    // Now that it is here, nobody is asked.
    drop(registry);
    assert_eq!(cli.ok(&[&["run"], &which[..]].concat()), "this image\n");
    let output = cli.run(&[&["run", "--pull", "always"], &which[..]].concat());
    assert_eq!(output.status.code(), Some(125), "{}", shown(&output));
    let text = String::from_utf8(output.stderr).unwrap();
    assert!(text.contains("cannot be reached"), "{text}");
}
