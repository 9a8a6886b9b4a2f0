//! Written next.

pub mod files;
pub mod users;
