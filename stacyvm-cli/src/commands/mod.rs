//! One file for each command, or for a few that belong together.

pub(crate) mod about;
pub(crate) mod cp;
pub(crate) mod exec;
pub(crate) mod life;
pub(crate) mod run;
pub(crate) mod show;
