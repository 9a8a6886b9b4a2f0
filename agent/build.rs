//! Builds the static programs of this crate and embeds their bytes.
//!
//! The inner build is this same crate with the feature `guest`, or `probe` for
//! the attacks of the escape suite; these features end the recursion. It has a
//! target directory of its own, so it never waits for the outer build, and an
//! environment of its own: flags meant for the outer build would make the
//! program dynamic, or of another processor.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;

fn main() {
    for path in ["build.rs", "src", "Cargo.toml"] {
        println!("cargo::rerun-if-changed={path}");
    }
    println!("cargo::rerun-if-env-changed=DOCS_RS");
    let guest = if with("FAULTS") {
        "guest,faults"
    } else {
        "guest"
    };
    embed("stacyvm-agent", guest, "STACYVM_AGENT_BINARY");
    if with("PROBES") {
        embed("stacyvm-probe", "probe", "STACYVM_PROBE_BINARY");
    }
}

/// Embeds a program: the one that a variable names, else one that is built.
fn embed(name: &str, features: &str, instead: &str) {
    println!("cargo::rerun-if-env-changed={instead}");
    let embedded = PathBuf::from(variable("OUT_DIR")).join(name);
    std::fs::write(&embedded, program(name, features, instead))
        .unwrap_or_else(|e| panic!("cannot write {}: {e}", embedded.display()));
}

fn variable(name: &str) -> OsString {
    std::env::var_os(name).unwrap_or_else(|| panic!("cargo sets no {name}"))
}

/// The program's bytes; none where this build needs none or can make none.
fn program(name: &str, features: &str, instead: &str) -> Vec<u8> {
    let inner = with("GUEST") || with("PROBE");
    let linux = variable("CARGO_CFG_TARGET_OS") == "linux";
    if inner || !linux || std::env::var_os("DOCS_RS").is_some() {
        return Vec::new();
    }
    let path = match std::env::var_os(instead) {
        Some(path) => {
            println!("cargo::rerun-if-changed={}", path.display());
            PathBuf::from(path)
        }
        None => build(name, features, instead),
    };
    let bytes =
        std::fs::read(&path).unwrap_or_else(|e| panic!("cannot read {}: {e}", path.display()));
    assert!(
        is_static(&bytes),
        "{} is no static 64-bit ELF program",
        path.display()
    );
    bytes
}

fn build(name: &str, features: &str, instead: &str) -> PathBuf {
    let outer = variable("TARGET")
        .into_string()
        .expect("a target is plain text");
    let arch = variable("CARGO_CFG_TARGET_ARCH")
        .into_string()
        .expect("an architecture is plain text");
    let musl = format!("{arch}-unknown-linux-musl");
    let (target, flags) = if is_installed(&musl) {
        (musl, String::new())
    } else {
        let flags = ["-Ctarget-feature=+crt-static", "-Crelocation-model=static"];
        (outer, flags.join("\x1f"))
    };
    let directory = target_directory();
    let package = PathBuf::from(variable("CARGO_MANIFEST_DIR"));
    let mut cargo = Command::new(variable("CARGO"));
    for (name, _) in std::env::vars_os() {
        if is_for_outer_build(&name.to_string_lossy()) {
            cargo.env_remove(name);
        }
    }
    cargo
        .args(["build", "--release", "--bin", name, "--no-default-features"])
        .args([
            "--features",
            features,
            "--target",
            &target,
            "--manifest-path",
        ])
        .arg(package.join("Cargo.toml"))
        .arg("--target-dir")
        .arg(&directory)
        .env("CARGO_ENCODED_RUSTFLAGS", flags)
        .env("CARGO_PROFILE_RELEASE_OPT_LEVEL", "s")
        .env("CARGO_PROFILE_RELEASE_LTO", "fat")
        .env("CARGO_PROFILE_RELEASE_CODEGEN_UNITS", "1")
        .env("CARGO_PROFILE_RELEASE_PANIC", "abort")
        .env("CARGO_PROFILE_RELEASE_STRIP", "symbols")
        .env("CARGO_PROFILE_RELEASE_DEBUG", "false");
    // A lock file that is there stays as it is: a package must not be changed
    // by its own build.
    if package
        .ancestors()
        .take(2)
        .any(|p| p.join("Cargo.lock").exists())
    {
        cargo.arg("--locked");
    }
    let output = cargo
        .output()
        .unwrap_or_else(|e| panic!("cannot start the inner cargo: {e}"));
    assert!(
        output.status.success(),
        "{name} could not be built for {target}.\n{}\nInstall the static C library (Debian: libc6-dev, Fedora: \
         glibc-static), or `rustup target add {arch}-unknown-linux-musl`, or name a built program in \
         {instead}.",
        String::from_utf8_lossy(&output.stderr)
    );
    directory.join(target).join("release").join(name)
}

/// One directory for all inner builds below the outer target directory.
fn target_directory() -> PathBuf {
    let out = PathBuf::from(variable("OUT_DIR"));
    let build = out
        .ancestors()
        .find(|p| p.file_name().is_some_and(|n| n == "build"));
    let target = build
        .and_then(Path::parent)
        .and_then(Path::parent)
        .unwrap_or(&out);
    target.join(if with("FAULTS") {
        "stacyvm-agent-faults"
    } else {
        "stacyvm-agent"
    })
}

/// Whether this crate is built with a feature.
fn with(feature: &str) -> bool {
    std::env::var_os(format!("CARGO_FEATURE_{feature}")).is_some()
}

/// Whether the standard library of a target is installed.
fn is_installed(target: &str) -> bool {
    Command::new(variable("RUSTC"))
        .args(["--print", "target-libdir", "--target", target])
        .output()
        .is_ok_and(|o| {
            o.status.success() && Path::new(String::from_utf8_lossy(&o.stdout).trim()).is_dir()
        })
}

/// Whether a variable steers the outer build and must not reach the inner one.
/// Where crates come from is the same for both.
fn is_for_outer_build(name: &str) -> bool {
    const SHARED: [&str; 6] = [
        "CARGO_HOME",
        "CARGO_NET_",
        "CARGO_REGISTR",
        "CARGO_HTTP_",
        "CARGO_SOURCE_",
        "CARGO_TERM_",
    ];
    const OTHERS: [&str; 5] = [
        "RUSTFLAGS",
        "MAKEFLAGS",
        "MFLAGS",
        "LLVM_PROFILE_FILE",
        "__CARGO_DEFAULT_LIB_METADATA",
    ];
    (name.starts_with("CARGO") && !SHARED.iter().any(|s| name.starts_with(s)))
        || (name.starts_with("RUSTC") || name.starts_with("RUSTDOC"))
        || OTHERS.contains(&name)
}

/// Whether the bytes are a 64-bit ELF program that needs no interpreter.
fn is_static(elf: &[u8]) -> bool {
    const PT_INTERP: u32 = 3;
    let number = |at: usize, length: usize| {
        elf.get(at..at + length)
            .map(|bytes| {
                bytes
                    .iter()
                    .rev()
                    .fold(0_u64, |n, b| n << 8 | u64::from(*b))
            })
            .and_then(|n| usize::try_from(n).ok())
    };
    let (Some(headers), Some(size), Some(count)) = (number(32, 8), number(54, 2), number(56, 2))
    else {
        return false;
    };
    elf.starts_with(b"\x7fELF\x02\x01")
        && (0..count)
            .all(|n| number(headers + n * size, 4).is_some_and(|kind| kind != PT_INTERP as usize))
}
