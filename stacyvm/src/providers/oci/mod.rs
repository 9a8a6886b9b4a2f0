//! The embedded provider.
