//! Disposable machines for programs.
//!
//! One contract ([`Provider`](provider::Provider)) over several runtimes. An
//! [`Engine`] makes sandboxes, finds them again from any process that has the
//! same state directory, and takes away what others left half done.
//!
//! ```no_run
//! use std::time::Duration;
//! use stacyvm::{Engine, SandboxSpec};
//!
//! # async fn example() -> stacyvm::Result<()> {
//! let engine = Engine::open_default().await?;
//! let spec = SandboxSpec::host().memory_mib(512).ttl(Duration::from_secs(600));
//! let sandbox = engine.create(spec).await?;
//! sandbox.files().write("/workspace/a.txt", "hi").await?;
//! let output = sandbox.exec(["cat", "a.txt"]).output().await?;
//! assert_eq!(output.stdout, b"hi");
//! sandbox.kill().await?;
//! # Ok(())
//! # }
//! ```
//!
//! | module | holds |
//! |---|---|
//! | [`engine`] | the composition: create, get, list, reconcile; policy and admission |
//! | [`sandbox`] | the handle, the spec, commands, files, states |
//! | [`provider`] | the contract, capabilities, the table of operations, the registry |
//! | [`providers`] | the mock, and by feature `oci` (embedded), `docker` and `http` |
//! | [`layer`] | what wraps a provider: trace, admission, retry, deadline |
//! | [`store`] | records, journal and ledger: memory, and by feature SQLite |
//! | `certify` | by feature: the escape suite, and what judges any list of checks |
//! | `image` | by feature `image`: the store of images, on Linux |
//! | [`agent`] | the host's side of the protocol to the program inside |
//! | `wire`, `server` | by feature: the HTTP API, and an engine that serves it |
//! | [`config`] | settings, each with its origin |
//! | [`context`], [`error`], [`id`], [`clock`], [`units`] | what all of these share |

/// A point at which tests of the feature `faults` end or stop this process;
/// nothing at all in every other build.
macro_rules! fault_point {
    ($name:literal) => {
        #[cfg(feature = "faults")]
        ::stacyvm_agent::faults::reach($name);
    };
}

pub mod agent;
#[cfg(all(feature = "certify", target_os = "linux"))]
pub mod certify;
pub mod clock;
pub mod config;
pub mod context;
#[cfg(any(feature = "docker", all(feature = "registry", target_os = "linux")))]
mod credentials;
pub mod engine;
pub mod error;
#[cfg(feature = "faults")]
#[doc(hidden)]
pub mod faults;
pub mod id;
#[cfg(unix)]
mod id_map;
#[cfg(all(feature = "image", target_os = "linux"))]
pub mod image;
pub mod layer;
#[cfg(unix)]
mod mountinfo;
pub mod provider;
pub mod providers;
pub mod sandbox;
#[cfg(feature = "server")]
pub mod server;
pub mod store;
#[cfg(any(all(feature = "oci", target_os = "linux"), feature = "docker"))]
mod syscall_filter;
pub mod units;
#[cfg(feature = "wire")]
pub mod wire;

pub use context::Context;
pub use engine::{
    Claim, Create, CreateStep, Creating, Engine, EngineBuilder, Filter, Policy, Pool, PoolBuilder,
    PoolStats, ProviderSummary, Reconciled,
};
pub use error::{Error, ErrorKind, Result};
pub use id::{ExecId, SandboxId};
pub use sandbox::exec::{ExecEvent, ExecSpec, ExitStatus, SignalScope, TtySize};
pub use sandbox::exec_builder::{Exec, Output};
pub use sandbox::files_handle::Files;
pub use sandbox::handle::Sandbox;
pub use sandbox::info::SandboxInfo;
pub use sandbox::logs::{LogEvent, Logs, LogsRequest};
pub use sandbox::process::Process;
pub use sandbox::spec::SandboxSpec;
pub use sandbox::state::Phase;

/// The README's example, compiled and run with the other examples.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
pub struct Readme;
