//! What a host may send on an accepted connection, as arbitrary bytes.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| stacyvm_agent::guest::feed(bytes));
