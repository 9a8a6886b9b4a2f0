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

use super::certificates::{has, make_certificates, run};
use super::made::Made;
use super::server::{Server, send, store};

pub(crate) const USER: &str = "tester";
pub(crate) const PASSWORD: &str = "correct-horse";
/// They as `docker login` writes them.
pub(crate) const BASIC: &str = "dGVzdGVyOmNvcnJlY3QtaG9yc2U=";

pub(crate) struct Registry {
    pub(crate) home: tempfile::TempDir,
    child: Child,
    pub(crate) host: String,
}

impl Drop for Registry {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Registry {
    /// A registry with one image, or `None` where a program is missing.
    pub(crate) fn start() -> Option<Self> {
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
        let tls = format!(
            "{{certificate: {}, key: {}}}",
            at("server.pem"),
            at("server.key")
        );
        let auth = format!("{{htpasswd: {{realm: test, path: {}}}}}", at("users"));
        let (child, host) = serve(home.path(), &format!("tls: {tls}"), &auth);
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

    pub(crate) fn authority(&self) -> PathBuf {
        self.home.path().join("ca.pem")
    }

    pub(crate) fn reference(&self) -> Reference {
        format!("{}/team/app:1", self.host).parse().unwrap()
    }

    fn options(&self, credentials: Credentials) -> PullOptions {
        let mut options = PullOptions::default();
        options.ca_files.push(self.authority());
        options.credentials = Some(credentials);
        options
    }
}

/// Starts a registry on what is stored in `home`, and waits until it listens.
fn serve(home: &Path, http: &str, auth: &str) -> (Child, String) {
    let port = TcpListener::bind("127.0.0.1:0").unwrap();
    let host = port.local_addr().unwrap().to_string();
    drop(port);
    let file = home.join(format!("config-{host}.yml"));
    let data = home.join("data").display().to_string();
    let config = format!(
        "version: 0.1\nlog: {{level: info}}\nstorage: {{filesystem: {{rootdirectory: {data}}}}}\n\
         http:\n  addr: {host}\n  {http}\nauth: {auth}\n",
    );
    std::fs::write(&file, config).unwrap();
    let mut child = Command::new("docker-registry")
        .arg("serve")
        .arg(&file)
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // It says when it listens; what comes after is read so that it never blocks.
    let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
    let ready = lines.any(|line| line.is_ok_and(|line| line.contains("listening on")));
    assert!(ready, "the registry did not start");
    std::thread::spawn(move || lines.for_each(drop));
    (child, host)
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
    let entry = json!({"auth": BASIC});
    let auths = json!({"auths": {registry.host.clone(): entry}});
    std::fs::write(&file, auths.to_string()).unwrap();
    let mut options = registry.options(right());
    options.credentials = None;
    options.auth_file = Some(file);
    images
        .pull(&Context::default(), &registry.reference(), &options)
        .unwrap();
}

/// A token of these claims, signed by the key in `home` as `docker-registry`
/// wants it.
fn sign(home: &Path, claims: &serde_json::Value) -> String {
    use base64::Engine as _;
    use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
    let at = |name: &str| home.join(name).display().to_string();
    let pem = std::fs::read_to_string(at("tokens.pem")).unwrap();
    let certificate: String = pem.lines().filter(|l| !l.starts_with('-')).collect();
    assert!(STANDARD.decode(&certificate).is_ok());
    let head = json!({"typ": "JWT", "alg": "RS256", "x5c": [certificate]});
    let [head, claims] = [&head, claims].map(|part| URL_SAFE_NO_PAD.encode(part.to_string()));
    let text = format!("{head}.{claims}");
    // Several may be asked for at once.
    let name = Digest::of(text.as_bytes()).hex();
    let (text_file, signature) = (at(&name), at(&format!("{name}.sig")));
    std::fs::write(&text_file, &text).unwrap();
    let key = at("tokens.key");
    run(
        "openssl",
        &[
            "dgst", "-sha256", "-sign", &key, "-out", &signature, &text_file,
        ],
    );
    format!(
        "{text}.{}",
        URL_SAFE_NO_PAD.encode(std::fs::read(signature).unwrap())
    )
}

#[test]
fn a_real_registry_takes_the_token_of_its_token_service() {
    let Some(registry) = Registry::start() else {
        return;
    };
    let home = registry.home.path().to_owned();
    let at = |name: &str| home.join(name).display().to_string();
    let (key, certificate) = (at("tokens.key"), at("tokens.pem"));
    let made = [
        "req",
        "-x509",
        "-newkey",
        "rsa:2048",
        "-nodes",
        "-days",
        "2",
        "-subj",
        "/CN=tokens",
    ];
    let files = ["-keyout", &key, "-out", &certificate];
    run("openssl", &[&made[..], &files].concat());
    let of_key = home.clone();
    let service = Server::start(
        &Made::here(),
        Box::new(move |request, stream| {
            if request.header("authorization") != Some(&format!("Basic {BASIC}")) {
                send(stream, "401 Unauthorized", "", b"");
                return true;
            }
            // What is granted is what the registry said that it wants.
            assert!(
                request
                    .path
                    .contains("scope=repository%3Ateam%2Fapp%3Apull"),
                "{request:?}"
            );
            assert!(request.path.contains("service=test-service"), "{request:?}");
            let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
            let now = now.unwrap().as_secs();
            let claims = json!({
                "iss": "test-issuer", "aud": "test-service", "sub": USER, "jti": "1",
                "iat": now - 10, "nbf": now - 10, "exp": now + 300,
                "access": [{"type": "repository", "name": "team/app", "actions": ["pull"]}],
            });
            let body = json!({"token": sign(&of_key, &claims), "expires_in": 300});
            send(stream, "200 OK", "", body.to_string().as_bytes());
            true
        }),
    );
    let auth = format!(
        "{{token: {{realm: \"http://{}/token\", service: test-service, issuer: test-issuer, rootcertbundle: {certificate}}}}}",
        service.host
    );
    let (mut child, host) = serve(&home, "relativeurls: true", &auth);
    let (_home, images) = store();
    let reference: Reference = format!("{host}/team/app:1").parse().unwrap();
    let pull = |credentials| {
        images.pull(
            &Context::default(),
            &reference,
            &registry.options(credentials),
        )
    };
    let wrong = pull(password("wrong-battery"));
    let pulled = pull(right());
    child.kill().unwrap();
    child.wait().unwrap();
    assert_eq!(wrong.unwrap_err().kind(), ErrorKind::Unauthenticated);
    assert_eq!(pulled.unwrap().layers.len(), 2);
    assert_eq!(images.verify(&Context::default()).unwrap(), []);
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
