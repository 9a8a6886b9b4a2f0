//! What outlives a process.
