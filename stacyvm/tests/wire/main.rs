//! The HTTP API: what a server refuses, what a client believes, and who ends what.
#![cfg(all(feature = "http", feature = "server"))]
#![allow(
    clippy::unwrap_used,
    reason = "what these helpers do cannot fail unless the test does"
)]

mod bounds;
mod clients;
mod connections;
mod infer;
mod kept;
mod lies;
mod openapi;
mod requests;
mod sent;
mod served;
mod streams;
