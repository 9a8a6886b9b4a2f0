//! The `stacyvm` command.
fn main() {}
