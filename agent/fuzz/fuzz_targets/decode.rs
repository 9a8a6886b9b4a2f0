//! Headers and messages from arbitrary bytes.
#![no_main]

use libfuzzer_sys::fuzz_target;
use stacyvm_agent::protocol::message::*;
use stacyvm_agent::protocol::{HEADER_BYTES, Header, control::ControlMessage};

fuzz_target!(|bytes: &[u8]| {
    let Some(header) = bytes.first_chunk::<HEADER_BYTES>() else {
        return;
    };
    let _ = Header::decode(header);
    let payload = &bytes[HEADER_BYTES..];
    let _ = decode::<Hello>(payload);
    let _ = decode::<Welcome>(payload);
    let _ = decode::<ExecRequest>(payload);
    let _ = decode::<Execs>(payload);
    let _ = decode::<FileRequest>(payload);
    let _ = decode::<Entries>(payload);
    let _ = decode::<ProcessList>(payload);
    let _ = decode::<Failure>(payload);
    let _ = decode::<AgentConfig>(payload);
    let _ = decode::<ControlMessage>(payload);
});
