//! What a host says to the helper of an embedded sandbox.
//!
//! PLACEHOLDER (to be written with the helper).
