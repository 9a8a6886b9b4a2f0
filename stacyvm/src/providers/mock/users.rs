//! The users of the mock's image, and how a request names one.

use crate::error::{Error, ErrorKind, Result};

use super::tree::Credentials;

/// One user.
#[derive(Clone, Debug)]
pub(super) struct User {
    pub(super) name: String,
    pub(super) uid: u32,
    pub(super) gid: u32,
    pub(super) home: String,
}

/// The users of a sandbox. A group has the name of the user that owns it.
#[derive(Clone, Debug)]
pub(super) struct Users(Vec<User>);

/// A user as a command has it.
#[derive(Clone, Debug)]
pub(super) struct Account {
    pub(super) credentials: Credentials,
    pub(super) name: String,
    pub(super) home: String,
}

impl Default for Users {
    fn default() -> Self {
        let user = |name: &str, id: u32, home: &str| User {
            name: name.to_owned(),
            uid: id,
            gid: id,
            home: home.to_owned(),
        };
        Self(vec![
            user("root", 0, "/root"),
            user("user", 1000, "/home/user"),
            user("nobody", 65534, "/"),
        ])
    }
}

impl Users {
    pub(super) fn all(&self) -> &[User] {
        &self.0
    }

    pub(super) fn add(&mut self, name: &str, id: u32) {
        self.0.retain(|user| user.name != name && user.uid != id);
        self.0.push(User {
            name: name.to_owned(),
            uid: id,
            gid: id,
            home: format!("/home/{name}"),
        });
    }

    pub(super) fn name(&self, uid: u32) -> Option<String> {
        self.0.iter().find(|u| u.uid == uid).map(|u| u.name.clone())
    }

    pub(super) fn group_name(&self, gid: u32) -> Option<String> {
        self.0.iter().find(|u| u.gid == gid).map(|u| u.name.clone())
    }

    /// The number of a user, given by name or number.
    pub(super) fn uid(&self, text: &str) -> Result<u32> {
        self.number(text, |user| user.uid)
    }

    /// The number of a group, given by name or number.
    pub(super) fn gid(&self, text: &str) -> Result<u32> {
        self.number(text, |user| user.gid)
    }

    fn number(&self, text: &str, of: impl Fn(&User) -> u32) -> Result<u32> {
        if let Ok(number) = text.parse() {
            return Ok(number);
        }
        self.0
            .iter()
            .find(|user| user.name == text)
            .map(of)
            .ok_or_else(|| {
                Error::new(
                    ErrorKind::NotFound,
                    format!("there is no user or group `{text}` in the image"),
                )
                .context("user", text)
            })
    }

    /// The account of `name`, `uid`, `name:group` or `uid:gid`.
    pub(super) fn resolve(&self, text: &str) -> Result<Account> {
        crate::sandbox::exec::check_user(text)?;
        let (user, group) = text
            .split_once(':')
            .map_or((text, None), |(u, g)| (u, Some(g)));
        let uid = self.uid(user)?;
        let known = self.0.iter().find(|u| u.uid == uid);
        let gid = match group {
            Some(group) => self.gid(group)?,
            None => known.map_or(uid, |u| u.gid),
        };
        Ok(Account {
            credentials: Credentials { uid, gid },
            name: known.map_or_else(|| uid.to_string(), |u| u.name.clone()),
            home: known.map_or_else(|| "/".to_owned(), |u| u.home.clone()),
        })
    }
}
