//! Wrappers around a provider.
