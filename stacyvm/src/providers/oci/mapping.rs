//! Work of the image store on files of a range of subordinate ids, by a helper
//! in a user namespace that has the range.

use std::os::fd::{AsFd as _, BorrowedFd};
use std::path::Path;
use std::sync::Arc;

use stacyvm_agent::helper_protocol::{
    Delegated, GENERATION, MapLayers, Remove, SINGLE_USER, ToHelper, Users,
};

use super::helper::Helper;
use super::host::Host;
use super::identities::Identities;
use super::launch::SUPERVISOR_UID;
use super::program::Program;
use crate::context::Context;
use crate::error::Result;
use crate::image::{LayerCopy, Range};

/// A range, and the program of the helpers that work on its files.
#[derive(Debug)]
pub(super) struct Mapping {
    program: Arc<Program>,
    range: Delegated,
}

impl Mapping {
    /// Of the users of sandboxes here; `None` where they are no range that an
    /// ordinary user was given.
    pub(super) fn of(identities: &Identities, program: &Arc<Program>) -> Option<Arc<dyn Range>> {
        let Identities::Delegated(range) = identities else {
            return None;
        };
        Some(Arc::new(Self {
            program: Arc::clone(program),
            range: range.clone(),
        }))
    }

    fn users(&self, own: bool) -> Users {
        Users::Delegated(Delegated {
            own: own.then_some(SINGLE_USER),
            ..self.range.clone()
        })
    }
}

impl Range for Mapping {
    fn name(&self, own: bool) -> String {
        let name = format!("{}-{}", self.range.first_uid, self.range.first_gid);
        if !own {
            return name;
        }
        let uid = rustix::process::geteuid().as_raw();
        let gid = rustix::process::getegid().as_raw();
        format!("{name}-{uid}-{gid}")
    }

    fn map(
        &self,
        context: &Context,
        own: bool,
        lock: BorrowedFd<'_>,
        copies: &[LayerCopy],
    ) -> Result<()> {
        let question = ToHelper::MapLayers(MapLayers {
            generation: GENERATION,
            users: self.users(own),
            reserved: SUPERVISOR_UID,
        });
        let mut descriptors = vec![lock];
        for copy in copies {
            descriptors.extend([copy.from.as_fd(), copy.to.as_fd(), copy.owners.as_fd()]);
        }
        Helper::ask_blocking(&self.program, context, &question, &descriptors).map_err(Host::explain)
    }

    fn remove(&self, parent: BorrowedFd<'_>, name: &str) -> Result<()> {
        let question = ToHelper::Remove(Remove {
            generation: GENERATION,
            name: name.to_owned(),
            users: self.users(false),
        });
        Helper::ask_blocking(&self.program, &Context::default(), &question, &[parent])
            .map_err(Host::explain)
    }
}

/// The range of this user, for an image store that was opened by itself. Its
/// helpers are the ones that are installed or come with this build.
pub(super) fn of_this_user() -> Option<Arc<dyn Range>> {
    let identities = Identities::look();
    if !matches!(identities, Identities::Delegated(_)) {
        return None;
    }
    // There is no cache for a host that executes no memory files.
    let program = Program::prepare(None, Path::new("/nonexistent")).ok()?;
    Mapping::of(&identities, &Arc::new(program))
}
