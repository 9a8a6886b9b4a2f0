//! Builds the static program and embeds it.
fn main() {}
