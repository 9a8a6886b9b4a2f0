//! The program inside containers of Docker: what works where enough is allowed,
//! and one error that names cause and remedy where not. Nothing of this crate
//! is in the image: the host's program and libraries are mounted.

use std::process::Command;

const OPEN: [&str; 4] = [
    "--security-opt",
    "seccomp=unconfined",
    "--security-opt",
    "systempaths=unconfined",
];
const RIGHTS: [&str; 4] = ["--cap-add", "SYS_ADMIN", "--cap-add", "SYS_PTRACE"];
const USER: [&str; 4] = ["--user", "1000:1000", "--env", "HOME=/tmp"];

struct Case {
    options: Vec<&'static str>,
    /// What the error tells; nothing where a command runs.
    told: &'static [&'static str],
}

fn case(options: &[&[&'static str]], told: &'static [&'static str]) -> Case {
    let options = options.concat();
    Case { options, told }
}

#[test]
fn a_container_runs_sandboxes_or_says_what_it_lacks() {
    let Some(engine) = std::env::var_os("STACYVM_TEST_DOCKER_HOST") else {
        eprintln!("not run: no docker engine (STACYVM_TEST_DOCKER_HOST)");
        return;
    };
    if Command::new("docker").arg("--version").output().is_err() {
        eprintln!("not run: no docker client");
        return;
    }
    let cases = [
        case(
            &[],
            &["lacks CAP_SYS_ADMIN, CAP_SYS_PTRACE", "--cap-add SYS_ADMIN"],
        ),
        case(&[&OPEN], &["lacks CAP_SYS_ADMIN", "as an ordinary user"]),
        case(&[&RIGHTS], &["/proc", "systempaths=unconfined"]),
        case(&[&RIGHTS, &OPEN], &[]),
        case(&[&USER], &["in the container", "seccomp=unconfined"]),
        case(&[&USER, &OPEN], &[]),
    ];
    let program = format!("{}:/stacyvm:ro", env!("CARGO_BIN_EXE_stacyvm"));
    let mut failed = Vec::new();
    for Case { options, told } in cases {
        let mut docker = Command::new("docker");
        docker.env("DOCKER_HOST", &engine);
        docker.args(["run", "--rm", "--volume", &program]);
        for directory in ["/usr", "/lib", "/lib64"] {
            docker.args(["--volume", &format!("{directory}:{directory}:ro")]);
        }
        docker.args(&options).args([
            "stacyvm-test/busybox",
            "/stacyvm",
            "run",
            "--",
            "/usr/bin/id",
            "-u",
        ]);
        let output = docker.output().expect("docker runs");
        let said = String::from_utf8_lossy(&output.stderr);
        let code = output.status.code();
        let fine = if told.is_empty() {
            code == Some(0) && output.stdout == b"1000\n"
        } else {
            code == Some(125)
                && said.contains("the embedded provider cannot run here")
                && told.iter().all(|words| said.contains(words))
        };
        if !fine {
            failed.push(format!("{options:?}: {code:?} {said}"));
        }
    }
    assert!(failed.is_empty(), "{}", failed.join("\n"));
}
