//! The sandbox: what it should be, what is known of it, what is done in it.

pub mod code;
#[cfg(target_os = "linux")]
pub mod copy;
pub mod exec;
pub mod exec_builder;
pub mod files;
pub mod files_handle;
pub mod handle;
pub mod info;
pub mod logs;
pub mod process;
pub mod shared;
pub mod spec;
pub mod state;
pub mod text;
pub mod writing;
