//! Certificates of a made-up authority, and the programs that make them.

use std::path::Path;
use std::process::{Command, Stdio};

pub(crate) fn has(program: &str) -> bool {
    let found = Command::new("sh")
        .args(["-c", &format!("command -v {program}")])
        .stdout(Stdio::null())
        .status();
    found.is_ok_and(|status| status.success())
}

pub(crate) fn run(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output().unwrap();
    assert!(
        output.status.success(),
        "{program}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout).unwrap()
}

/// Makes `ca.pem`, and `server.pem` with its key, for 127.0.0.1 and registry.test.
pub(crate) fn make_certificates(home: &Path) {
    let at = |name: &str| home.join(name).display().to_string();
    let extensions = "basicConstraints=CA:FALSE\nsubjectAltName=IP:127.0.0.1,DNS:registry.test\nextendedKeyUsage=serverAuth\n";
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
