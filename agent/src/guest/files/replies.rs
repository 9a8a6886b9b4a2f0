//! Sends frames; gathers the entries of listings into batches.

use crate::protocol::Kind;
use crate::protocol::message::{self, Entries, Entry, WatchEvent};

/// Bytes of entries at which a batch is sent: with its last entry it stays
/// below 64 KiB, as long as no path is longer than the system allows.
const BATCH_BYTES: usize = 48 * 1024;
/// What an entry needs at most beside its path, target and names.
const ENTRY_BYTES: usize = 64;

pub(super) struct Replies<'a> {
    send: &'a mut dyn FnMut(Kind, &[u8]),
    batch: Vec<Entry>,
    bytes: usize,
}

impl<'a> Replies<'a> {
    pub(super) fn new(send: &'a mut dyn FnMut(Kind, &[u8])) -> Self {
        Self {
            send,
            batch: Vec::new(),
            bytes: 0,
        }
    }

    /// Sends a frame, after what was gathered.
    pub(super) fn send(&mut self, kind: Kind, payload: &[u8]) {
        self.flush();
        (self.send)(kind, payload);
    }

    /// Adds an entry to the batch.
    pub(super) fn entry(&mut self, entry: Entry) {
        let text = |name: &Option<String>| name.as_ref().map_or(0, String::len);
        let bytes = ENTRY_BYTES
            + entry.path.len()
            + entry.target.as_ref().map_or(0, |target| target.len())
            + text(&entry.user)
            + text(&entry.group);
        if self.bytes + bytes > BATCH_BYTES {
            self.flush();
        }
        self.bytes += bytes;
        self.batch.push(entry);
    }

    pub(super) fn event(&mut self, event: &WatchEvent) {
        self.send(Kind::WatchEvent, &message::encode(event));
    }

    fn flush(&mut self) {
        if !self.batch.is_empty() {
            let entries = Entries {
                entries: std::mem::take(&mut self.batch),
            };
            self.bytes = 0;
            (self.send)(Kind::Entries, &message::encode(&entries));
        }
    }
}
