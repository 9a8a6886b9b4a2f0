//! Writes headers.

use super::header::{self, Block, field};
use super::{BLOCK, pax};

/// The highest number of a field of seven and of eleven octal digits.
const SEVEN_DIGITS: u64 = 0o777_7777;
const ELEVEN_DIGITS: u64 = 0o777_7777_7777;
/// The longest user or group name of the plain header, with its NUL.
const NAME_FIELD: usize = 32;

/// What a header says. As [`super::Member`], with the type as its letter.
#[derive(Clone, Debug)]
pub struct Record<'a> {
    /// The type of the member.
    pub letter: u8,
    /// Its name.
    pub name: &'a [u8],
    /// What a link points to.
    pub link: &'a [u8],
    /// Bytes of content.
    pub size: u64,
    /// Permission bits.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Seconds since the epoch of the last change.
    pub modified_s: i64,
    /// Nanoseconds of that time.
    pub modified_ns: u32,
    /// Name of the owner; may be empty.
    pub owner: &'a str,
    /// Name of the group; may be empty.
    pub group: &'a str,
}

/// Appends the headers of a member.
pub fn encode(record: &Record<'_>, to: &mut Vec<u8>) {
    let extended = extended(record);
    if !extended.is_empty() {
        let about = Record {
            letter: b'x',
            name: b"PaxHeaders/member",
            link: b"",
            size: extended.len() as u64,
            mode: 0o644,
            uid: 0,
            gid: 0,
            modified_s: 0,
            modified_ns: 0,
            owner: "",
            group: "",
        };
        to.extend_from_slice(&plain(&about));
        to.extend_from_slice(&extended);
        pad(to, extended.len() as u64);
    }
    to.extend_from_slice(&plain(record));
}

/// Fills up the last block of `size` bytes of content.
pub fn pad(to: &mut Vec<u8>, size: u64) {
    let over = usize::try_from(size % BLOCK as u64).unwrap_or(0);
    if over > 0 {
        to.resize(to.len() + BLOCK - over, 0);
    }
}

/// The records that the plain header has no room for.
fn extended(record: &Record<'_>) -> Vec<u8> {
    let mut out = Vec::new();
    let text = |out: &mut Vec<u8>, key, value: &[u8], room| {
        if value.len() > room {
            pax::push(out, key, value);
        }
    };
    // Names are bytes, as in GNU tar: that they are UTF-8 is not checked and
    // not declared, as few readers know the record that would tell otherwise.
    text(&mut out, "path", record.name, field::NAME.1);
    text(&mut out, "linkpath", record.link, field::LINK.1);
    text(&mut out, "uname", record.owner.as_bytes(), NAME_FIELD - 1);
    text(&mut out, "gname", record.group.as_bytes(), NAME_FIELD - 1);
    let number = |out: &mut Vec<u8>, key, value: u64, most| {
        if value > most {
            pax::push(out, key, value.to_string().as_bytes());
        }
    };
    number(&mut out, "size", record.size, ELEVEN_DIGITS);
    number(&mut out, "uid", u64::from(record.uid), SEVEN_DIGITS);
    number(&mut out, "gid", u64::from(record.gid), SEVEN_DIGITS);
    let whole = u64::try_from(record.modified_s).is_ok_and(|seconds| seconds <= ELEVEN_DIGITS);
    if !whole || record.modified_ns != 0 {
        pax::push(
            &mut out,
            "mtime",
            time(record.modified_s, record.modified_ns).as_bytes(),
        );
    }
    out
}

fn time(seconds: i64, nanoseconds: u32) -> String {
    if nanoseconds == 0 {
        return seconds.to_string();
    }
    if seconds >= 0 {
        return format!("{seconds}.{nanoseconds:09}");
    }
    format!(
        "-{}.{:09}",
        (seconds + 1).unsigned_abs(),
        1_000_000_000 - nanoseconds
    )
}

fn plain(record: &Record<'_>) -> Block {
    let mut block = [0; BLOCK];
    let mut put = |(at, length): field::Field, bytes: &[u8]| {
        let count = bytes.len().min(length);
        block[at..at + count].copy_from_slice(&bytes[..count]);
    };
    // What does not fit stands in the extended header, and as 0 here.
    let fit = |value: u64, most| if value > most { 0 } else { value };
    let seven = |value| format!("{:07o}\0", fit(value, SEVEN_DIGITS));
    let eleven = |value| format!("{:011o}\0", fit(value, ELEVEN_DIGITS));
    let short = |name: &str| name.as_bytes()[..name.len().min(NAME_FIELD - 1)].to_vec();
    put(field::NAME, record.name);
    put(field::MODE, seven(u64::from(record.mode)).as_bytes());
    put(field::UID, seven(u64::from(record.uid)).as_bytes());
    put(field::GID, seven(u64::from(record.gid)).as_bytes());
    put(field::SIZE, eleven(record.size).as_bytes());
    let seconds = u64::try_from(record.modified_s).unwrap_or(0);
    put(field::MTIME, eleven(seconds).as_bytes());
    put((field::TYPE, 1), &[record.letter]);
    put(field::LINK, record.link);
    put(field::MAGIC, b"ustar\0");
    put(field::VERSION, b"00");
    put(field::USER, &short(record.owner));
    put(field::GROUP, &short(record.group));
    header::seal(&mut block);
    block
}
