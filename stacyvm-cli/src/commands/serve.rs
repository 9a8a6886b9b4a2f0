//! `serve`: the HTTP API over the engine.

use std::net::SocketAddr;

use serde_json::json;
use stacyvm::engine::Engine;
use stacyvm::server::Server;
use stacyvm::{Error, ErrorKind, Result};
use tokio::signal::unix::{SignalKind, signal};

use crate::args::ServeArgs;
use crate::output;

/// Serves until it is interrupted or told to end.
pub(crate) async fn serve(engine: &Engine, args: &ServeArgs, json: bool) -> Result<u8> {
    let address: SocketAddr = args.listen.parse().map_err(|_| {
        Error::invalid(
            "listen",
            &args.listen,
            "an address and a port, such as 127.0.0.1:7070 or [::1]:7070",
            "give both",
        )
    })?;
    let unheard = |error: std::io::Error| {
        Error::new(ErrorKind::Internal, "signals cannot be waited for").source(error)
    };
    let mut interrupted = signal(SignalKind::interrupt()).map_err(unheard)?;
    let mut terminated = signal(SignalKind::terminate()).map_err(unheard)?;
    let server = Server::bind(engine.clone(), args.provider.as_deref(), address).await?;
    let url = server.url();
    if json {
        super::printed(output::json(&json!({ "url": url })))?;
    } else {
        super::printed(output::line(&url))?;
    }
    tokio::select! {
        () = server.run() => {}
        _ = interrupted.recv() => {}
        _ = terminated.recv() => {}
    }
    Ok(0)
}
