//! The `stacyvm` command: parse, call the library, print.

mod args;
mod commands;
mod exit;
mod output;
mod session;
mod spec;
mod terminal;

fn main() {}
