//! Archives that tests make.

use stacyvm_agent::guest::files::tar::{self, Record};

/// An archive of files, with a trailer.
pub(crate) fn archive(names: &[(&str, &[u8])]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for (name, content) in names {
        let record = Record {
            letter: b'0',
            name: name.as_bytes(),
            link: b"",
            size: content.len() as u64,
            mode: 0o644,
            uid: 0,
            gid: 0,
            modified_s: 1,
            modified_ns: 0,
            owner: "",
            group: "",
        };
        tar::encode(&record, &mut bytes);
        bytes.extend_from_slice(content);
        tar::pad(&mut bytes, content.len() as u64);
    }
    bytes.extend_from_slice(&[0; 1024]);
    bytes
}
