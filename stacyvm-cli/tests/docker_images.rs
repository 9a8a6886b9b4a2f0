//! Images of a Docker engine on the command line: the engine that
//! `STACYVM_TEST_DOCKER_HOST` names.
#![allow(
    dead_code,
    clippy::unwrap_used,
    clippy::print_stderr,
    reason = "tests, with parts that others use more of"
)]

mod support;

use std::ffi::OsStr;
use std::process::{Command, Output};

use support::cli;

fn docker(engine: &OsStr, arguments: &[&str]) -> String {
    let mut docker = Command::new("docker");
    let output = docker.env("DOCKER_HOST", engine).args(arguments).output();
    let output = output.unwrap();
    assert!(output.status.success(), "docker {arguments:?}: {output:?}");
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

#[test]
fn a_run_without_a_command_runs_the_images() {
    let Some(engine) = std::env::var_os("STACYVM_TEST_DOCKER_HOST") else {
        eprintln!("not run: no docker engine (STACYVM_TEST_DOCKER_HOST)");
        return;
    };
    if Command::new("docker").arg("--version").output().is_err() {
        eprintln!("not run: no docker client");
        return;
    }
    let cli = cli();
    let run = |arguments: &[&str]| -> Output {
        let mut command = cli.command();
        command.env("DOCKER_HOST", &engine);
        command
            .args(["run", "--provider", "docker"])
            .args(arguments);
        command.output().unwrap()
    };
    let container = docker(&engine, &["create", "stacyvm-test/busybox"]);
    let name = format!("stacyvm-test/command:{}", &container[..12]);
    let made = |changes: [&str; 2]| {
        let [entrypoint, command] = changes;
        let changes = ["--change", entrypoint, "--change", command];
        let arguments = [&["commit"], &changes[..], &[&container, &name]].concat();
        docker(&engine, &arguments);
    };
    made(["ENTRYPOINT [\"/bin/echo\", \"of  the\"]", "CMD [\"image\"]"]);
    let output = run(&["--image", &name]);
    assert_eq!(output.stdout, b"of  the image\n", "{output:?}");
    let output = run(&["--image", &name, "--", "echo", "mine"]);
    assert_eq!(output.stdout, b"mine\n", "{output:?}");
    // One that says nothing of commands.
    let import = format!("docker export {container} | docker import - {name}");
    let mut shell = Command::new("sh");
    let imported = shell.env("DOCKER_HOST", &engine).args(["-c", &import]);
    assert!(imported.output().unwrap().status.success());
    let output = run(&["--image", &name]);
    assert_eq!(output.status.code(), Some(125), "{output:?}");
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(said.contains("no COMMAND was given"), "{said}");

    docker(&engine, &["rm", &container]);
    docker(&engine, &["rmi", "--force", &name]);
    let output = run(&["--pull", "never", "--image", &name, "--", "true"]);
    assert_eq!(output.status.code(), Some(125), "{output:?}");
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(said.contains(&format!("docker pull {name}")), "{said}");
}
