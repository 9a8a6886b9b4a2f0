<<<<<<< HEAD
//! Builds this crate's own program, static, and embeds it.
//!
//! The inner build has the feature `guest`, with which this script returns at
//! once. It gets an environment of its own: what the outer build was told
//! (flags, wrappers, profiles) would make another program, a dynamic one even.

use std::env;
use std::error::Error;
=======
//! Builds the static program of this crate and embeds its bytes.
//!
//! The inner build is this same crate with the feature `guest`; that feature
//! ends the recursion. It has a target directory of its own, so it never waits
//! for the outer build, and an environment of its own: flags meant for the
//! outer build would make the program dynamic, or of another processor.

>>>>>>> main
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;

<<<<<<< HEAD
type Result<T> = std::result::Result<T, Box<dyn Error>>;

/// The prebuilt program, for those who package.
const OVERRIDE: &str = "STACYVM_AGENT_BINARY";

fn main() -> Result<()> {
    if variable("CARGO_FEATURE_GUEST").is_some() {
        println!("cargo::rerun-if-changed=build.rs");
        println!("cargo::rustc-check-cfg=cfg(stacyvm_agent_bytes)");
        return Ok(());
    }
    for path in ["build.rs", "Cargo.toml", "src"] {
        println!("cargo::rerun-if-changed={path}");
    }
    println!("cargo::rerun-if-env-changed={OVERRIDE}");
    println!("cargo::rerun-if-env-changed=DOCS_RS");
    println!("cargo::rustc-check-cfg=cfg(stacyvm_agent_bytes)");
    let out = PathBuf::from(required("OUT_DIR")?);
    let embedded = out.join("stacyvm-agent");
    let linux = required("CARGO_CFG_TARGET_OS")? == "linux";
    if let Some(prebuilt) = variable(OVERRIDE).filter(|path| !path.is_empty()) {
        let prebuilt = PathBuf::from(prebuilt);
        println!("cargo::rerun-if-changed={}", prebuilt.display());
        let bytes = std::fs::read(&prebuilt)
            .map_err(|error| format!("{OVERRIDE}={}: {error}", prebuilt.display()))?;
        return embed(&bytes, &embedded);
    }
    if variable("DOCS_RS").is_some() || !linux {
        std::fs::write(&embedded, [])?;
        return Ok(());
    }
    let program = build(&out)?;
    embed(&std::fs::read(program)?, &embedded)
}

#[expect(clippy::disallowed_methods, reason = "cargo speaks to build scripts by variables")]
fn required(name: &str) -> Result<String> {
    env::var(name).map_err(|error| format!("{name}: {error}").into())
}

fn variable(name: &str) -> Option<OsString> {
    env::var_os(name)
}

/// Builds the program and returns where it is.
fn build(out: &Path) -> Result<PathBuf> {
    let manifest = PathBuf::from(required("CARGO_MANIFEST_DIR")?);
    let arch = required("CARGO_CFG_TARGET_ARCH")?;
    let rustc = variable("RUSTC").unwrap_or_else(|| "rustc".into());
    let musl = format!("{arch}-unknown-linux-musl");
    let (triple, flags) = if installed(&rustc, &musl) {
        (musl, "-Ctarget-feature=+crt-static")
    } else {
        (
            format!("{arch}-unknown-linux-gnu"),
            "-Ctarget-feature=+crt-static\x1f-Crelocation-model=static",
        )
    };
    let target = shared_target(out);
    let mut cargo = Command::new(variable("CARGO").unwrap_or_else(|| "cargo".into()));
    scrub(&mut cargo);
    cargo
        .current_dir(&manifest)
        .args(["build", "--release", "--quiet", "--bin", "stacyvm-agent"])
        .args(["--no-default-features", "--features", "guest"])
        .args(["--target", &triple])
        .arg("--manifest-path")
        .arg(manifest.join("Cargo.toml"))
        .arg("--target-dir")
        .arg(&target)
        .env("CARGO_ENCODED_RUSTFLAGS", flags)
        .env("CARGO_PROFILE_RELEASE_OPT_LEVEL", "3")
        .env("CARGO_PROFILE_RELEASE_LTO", "true")
        .env("CARGO_PROFILE_RELEASE_CODEGEN_UNITS", "1")
        .env("CARGO_PROFILE_RELEASE_PANIC", "abort")
        .env("CARGO_PROFILE_RELEASE_STRIP", "true")
        .env("CARGO_PROFILE_RELEASE_DEBUG", "false");
    if has_lock(&manifest) {
        // No lock file is ever written into a package.
=======
fn main() {
    for path in ["build.rs", "src", "Cargo.toml"] {
        println!("cargo::rerun-if-changed={path}");
    }
    for name in ["STACYVM_AGENT_BINARY", "DOCS_RS"] {
        println!("cargo::rerun-if-env-changed={name}");
    }
    let embedded = PathBuf::from(variable("OUT_DIR")).join("stacyvm-agent");
    let bytes = program();
    std::fs::write(&embedded, bytes)
        .unwrap_or_else(|e| panic!("cannot write {}: {e}", embedded.display()));
}

fn variable(name: &str) -> OsString {
    std::env::var_os(name).unwrap_or_else(|| panic!("cargo sets no {name}"))
}

/// The program's bytes; none where this build needs none or can make none.
fn program() -> Vec<u8> {
    let inner = std::env::var_os("CARGO_FEATURE_GUEST").is_some();
    let linux = variable("CARGO_CFG_TARGET_OS") == "linux";
    if inner || !linux || std::env::var_os("DOCS_RS").is_some() {
        return Vec::new();
    }
    let path = match std::env::var_os("STACYVM_AGENT_BINARY") {
        Some(path) => {
            println!("cargo::rerun-if-changed={}", path.display());
            PathBuf::from(path)
        }
        None => build(),
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

fn build() -> PathBuf {
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
        .args([
            "build",
            "--release",
            "--bin",
            "stacyvm-agent",
            "--no-default-features",
        ])
        .args([
            "--features",
            "guest",
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
>>>>>>> main
        cargo.arg("--locked");
    }
    let output = cargo
        .output()
<<<<<<< HEAD
        .map_err(|error| format!("{}: {error}", cargo.get_program().display()))?;
    if !output.status.success() {
        return Err(format!(
            "the agent did not build for {triple} ({}); a static C library is needed (`rustup target \
             add {arch}-unknown-linux-musl`, or the distribution's static glibc), or {OVERRIDE} \
             with the path of a prebuilt one:\n{}",
            output.status,
            String::from_utf8_lossy(&output.stderr)
        )
        .into());
    }
    Ok(target.join(triple).join("release").join("stacyvm-agent"))
}

/// One folder for all profiles, feature sets and tools: only inner builds lock it.
fn shared_target(out: &Path) -> PathBuf {
    // OUT_DIR is <target>[/<triple>]/<profile>/build/<package>-<hash>/out.
    let root = out
        .ancestors()
        .find(|path| path.file_name().is_some_and(|name| name == "build"))
        .and_then(|build| build.parent()?.parent());
    root.unwrap_or(out).join("stacyvm-agent")
}

/// Whether a lock file applies: the package's own, or one of a workspace above.
fn has_lock(manifest: &Path) -> bool {
    manifest
        .ancestors()
        .find(|folder| folder.join("Cargo.lock").exists())
        .is_some_and(|folder| folder == manifest || folder.join("Cargo.toml").exists())
}

fn installed(rustc: &OsString, triple: &str) -> bool {
    Command::new(rustc)
        .args(["--print", "target-libdir", "--target", triple])
        .output()
        .is_ok_and(|output| {
            output.status.success()
                && Path::new(String::from_utf8_lossy(&output.stdout).trim()).exists()
        })
}

fn scrub(cargo: &mut Command) {
    const KEPT: [&str; 6] = [
=======
        .unwrap_or_else(|e| panic!("cannot start the inner cargo: {e}"));
    assert!(
        output.status.success(),
        "the agent could not be built for {target}.\n{}\nInstall the static C library (Debian: libc6-dev, Fedora: \
         glibc-static), or `rustup target add {arch}-unknown-linux-musl`, or name a built program in \
         STACYVM_AGENT_BINARY.",
        String::from_utf8_lossy(&output.stderr)
    );
    directory.join(target).join("release/stacyvm-agent")
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
    target.join("stacyvm-agent")
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
>>>>>>> main
        "CARGO_HOME",
        "CARGO_NET_",
        "CARGO_REGISTR",
        "CARGO_HTTP_",
        "CARGO_SOURCE_",
<<<<<<< HEAD
        "CARGO_INCREMENTAL",
    ];
    const DROPPED: [&str; 10] = [
        "RUSTFLAGS",
        "RUSTC_WRAPPER",
        "RUSTC_WORKSPACE_WRAPPER",
        "RUSTDOC",
        "RUSTDOCFLAGS",
        "MAKEFLAGS",
        "MFLAGS",
        "LLVM_PROFILE_FILE",
        "OUT_DIR",
        "TARGET",
    ];
    for (name, _) in env::vars_os() {
        let text = name.to_string_lossy();
        let of_cargo = text.starts_with("CARGO_") && !KEPT.iter().any(|kept| text.starts_with(kept));
        if of_cargo || text.starts_with("DEP_") || DROPPED.contains(&text.as_ref()) {
            cargo.env_remove(&name);
        }
    }
}

/// Takes the program over if it needs nothing of the place where it will run.
fn embed(program: &[u8], to: &Path) -> Result<()> {
    check_static(program)?;
    std::fs::write(to, program)?;
    println!("cargo::rustc-cfg=stacyvm_agent_bytes");
    Ok(())
}

/// Refuses a program that asks for an interpreter.
fn check_static(elf: &[u8]) -> Result<()> {
    const INTERPRETER: u32 = 3;
    let number = |at: usize, size: usize| -> Result<usize> {
        let bytes = elf.get(at..at + size).ok_or("the agent is cut short")?;
        Ok(bytes
            .iter()
            .rev()
            .fold(0, |value, byte| value << 8 | usize::from(*byte)))
    };
    if elf.get(..6) != Some(b"\x7fELF\x02\x01".as_slice()) {
        return Err("the agent is no 64-bit little-endian ELF program".into());
    }
    let (table, size, count) = (number(32, 8)?, number(54, 2)?, number(56, 2)?);
    for entry in 0..count {
        if number(table + entry * size, 4)? == INTERPRETER as usize {
            return Err("the agent is not static: it asks for an interpreter".into());
        }
    }
    Ok(())
=======
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
>>>>>>> main
}
