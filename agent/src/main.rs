//! The static program inside and beside every sandbox.
fn main() {}
