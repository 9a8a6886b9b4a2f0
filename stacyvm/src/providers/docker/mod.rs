#![doc = include_str!("docs.md")]

mod bridge;
mod config;
mod create;
mod error;
mod facts;
mod observe;
mod ticket;
mod volume;
pub use config::{DEFAULT_HOST, DockerConfig};
