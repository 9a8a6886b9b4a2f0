//! The static program inside and beside every sandbox. Its first name, or the
//! word that follows, says which part it plays.

use std::ffi::OsStr;
use std::path::Path;
use std::process::ExitCode;

fn main() -> ExitCode {
    // Kept in the program, so that its processes are told by it.
    std::hint::black_box(stacyvm_agent::helper_protocol::PROGRAM_MARK);
    let mut arguments = std::env::args_os();
    let name = arguments.next().unwrap_or_default();
    if Path::new(&name).file_name() == Some(OsStr::new("stacyvm-helper")) {
        return stacyvm_agent::helper::main();
    }
    match arguments.next() {
        // Where whoever starts it cannot choose its first name.
        Some(word) if word == "helper" => stacyvm_agent::helper::main(),
        Some(word) if word == "bridge" => {
            let path = arguments.next().unwrap_or_default();
            stacyvm_agent::guest::bridge(&path)
        }
        Some(word) if word == "boot-id" => stacyvm_agent::guest::boot_id(),
        Some(word) if word == "--stdin" => stacyvm_agent::guest::main(true),
        _ => stacyvm_agent::guest::main(false),
    }
}
