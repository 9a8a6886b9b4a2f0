//! Which Docker engine the command line uses where nobody names one.
#![allow(clippy::unwrap_used, clippy::print_stderr, reason = "a test")]

mod support;

use std::path::Path;
use std::process::Output;

use support::{Cli, cli, shown};

/// The SHA-256 of `mine`, as Docker names the directory of a context.
const MINE: &str = "3fd30542fe3f61b14bd4a4b2dc0b6fb30fa6f63ebce52dd1778aaa8c4dc02cff";

fn write(path: &Path, text: &str) {
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(path, text).unwrap();
}

/// Runs a command in a sandbox of the docker provider, with these variables alone.
fn run(cli: &Cli, home: &Path, variables: &[(&str, &str)]) -> Output {
    let mut command = cli.command();
    for name in [
        "DOCKER_CONTEXT",
        "DOCKER_CONFIG",
        "DOCKER_CERT_PATH",
        "DOCKER_TLS_VERIFY",
    ] {
        command.env_remove(name);
    }
    command.env("HOME", home).env("XDG_RUNTIME_DIR", home);
    command.envs(variables.iter().copied());
    command.args([
        "run",
        "--provider",
        "docker",
        "--image",
        "stacyvm-test/busybox",
    ]);
    command.args(["--", "echo", "inside"]).output().unwrap()
}

#[test]
fn the_context_of_the_docker_command_line_is_used() {
    let Some(engine) = std::env::var_os("STACYVM_TEST_DOCKER_HOST") else {
        eprintln!("not run: no docker engine (STACYVM_TEST_DOCKER_HOST)");
        return;
    };
    let engine = engine.into_string().unwrap();
    let (cli, home) = (cli(), tempfile::tempdir().unwrap());
    let docker = home.path().join(".docker");
    let meta = format!(r#"{{"Name":"mine","Endpoints":{{"docker":{{"Host":"{engine}"}}}}}}"#);
    write(
        &docker.join("contexts/meta").join(MINE).join("meta.json"),
        &meta,
    );
    write(&docker.join("config.json"), r#"{"currentContext":"mine"}"#);
    let output = run(&cli, home.path(), &[]);
    assert_eq!(output.stdout, b"inside\n", "{}", shown(&output));

    // One that is not there is told, whatever engine there is elsewhere.
    let output = run(&cli, home.path(), &[("DOCKER_CONTEXT", "absent")]);
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(125), "{said}");
    assert!(
        said.contains("absent") && said.contains("default, mine"),
        "{said}"
    );

    // And what is named wins over it.
    let output = run(
        &cli,
        home.path(),
        &[("DOCKER_HOST", "unix:///no/such.sock")],
    );
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(125), "{said}");
    assert!(said.contains("/no/such.sock"), "{said}");
    let output = run(&cli, home.path(), &[("DOCKER_HOST", "ssh://me@far")]);
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("ssh -N -L"), "{said}");
}

#[test]
fn certificates_are_taken_from_the_settings_and_from_the_environment() {
    let (cli, home) = (cli(), tempfile::tempdir().unwrap());
    let file = home.path().join("stacyvm.yaml");
    let certs = home.path().join("certs");
    let of = |host: &str| {
        let certs = certs.display();
        write(
            &file,
            &format!("providers:\n  docker: {{kind: docker, {host}certs: {certs}}}\n"),
        );
        let named = file.display().to_string();
        let output = run(&cli, home.path(), &[("STACYVM_CONFIG", &named)]);
        String::from_utf8_lossy(&output.stderr).into_owned()
    };
    let said = of("");
    assert!(said.contains("providers.docker.certs"), "{said}");
    let said = of("host: 'tcp://127.0.0.1:1', ");
    assert!(said.contains("ca.pem"), "{said}");
    let directory = certs.display().to_string();
    let variables = [
        ("DOCKER_HOST", "tcp://127.0.0.1:1"),
        ("DOCKER_TLS_VERIFY", "1"),
        ("DOCKER_CERT_PATH", directory.as_str()),
    ];
    let output = run(&cli, home.path(), &variables);
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("ca.pem") && said.contains("certs"), "{said}");
}
