//! A provider in memory, for tests.
