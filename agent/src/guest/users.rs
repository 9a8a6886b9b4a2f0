//! Users and groups of the sandbox, from its own `/etc/passwd` and `/etc/group`.
//!
//! The files belong to the guest: they are read with a bound, only if regular,
//! and a line that makes no sense is skipped.

use std::cell::RefCell;
use std::collections::BTreeMap;

use minicbor::bytes::ByteVec;
use rustix::fs::{CWD, FileType, Mode, OFlags, fstat, openat};

use crate::protocol::message::{Failure, FailureKind};

const PASSWD: &str = "/etc/passwd";
const GROUP: &str = "/etc/group";
/// Bytes of each file that are looked at.
const MAX_BYTES: usize = 4 * 1024 * 1024;
/// Groups that an account has at most.
const MAX_GROUPS: usize = 256;
/// The longest `user:group` text.
const MAX_TEXT: usize = 512;

/// Whom a command or a file operation runs as.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Account {
    /// User number.
    pub uid: u32,
    /// Primary group number.
    pub gid: u32,
    /// The user's name, where it has one.
    pub name: Option<String>,
    /// Home directory, absolute; `/` where none is known.
    pub home: Vec<u8>,
    /// Supplementary groups, without `gid`.
    pub groups: Vec<u32>,
}

/// Finds the account of `name`, `uid`, `name:group` or `uid:gid`.
///
/// A number without an account is accepted, with group 0 unless one is named
/// and `/` as its home. A name that looks like a number is a name if an
/// account has it. A named group replaces the primary one and leaves no
/// supplementary groups. `root` is user 0 even where no file says so.
///
/// # Errors
///
/// `Invalid` for a text of another form, `NotFound` for an unknown name.
pub fn resolve(text: &str) -> Result<Account, Failure> {
    resolve_in(text, &read(PASSWD), &read(GROUP))
}

/// The number of a user given by name or number.
///
/// # Errors
///
/// As [`resolve`].
pub fn user_number(text: &str) -> Result<u32, Failure> {
    check(text, text)?;
    find_user(text, &read(PASSWD)).map(|user| user.uid)
}

/// The number of a group given by name or number.
///
/// # Errors
///
/// As [`resolve`].
pub fn group_number(text: &str) -> Result<u32, Failure> {
    check(text, text)?;
    find_group(text, &read(GROUP))
}

/// The name of a user, where it has one. The file is read once by each thread.
pub fn user_name(uid: u32) -> Option<String> {
    cached(uid, PASSWD, &USERS)
}

/// The name of a group, where it has one. The file is read once by each thread.
pub fn group_name(gid: u32) -> Option<String> {
    cached(gid, GROUP, &GROUPS)
}

type Names = RefCell<Option<BTreeMap<u32, String>>>;

thread_local! {
    static USERS: Names = const { RefCell::new(None) };
    static GROUPS: Names = const { RefCell::new(None) };
}

fn cached(number: u32, file: &str, names: &'static std::thread::LocalKey<Names>) -> Option<String> {
    names.with_borrow_mut(|names| {
        let names = names.get_or_insert_with(|| {
            let mut all = BTreeMap::new();
            for (name, fields) in lines(&read(file)) {
                // User and group number both stand in the third field.
                if let Some(number) = fields.get(1).and_then(|field| number_of(field)) {
                    all.entry(number).or_insert_with(|| name.to_owned());
                }
            }
            all
        });
        names.get(&number).cloned()
    })
}

fn resolve_in(text: &str, passwd: &[u8], group: &[u8]) -> Result<Account, Failure> {
    let (user, wanted_group) = match text.split_once(':') {
        Some((user, group)) => (user, Some(group)),
        None => (text, None),
    };
    check(user, text)?;
    let mut account = find_user(user, passwd)?;
    if let Some(wanted) = wanted_group {
        check(wanted, text)?;
        account.gid = find_group(wanted, group)?;
    } else if let Some(name) = &account.name {
        account.groups = member_of(name, account.gid, group);
    }
    Ok(account)
}

fn find_user(user: &str, passwd: &[u8]) -> Result<Account, Failure> {
    let number = number_of(user.as_bytes());
    let mut by_number = None;
    for (name, fields) in lines(passwd) {
        let (Some(uid), Some(gid)) = (
            fields.get(1).and_then(|field| number_of(field)),
            fields.get(2).and_then(|field| number_of(field)),
        ) else {
            continue;
        };
        let account = || Account {
            uid,
            gid,
            name: Some(name.to_owned()),
            home: fields
                .get(4)
                .filter(|home| home.starts_with(b"/") && !home.contains(&0))
                .map_or_else(|| b"/".to_vec(), |home| home.to_vec()),
            groups: Vec::new(),
        };
        if name == user {
            return Ok(account());
        }
        if number == Some(uid) && by_number.is_none() {
            by_number = Some(account());
        }
    }
    if let Some(account) = by_number {
        return Ok(account);
    }
    let uid = match (number, user) {
        (Some(uid), _) => uid,
        (None, "root") => 0,
        (None, _) => return Err(unknown("user", user)),
    };
    Ok(Account {
        uid,
        gid: 0,
        name: (user == "root").then(|| "root".to_owned()),
        home: b"/".to_vec(),
        groups: Vec::new(),
    })
}

fn find_group(wanted: &str, group: &[u8]) -> Result<u32, Failure> {
    for (name, fields) in lines(group) {
        if name == wanted
            && let Some(gid) = fields.get(1).and_then(|field| number_of(field))
        {
            return Ok(gid);
        }
    }
    match (number_of(wanted.as_bytes()), wanted) {
        (Some(gid), _) => Ok(gid),
        (None, "root") => Ok(0),
        (None, _) => Err(unknown("group", wanted)),
    }
}

fn member_of(user: &str, primary: u32, group: &[u8]) -> Vec<u32> {
    let mut groups = Vec::new();
    for (_, fields) in lines(group) {
        let member = fields.get(2).is_some_and(|members| {
            members
                .split(|byte| *byte == b',')
                .any(|member| member == user.as_bytes())
        });
        if let Some(gid) = fields.get(1).and_then(|field| number_of(field))
            && member
            && gid != primary
            && !groups.contains(&gid)
            && groups.len() < MAX_GROUPS
        {
            groups.push(gid);
        }
    }
    groups
}

/// Name and further fields of each line that has a name.
fn lines(file: &[u8]) -> impl Iterator<Item = (&str, Vec<&[u8]>)> {
    file.split(|byte| *byte == b'\n').filter_map(|line| {
        let mut fields = line.split(|byte| *byte == b':');
        let name = std::str::from_utf8(fields.next()?).ok()?;
        let named = !name.is_empty() && !name.starts_with(['#', '+', '-']);
        named.then(|| (name, fields.take(6).collect()))
    })
}

/// A decimal number that can be an id; the highest means "none" to the system.
fn number_of(text: &[u8]) -> Option<u32> {
    if text.is_empty() || !text.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let number = std::str::from_utf8(text).ok()?.parse().ok()?;
    (number != u32::MAX).then_some(number)
}

fn check(part: &str, whole: &str) -> Result<(), Failure> {
    let ordinary = |c: char| !c.is_control() && !c.is_whitespace() && c != ':' && c != '/';
    if part.is_empty() || whole.len() > MAX_TEXT || !part.chars().all(ordinary) {
        return Err(Failure {
            kind: FailureKind::Invalid,
            message: "user is not of the form `name`, `uid`, `name:group` or `uid:gid`".to_owned(),
            subject: Some(subject(whole)),
            errno: None,
        });
    }
    Ok(())
}

fn unknown(what: &str, name: &str) -> Failure {
    Failure {
        kind: FailureKind::NotFound,
        message: format!(
            "no such {what} in the sandbox; use a number, or a name of its /etc/{}",
            if what == "user" { "passwd" } else { "group" },
        ),
        subject: Some(subject(name)),
        errno: None,
    }
}

fn subject(text: &str) -> ByteVec {
    ByteVec::from(text.as_bytes()[..text.len().min(MAX_TEXT)].to_vec())
}

/// Reads a regular file up to the bound; anything else is as if it were empty.
fn read(file: &str) -> Vec<u8> {
    let mut content = Vec::new();
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let Ok(open) = openat(CWD, file, flags, Mode::empty()) else {
        return content;
    };
    let regular = fstat(&open)
        .is_ok_and(|stat| FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile);
    // Most are small, and more room costs more than the file.
    let mut buffer = vec![0; 4 * 1024];
    while regular && content.len() < MAX_BYTES {
        match rustix::io::read(&open, &mut buffer[..]) {
            Ok(0) => break,
            Ok(count) => {
                content.extend_from_slice(&buffer[..count]);
                if count == buffer.len() {
                    buffer.resize(64 * 1024, 0);
                }
            }
            Err(rustix::io::Errno::INTR) => {}
            Err(_) => break,
        }
    }
    content.truncate(MAX_BYTES);
    content
}

#[cfg(test)]
mod tests {
    use super::*;

    const PASSWD: &[u8] = b"root:x:0:0:root:/root:/bin/sh\n\
        # comment:x:9:9::/:/\n\
        ada:x:1000:1001:Ada,,,:/home/ada:/bin/bash\n\
        1234:x:77:78::/n:/\n\
        relative:x:5:5::home:/\n\
        short:x:6\n\
        huge:x:4294967295:1::/:/\n\
        over:x:99999999999:1::/:/\n\
        \xff\xfe:x:8:8::/:/\n\
        :x:3:3::/:/\n\
        ada:x:1:1::/second:/\n\
        negative:x:-1:0::/:/";
    const GROUP: &[u8] = b"root:x:0:\nstaff:x:50:ada,bob\nwheel:x:10:bob\n\
        ada:x:1001:ada\ndev:x:60:adam,ada\nagain:x:60:ada\nbad:x:x:ada\n";

    fn account(text: &str) -> Account {
        resolve_in(text, PASSWD, GROUP).expect("account")
    }

    #[test]
    fn every_form_resolves() {
        let ada = account("ada");
        assert_eq!(
            (ada.uid, ada.gid, &ada.home[..]),
            (1000, 1001, &b"/home/ada"[..])
        );
        assert_eq!(ada.groups, [50, 60]);
        assert_eq!(account("1000"), ada);
        let grouped = account("ada:wheel");
        assert_eq!(
            (grouped.uid, grouped.gid, grouped.groups),
            (1000, 10, vec![])
        );
        let bare = account("4711:815");
        assert_eq!(
            (bare.uid, bare.gid, bare.name, &bare.home[..]),
            (4711, 815, None, &b"/"[..])
        );
        assert_eq!(account("4711").gid, 0);
        assert_eq!(
            account("1234").uid,
            77,
            "a name that looks like a number is a name"
        );
        assert_eq!(account("relative").home, b"/");
        assert_eq!(
            resolve_in("root", b"", b"").expect("root").name.as_deref(),
            Some("root")
        );
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        for text in [
            "",
            ":",
            "ada:",
            ":staff",
            "ada:staff:x",
            "a b",
            "a\nb",
            "a/b",
            "a\0",
            "\u{1b}[31m",
        ] {
            let failure = resolve_in(text, PASSWD, GROUP).expect_err(text);
            assert_eq!(failure.kind, FailureKind::Invalid, "{text:?}");
        }
        for text in [
            "nobody-here",
            "ada:nogroup",
            "short",
            "huge",
            "over",
            "negative",
            "4294967295",
            "99999999999",
            "-1",
            "+5",
            "comment",
            "ada:bad",
        ] {
            let failure = resolve_in(text, PASSWD, GROUP).expect_err(text);
            assert_eq!(failure.kind, FailureKind::NotFound, "{text:?}");
        }
    }

    #[test]
    fn only_regular_files_are_read() {
        let dir = tempfile::tempdir().expect("directory");
        let fifo = dir.path().join("fifo");
        rustix::fs::mkfifoat(CWD, &fifo, Mode::RUSR | Mode::WUSR).expect("fifo");
        assert_eq!(read(fifo.to_str().expect("text")), b"");
        assert_eq!(
            read("/dev/zero"),
            b"",
            "an endless device is not a user file"
        );
        let long = dir.path().join("long");
        std::fs::write(&long, vec![b'x'; MAX_BYTES + 5]).expect("file");
        assert_eq!(read(long.to_str().expect("text")).len(), MAX_BYTES);
    }
}
