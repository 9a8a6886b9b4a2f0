//! The static program inside and beside every sandbox. Its first argument, the
//! name it is started under, says which part it plays.

use std::ffi::OsString;
use std::process::ExitCode;

fn main() -> ExitCode {
    let mut arguments = std::env::args_os();
    let name = arguments.next().unwrap_or_default();
    let name = name.to_string_lossy();
    match name.rsplit('/').next() {
        Some("stacyvm-helper") => stacyvm_agent::helper::main(),
        _ => {
            let arguments: Vec<OsString> = arguments.collect();
            stacyvm_agent::guest::main(&arguments)
        }
    }
}
