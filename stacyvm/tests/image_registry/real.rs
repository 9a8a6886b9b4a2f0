//! A real registry on loopback, with TLS and basic auth, filled by skopeo.

use std::io::{BufRead as _, BufReader};
use std::net::TcpListener;
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Once};

use serde_json::json;
use stacyvm::image::{Credentials, Digest, Images, PullOptions, Reference, Secret, media};
use stacyvm::{Context, ErrorKind};

use super::Made;

const USER: &str = "tester";
const PASSWORD: &str = "correct-horse";

fn has(program: &str) -> bool {
    let found = Command::new("sh")
        .args(["-c", &format!("command -v {program}")])
        .stdout(Stdio::null())
        .status();
    found.is_ok_and(|status| status.success())
}

fn run(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output().unwrap();
    assert!(
        output.status.success(),
        "{program}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout).unwrap()
}

struct Registry {
    home: tempfile::TempDir,
    child: Child,
    host: String,
}

impl Drop for Registry {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Registry {
    /// A registry with one image, or `None` where a program is missing.
    fn start() -> Option<Self> {
        for program in ["docker-registry", "skopeo", "openssl", "htpasswd"] {
            if !has(program) {
                eprintln!("not run: {program} is not installed");
                return None;
            }
        }
        let home = tempfile::tempdir().unwrap();
        let at = |name: &str| home.path().join(name).display().to_string();
        make_certificates(home.path());
        let users = run("htpasswd", &["-Bbn", USER, PASSWORD]);
        std::fs::write(at("users"), users).unwrap();
        let port = TcpListener::bind("127.0.0.1:0").unwrap();
        let host = port.local_addr().unwrap().to_string();
        drop(port);
        let config = format!(
            "version: 0.1\nlog: {{level: info}}\nstorage: {{filesystem: {{rootdirectory: {}}}}}\n\
             http:\n  addr: {host}\n  tls: {{certificate: {}, key: {}}}\n\
             auth: {{htpasswd: {{realm: test, path: {}}}}}\n",
            at("data"),
            at("server.pem"),
            at("server.key"),
            at("users")
        );
        std::fs::write(at("config.yml"), config).unwrap();
        let mut child = Command::new("docker-registry")
            .args(["serve", &at("config.yml")])
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        // It says when it listens; what comes after is read so that it never blocks.
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let ready = lines.any(|line| line.is_ok_and(|line| line.contains("listening on")));
        assert!(ready, "the registry did not start");
        std::thread::spawn(move || lines.for_each(drop));
        let registry = Self { home, child, host };
        registry.fill();
        Some(registry)
    }

    fn fill(&self) {
        let made = Made::here();
        let layout = self.home.path().join("layout");
        let blobs = layout.join("blobs/sha256");
        std::fs::create_dir_all(&blobs).unwrap();
        for blob in made.blobs().into_iter().chain([&made.manifest]) {
            std::fs::write(blobs.join(Digest::of(blob).hex()), blob).unwrap();
        }
        let index = json!({"schemaVersion": 2, "manifests": [{
            "mediaType": media::MANIFEST, "digest": Digest::of(&made.manifest),
            "size": made.manifest.len(),
        }]});
        std::fs::write(layout.join("index.json"), index.to_string()).unwrap();
        let version = r#"{"imageLayoutVersion":"1.0.0"}"#;
        std::fs::write(layout.join("oci-layout"), version).unwrap();
        let certificates = self.home.path().join("certs");
        std::fs::create_dir(&certificates).unwrap();
        std::fs::copy(self.authority(), certificates.join("ca.crt")).unwrap();
        // skopeo compresses what is not, so the manifest is another one there.
        run(
            "skopeo",
            &[
                "copy",
                "--quiet",
                "--insecure-policy",
                &format!("--dest-creds={USER}:{PASSWORD}"),
                &format!("--dest-cert-dir={}", certificates.display()),
                &format!("oci:{}", layout.display()),
                &format!("docker://{}/team/app:1", self.host),
            ],
        );
    }

    fn authority(&self) -> PathBuf {
        self.home.path().join("ca.pem")
    }

    fn reference(&self) -> Reference {
        format!("{}/team/app:1", self.host).parse().unwrap()
    }

    fn options(&self, credentials: Credentials) -> PullOptions {
        let mut options = PullOptions::default();
        options.ca_files.push(self.authority());
        options.credentials = Some(credentials);
        options
    }
}

fn make_certificates(home: &Path) {
    let at = |name: &str| home.join(name).display().to_string();
    let extensions =
        "basicConstraints=CA:FALSE\nsubjectAltName=IP:127.0.0.1\nextendedKeyUsage=serverAuth\n";
    std::fs::write(at("extensions"), extensions).unwrap();
    let key = [
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:P-256",
        "-nodes",
    ];
    let authority = [
        "req",
        "-x509",
        "-days",
        "2",
        "-subj",
        "/CN=test authority",
        "-keyout",
    ];
    let (ca, ca_key) = (at("ca.pem"), at("ca.key"));
    run(
        "openssl",
        &[&authority[..], &[&ca_key, "-out", &ca], &key].concat(),
    );
    let (request, server_key) = (at("server.csr"), at("server.key"));
    let asked = [
        "req",
        "-new",
        "-subj",
        "/CN=127.0.0.1",
        "-keyout",
        &server_key,
        "-out",
        &request,
    ];
    run("openssl", &[&asked[..], &key].concat());
    run(
        "openssl",
        &[
            "x509",
            "-req",
            "-days",
            "2",
            "-in",
            &request,
            "-CA",
            &ca,
            "-CAkey",
            &ca_key,
            "-CAcreateserial",
            "-extfile",
            &at("extensions"),
            "-out",
            &at("server.pem"),
        ],
    );
}

fn right() -> Credentials {
    password(PASSWORD)
}

fn password(password: &str) -> Credentials {
    Credentials::Password {
        user: USER.into(),
        password: Secret::new(password),
    }
}

fn store() -> (tempfile::TempDir, Images) {
    let home = tempfile::tempdir().unwrap();
    let images = Images::open(&home.path().join("images")).unwrap();
    (home, images)
}

#[test]
fn an_image_comes_by_tag_and_by_digest_and_its_layers_once() {
    let Some(registry) = Registry::start() else {
        return;
    };
    let (_home, images) = store();
    let bytes = Arc::new(AtomicU64::new(0));
    let seen = Arc::clone(&bytes);
    let options = registry.options(right()).on_progress(move |progress| {
        assert!(progress.done <= progress.total);
        seen.fetch_add(1, Ordering::Relaxed);
    });
    let context = Context::default();
    let image = images
        .pull(&context, &registry.reference(), &options)
        .unwrap();
    assert!(bytes.swap(0, Ordering::Relaxed) > 0, "no progress was told");
    let root = images.root(&image).unwrap();
    let below = |name: &str| root.lower.iter().any(|layer| layer.join(name).is_file());
    assert!(below("bin/a") && below("etc/b"));

    // By digest, and nothing of it is transferred again.
    let pinned: Reference = format!("{}/team/app@{}", registry.host, image.digest)
        .parse()
        .unwrap();
    let again = images.pull(&context, &pinned, &options).unwrap();
    assert_eq!(again.digest, image.digest);
    images
        .pull(&context, &registry.reference(), &options)
        .unwrap();
    assert_eq!(bytes.load(Ordering::Relaxed), 0, "bytes came again");
    assert_eq!(images.verify(&context).unwrap(), []);
}

#[test]
fn who_may_not_pull_is_told_why() {
    let Some(registry) = Registry::start() else {
        return;
    };
    let (_home, images) = store();
    let context = Context::default();
    let reference = registry.reference();
    let pull = |options: &PullOptions| images.pull(&context, &reference, options).unwrap_err();

    let error = pull(&registry.options(Credentials::Anonymous));
    assert_eq!(error.kind(), ErrorKind::Unauthenticated);
    assert!(error.message().contains("wants credentials"), "{error}");
    assert_eq!(error.fact("registry"), Some(registry.host.as_str()));

    let error = pull(&registry.options(password("wrong-battery")));
    assert_eq!(error.kind(), ErrorKind::Unauthenticated);
    assert!(
        error.message().contains("refuses the credentials"),
        "{error}"
    );
    assert!(!format!("{error:?}").contains("wrong-battery"));

    let mut untrusted = registry.options(right());
    untrusted.ca_files.clear();
    let error = pull(&untrusted);
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    assert!(error.message().contains("not trusted"), "{error}");

    let missing = format!("{}/team/app:2", registry.host).parse().unwrap();
    let options = registry.options(right());
    let error = images.pull(&context, &missing, &options).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
    assert_eq!(images.list().unwrap().len(), 0);
}

#[test]
fn credentials_come_from_a_file_as_docker_writes_it() {
    let Some(registry) = Registry::start() else {
        return;
    };
    let (home, images) = store();
    let file = home.path().join("config.json");
    // tester:correct-horse
    let entry = json!({"auth": "dGVzdGVyOmNvcnJlY3QtaG9yc2U="});
    let auths = json!({"auths": {registry.host.clone(): entry}});
    std::fs::write(&file, auths.to_string()).unwrap();
    let mut options = registry.options(right());
    options.credentials = None;
    options.auth_file = Some(file);
    images
        .pull(&Context::default(), &registry.reference(), &options)
        .unwrap();
}

const HOME: &str = "STACYVM_TEST_REGISTRY_HOME";
const HOST: &str = "STACYVM_TEST_REGISTRY_HOST";

/// Not a test of its own: the process that is killed in the middle of a pull.
#[test]
fn entry() {
    let text = |name: &str| std::env::var_os(name).and_then(|v| v.into_string().ok());
    let (Some(home), Some(host)) = (text(HOME), text(HOST)) else {
        return;
    };
    let home = Path::new(&home);
    let images = Images::open(&home.join("images")).unwrap();
    let mut options = PullOptions::default();
    options.ca_files.push(home.join("ca.pem"));
    options.credentials = Some(right());
    let once = Once::new();
    let options = options.on_progress(move |progress| {
        if progress.total > 1_000_000 && progress.done > progress.total / 2 {
            once.call_once(|| {
                let itself = rustix::process::getpid();
                rustix::process::kill_process(itself, rustix::process::Signal::KILL).unwrap();
            });
        }
    });
    let reference = format!("{host}/team/app:1").parse().unwrap();
    let image = images.pull(&Context::default(), &reference, &options);
    panic!("it was not killed: {:?}", image.map(|image| image.layers));
}

#[test]
fn a_kill_in_the_middle_of_a_pull_leaves_a_store_that_is_whole() {
    let Some(registry) = Registry::start() else {
        return;
    };
    let home = tempfile::tempdir().unwrap();
    std::fs::copy(registry.authority(), home.path().join("ca.pem")).unwrap();
    let killed = Command::new(std::env::current_exe().unwrap())
        .args(["real::entry", "--exact"])
        .env(HOME, home.path())
        .env(HOST, &registry.host)
        .status()
        .unwrap();
    assert_eq!(
        killed.signal(),
        Some(9),
        "it was not in the middle of a pull"
    );
    let context = Context::default();
    let images = Images::open(&home.path().join("images")).unwrap();
    assert_eq!(images.verify(&context).unwrap(), []);
    assert_eq!(images.list().unwrap().len(), 0);
    let options = registry.options(right());
    images
        .pull(&context, &registry.reference(), &options)
        .unwrap();
    assert_eq!(images.verify(&context).unwrap(), []);
    assert_eq!(
        std::fs::read_dir(images.path().join("tmp"))
            .unwrap()
            .count(),
        0
    );
}
