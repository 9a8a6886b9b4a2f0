//! Archives from arbitrary bytes, read as an import reads them.
#![no_main]

use libfuzzer_sys::fuzz_target;
use stacyvm_agent::guest::files::tar::Reader;

fuzz_target!(|bytes: &[u8]| {
    let mut reader = Reader::new(bytes);
    let mut buffer = [0; 4096];
    while let Ok(Some(_)) = reader.next_member() {
        while let Ok(1..) = reader.read(&mut buffer) {}
    }
});
