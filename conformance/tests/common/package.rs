//! A package of another language, behind a server that is a program of it: what a case asks
//! of a provider goes through the package to the embedded provider and back.

use std::process::Command;

use stacyvm::Result;
use stacyvm_conformance::{Deviation, Harness, Subject};
use tokio::sync::OnceCell;

use self::server::Server;

#[path = "server.rs"]
mod server;

// What the packages' calls have no choice for: the servers refuse it.
const NEW: &str = "the package replaces a file or adds to it, and asks for no new one";
const PARENTS: &str = "the package makes what is missing above, always";
const REPLACE: &str = "the package replaces what is there, always";
const ALL: &str = "the package removes what is below, and tells of what is missing, always";
const MOST: &str = "the package has a limit of its own for what a pattern finds";

macro_rules! deviations {
    ($($case:literal $reason:expr;)*) => {
        &[$(Deviation { case: $case, reason: $reason },)*]
    };
}

/// The cases that ask for it, the same of both packages.
const DEVIATIONS: &[Deviation] = deviations! {
    "files.a_directory_has_the_mode_that_was_asked_for" PARENTS;
    "files.a_directory_is_made_with_what_is_missing_above" PARENTS;
    "files.a_directory_with_entries_is_removed_only_if_told_to" ALL;
    "files.a_file_that_must_be_new_replaces_nothing" NEW;
    "files.a_move_replaces_only_if_told_to" REPLACE;
    "files.a_new_file_has_its_mode_and_its_owner" NEW;
    "files.missing_directories_are_made_only_if_asked_for" PARENTS;
    "files.more_paths_than_asked_for_are_an_error" MOST;
    "files.removing_what_is_missing_is_an_error_unless_allowed" ALL;
};

/// A package, and the program that serves it.
pub(crate) struct Package {
    pub(crate) name: &'static str,
    pub(crate) program: &'static str,
    pub(crate) script: &'static str,
    /// Ends with 0 where the package is built.
    pub(crate) looks: &'static [&'static str],
    /// How it is built.
    pub(crate) remedy: &'static str,
    /// One for all cases.
    pub(crate) server: OnceCell<Server>,
}

#[async_trait::async_trait]
impl Harness for Package {
    fn name(&self) -> &str {
        self.name
    }

    fn absent(&self) -> Option<String> {
        let looked = Command::new(self.program).args(self.looks).output();
        let is_there = looked.is_ok_and(|output| output.status.success());
        (!is_there).then(|| format!("the package is not built: {}", self.remedy))
    }

    async fn open(&self) -> Result<Subject> {
        let start = async || Server::start(self.program, self.script);
        self.server.get_or_try_init(start).await?.subject().await
    }

    fn deviations(&self) -> &[Deviation] {
        DEVIATIONS
    }
}
