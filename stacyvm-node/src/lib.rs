//! The native half of the Node package `stacyvm`: a method converts, calls the library,
//! and converts. What users see is `ts`.
#![allow(
    unsafe_code,
    reason = "what `napi` expands to, and a date, which it has no safe way to make"
)]

pub mod code;
pub mod convert;
pub mod creating;
pub mod engine;
pub mod error;
pub mod files;
pub mod info;
pub mod logs;
pub mod options;
pub mod pool;
pub mod ports;
pub mod process;
pub mod sandbox;
