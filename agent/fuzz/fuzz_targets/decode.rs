//! Headers and messages from arbitrary bytes. What is understood can be said
//! again, and is understood again.
#![no_main]

use libfuzzer_sys::fuzz_target;
use stacyvm_agent::helper_protocol::{FromHelper, Launch, MonitorRequest, Park};
use stacyvm_agent::protocol::message::*;
use stacyvm_agent::protocol::{HEADER_BYTES, Header, control::ControlMessage};

macro_rules! say_again {
    ($payload:ident: $($message:ty),* $(,)?) => {
        $(if let Ok(message) = decode::<$message>($payload) {
            let again = encode(&message);
            assert!(decode::<$message>(&again).is_ok(), "{message:?} as {again:?}");
        })*
    };
}

fuzz_target!(|bytes: &[u8]| {
    let Some(header) = bytes.first_chunk::<HEADER_BYTES>() else {
        return;
    };
    if let Ok(header) = Header::decode(header) {
        assert_eq!(Header::decode(&header.encode()), Ok(header));
    }
    let payload = &bytes[HEADER_BYTES..];
    say_again!(payload:
        Hello, Welcome, DeadlineRequest, Credit, Failure, AgentConfig, ExecRequest, AttachRequest,
        SignalRequest, ResizeRequest, Started, Exited, Execs, Lost, Entry, Entries, FileRequest,
        ReadRequest, WriteRequest, ExportRequest, ImportRequest, PortRequest, Listening, Accepted,
        ProcessList, UsageReport, WatchRequest, WatchEvent, ControlMessage,
        Park, Launch, MonitorRequest, FromHelper,
    );
});
