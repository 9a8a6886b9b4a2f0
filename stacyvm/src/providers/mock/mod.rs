#![doc = include_str!("docs.md")]

mod builder;
mod commands;
mod decline;
mod exec;
mod fault;
mod files;
mod glob;
mod life;
mod log;
mod output;
mod ports;
mod process;
mod sandbox;
mod script;
mod shell;
mod shell_run;
mod signal;
mod tar;
mod tar_read;
mod tree;
mod tree_edit;
mod upkeep;
mod users;
mod watch;
mod world;

#[cfg(test)]
mod tests;

pub use builder::MockBuilder;
pub use fault::{Fault, FaultPlan, FaultRule, LogEntry, When};
pub use script::{Answer, Call, Child, Command, Continuation, Script, ShellLines, Step};
pub use world::Mock;
