//! Which engine is found.

use super::*;
use std::collections::HashMap;

/// A home with what the docker command line keeps, and a directory for sockets.
struct Home {
    directory: tempfile::TempDir,
    variables: HashMap<&'static str, OsString>,
}

impl Home {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let variables = HashMap::from([
            ("HOME", directory.path().join("home").into_os_string()),
            ("XDG_RUNTIME_DIR", directory.path().join("run").into()),
        ]);
        let home = Self {
            directory,
            variables,
        };
        std::fs::create_dir_all(home.at("home/.docker")).unwrap();
        std::fs::create_dir_all(home.at("run/podman")).unwrap();
        home
    }

    fn at(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn write(&self, name: &str, text: &str) {
        let path = self.at(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }

    fn set(&mut self, name: &'static str, value: &str) {
        self.variables.insert(name, value.into());
    }

    fn context(&self, name: &str, endpoint: &str) {
        let digest = super::super::ticket::hex(&Sha256::digest(name));
        self.write(
            &format!("home/.docker/contexts/meta/{digest}/meta.json"),
            &format!(r#"{{"Name":"{name}","Metadata":{{}},"Endpoints":{{"docker":{endpoint}}}}}"#),
        );
    }

    /// The sockets of the system are those of this directory, not the machine's.
    fn surroundings(&self) -> Surroundings {
        let mut all = Surroundings::new(|name| self.variables.get(name).cloned());
        for socket in &mut all.sockets {
            if let Ok(of_system) = socket.strip_prefix("/var/run") {
                *socket = self.at("system").join(of_system);
            } else if let Ok(of_system) = socket.strip_prefix("/run/podman") {
                *socket = self.at("system").join(of_system);
            }
        }
        all
    }

    fn find(&self) -> Result<Found> {
        self.surroundings().find()
    }

    fn host(&self) -> String {
        self.find().unwrap().host
    }

    fn socket(&self, name: &str) -> String {
        format!("unix://{}", self.at(name).display())
    }
}

#[test]
fn each_source_wins_over_those_below_it() {
    let mut home = Home::new();
    for socket in [
        "system/podman.sock",
        "run/podman/podman.sock",
        "run/docker.sock",
        "system/docker.sock",
    ] {
        home.write(socket, "");
        assert_eq!(home.host(), home.socket(socket));
    }
    home.write("home/.docker/config.json", r#"{"auths":{}}"#);
    assert_eq!(home.host(), home.socket("system/docker.sock"));
    home.context("far", r#"{"Host":"tcp://far:1","SkipTLSVerify":false}"#);
    home.context("near", r#"{"Host":"unix:///near.sock"}"#);
    home.write(
        "home/.docker/config.json",
        r#"{"auths":{},"currentContext":"far"}"#,
    );
    let found = home.find().unwrap();
    assert_eq!((found.host.as_str(), found.tls), ("tcp://far:1", None));
    assert!(found.by.starts_with("the context far ("), "{}", found.by);
    home.set("DOCKER_CONTEXT", "near");
    let found = home.find().unwrap();
    assert_eq!(found.host, "unix:///near.sock");
    assert_eq!(found.by, "the context near (DOCKER_CONTEXT)");
    home.set("DOCKER_CONTEXT", "default");
    assert_eq!(home.host(), home.socket("system/docker.sock"));
    home.set("DOCKER_HOST", "tcp://named:2");
    let found = home.find().unwrap();
    assert_eq!(found.host, "tcp://named:2");
    assert_eq!(found.by, "DOCKER_HOST");
}

#[test]
fn where_there_is_no_engine_all_places_are_named() {
    let home = Home::new();
    let error = home.find().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    let text = error.to_string();
    for place in [
        "DOCKER_HOST",
        "DOCKER_CONTEXT",
        "home/.docker/config.json",
        "system/docker.sock",
        "run/docker.sock",
        "run/podman/podman.sock",
        "system/podman.sock",
        "start an engine",
    ] {
        assert!(text.contains(place), "{place}: {text}");
    }
    let mut nowhere = Home::new();
    nowhere.variables.clear();
    assert!(nowhere.find().is_err());
}

#[test]
fn a_context_that_is_not_there_is_told_and_never_replaced() {
    let mut home = Home::new();
    home.write("system/docker.sock", "");
    home.context("far", r#"{"Host":"tcp://far:1"}"#);
    home.set("DOCKER_CONTEXT", "absent");
    let error = home.find().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidArgument);
    let expected = error.fact("expected").unwrap();
    assert!(expected.ends_with("default, far"), "{expected}");
    // A name is looked for by its digest, so none of them is a path.
    home.set("DOCKER_CONTEXT", "../../far");
    assert!(home.find().is_err());
    home.context("empty", r#"{"Host":""}"#);
    home.set("DOCKER_CONTEXT", "empty");
    let error = home.find().unwrap_err();
    assert!(error.to_string().contains("context update"), "{error}");
    home.context("blind", r#"{"Host":"tcp://far:1","SkipTLSVerify":true}"#);
    home.set("DOCKER_CONTEXT", "blind");
    let error = home.find().unwrap_err();
    assert!(error.to_string().contains("skip-tls-verify"), "{error}");
}

#[test]
fn damaged_settings_are_told_and_not_passed_over() {
    let home = Home::new();
    home.write("system/docker.sock", "");
    home.write("home/.docker/config.json", "{");
    let error = home.find().unwrap_err();
    assert_eq!(error.fact("field"), Some("docker.settings"));
    home.write("home/.docker/config.json", r#"{"currentContext":"far"}"#);
    home.context("far", "7");
    let error = home.find().unwrap_err();
    assert!(error.fact("value").unwrap().contains("meta.json"));
}

#[test]
fn certificates_of_a_context_and_of_the_environment_are_used() {
    let mut home = Home::new();
    home.context("far", r#"{"Host":"tcp://far:1"}"#);
    home.set("DOCKER_CONTEXT", "far");
    let digest = super::super::ticket::hex(&Sha256::digest("far"));
    let certs = format!("home/.docker/contexts/tls/{digest}/docker");
    for name in ["ca.pem", "cert.pem", "key.pem"] {
        home.write(&format!("{certs}/{name}"), "");
    }
    let tls = home.find().unwrap().tls.unwrap();
    assert_eq!(tls.ca, Some(home.at(&certs).join("ca.pem")));

    home.set("DOCKER_HOST", "tcp://named:2");
    assert_eq!(home.find().unwrap().tls, None);
    home.set("DOCKER_TLS", "1");
    let error = home.find().unwrap_err();
    assert_eq!(error.fact("field"), Some("DOCKER_TLS"));
    home.set("DOCKER_TLS_VERIFY", "1");
    assert!(home.find().is_err(), "no ca.pem");
    home.write("home/.docker/ca.pem", "");
    let tls = home.find().unwrap().tls.unwrap();
    assert_eq!(tls.ca, Some(home.at("home/.docker/ca.pem")));
    home.write("certs/ca.pem", "");
    let certs = home.at("certs");
    home.set("DOCKER_CERT_PATH", certs.to_str().unwrap());
    let tls = home.find().unwrap().tls.unwrap();
    assert_eq!(tls.ca, Some(certs.join("ca.pem")));
    // They are of an engine far away.
    home.set("DOCKER_HOST", "unix:///x.sock");
    assert_eq!(home.find().unwrap().tls, None);
}
