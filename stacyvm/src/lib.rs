//! Disposable machines for programs.
//!
//! One contract ([`Provider`](provider::Provider)) over every runtime; sandboxes
//! that are made in milliseconds, run commands, hold files, and leave nothing
//! behind.

pub mod agent;
pub mod clock;
pub mod config;
pub mod context;
pub mod engine;
pub mod error;
pub mod id;
pub mod layer;
pub mod provider;
pub mod providers;
pub mod sandbox;
pub mod store;
pub mod units;

pub use context::Context;
pub use engine::{Create, Engine, EngineBuilder, Filter, Policy, ProviderSummary, Reconciled};
pub use error::{Error, ErrorKind, Result};
pub use id::{ExecId, SandboxId};
pub use sandbox::exec::{ExecEvent, ExecSpec, ExitStatus, SignalScope, TtySize};
pub use sandbox::exec_builder::{Exec, Output};
pub use sandbox::files_handle::Files;
pub use sandbox::handle::Sandbox;
pub use sandbox::info::SandboxInfo;
pub use sandbox::process::Process;
pub use sandbox::spec::SandboxSpec;
pub use sandbox::state::Phase;

/// The README's example, compiled and run with the other examples.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
pub struct Readme;
