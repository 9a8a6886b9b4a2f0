//! The sandbox: what it should be, what is known of it, what is done in it.

pub mod exec;
pub mod files;
pub mod spec;
pub mod state;
pub mod text;
