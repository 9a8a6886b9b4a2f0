//! The conformance suite: one list of cases that any provider is run against.
//!
//! A [`Case`] pins promises of the specification. It uses the public contract
//! alone and knows no provider's name. What a provider does not claim is tried
//! too: the case's twin expects `unsupported` and no effect. A case that could not
//! be tried is `not run` with the fact that is missing, and never counts as passed;
//! what a case leaves behind fails it.
//!
//! A provider is brought by a [`Harness`]. Front ends are [`provider_main!`](macro@provider_main), for
//! `cargo test` and nextest, and `stacyvm conformance run`. A run gives a
//! [`Report`].

mod case;
#[cfg(all(feature = "certify", target_os = "linux"))]
mod check;
mod fixture;
mod harness;
mod host;
mod mimic;
pub mod mutants;
mod report;
mod report_file;
mod runner;
mod stage;
pub mod store;
pub mod suites;

pub use case::{Case, CaseFn, Checked, Failure, Level, Need, Running};
#[cfg(all(feature = "certify", target_os = "linux"))]
pub use check::{CaseCheck, LiarControl};
pub use fixture::{Fixture, eventually, refused};
pub use harness::{Deviation, Harness, Subject};
pub use host::{HostProcess, as_host, is_host, this_program};
pub use mimic::{provider_main, provider_main_without};
pub use report::{CaseReport, Outcome, Report, SCHEMA, SubjectReport};
pub use report_file::ReportFile;
pub use runner::{Options, Selection, judge, run};
pub use suites::CASES;
