//! The HTTP API: what a server refuses, what a client believes, and who ends what.
#![cfg(all(feature = "http", feature = "server"))]

mod clients;
mod lies;
mod requests;
mod served;
