//! The HTTP API over an engine, for programs of the same host.
//!
//! # Behavior
//!
//! - It listens on a loopback address alone, as it knows no identities: whoever
//!   can connect is served. What is asked of browsers is refused, as is a name
//!   of this host that is not a loopback one.
//! - One provider of the engine is served. Its sandboxes are on record, so that
//!   the policy binds, and a server that is started again finds them.
//! - A tenant's sandbox is not there for another one, in lists as in calls.
//! - No path of this host can be named but beneath the policy's mount roots, and
//!   no variable or file is read for a client.
//! - A command of the foreground ends with its connection, and an attached
//!   sandbox with that of its owner.
//!
//! What it says is in [`wire`](crate::wire); every route is in [`route`].

mod answer;
mod files;
mod guard;
mod known;
mod lists;
mod owners;
mod places;
mod pump;
pub mod route;
mod sandboxes;
mod session;

use std::convert::Infallible;
use std::fmt;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};

use crate::context::Context;
use crate::engine::Engine;
use crate::error::{Error, ErrorKind, Result};
use crate::layer::Layered;
use crate::provider::Capabilities;
use answer::Body;
use places::{Answer, Place, Places};

/// How long the headers of a request may take.
const SLOWEST_HEADERS: Duration = Duration::from_secs(30);
/// The most bytes of the headers of a request.
const LONGEST_HEADERS: usize = 64 << 10;
/// The most connections that are served at once, and beside them the most that are
/// sessions or streams.
const MOST_CONNECTIONS: usize = 4096;
/// How long one that makes room has for what is on its way.
const MAKES_ROOM: Duration = Duration::from_millis(250);
/// How long a listener that fails waits before it goes on.
const PAUSE: Duration = Duration::from_millis(50);

/// An engine that is served.
#[must_use = "a server serves while it runs"]
pub struct Server {
    listener: TcpListener,
    address: SocketAddr,
    state: Arc<State>,
    life: watch::Sender<()>,
    connections: usize,
}

impl fmt::Debug for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Server")
            .field("address", &self.address)
            .field("provider", &self.state.provider.name())
            .finish_non_exhaustive()
    }
}

/// What every request is served with.
struct State {
    engine: Engine,
    provider: Arc<Layered>,
    claims: Capabilities,
    sessions: Arc<Semaphore>,
    most_sessions: usize,
    owners: owners::Owners,
    known: known::Known,
    /// Ends with the server.
    life: watch::Receiver<()>,
}

impl State {
    fn context(&self, tenant: Option<crate::id::TenantId>) -> Context {
        self.engine.context_of(tenant)
    }

    /// Ends when the server does.
    fn over(&self) -> impl Future<Output = ()> + Send + 'static {
        let mut life = self.life.clone();
        async move { while life.changed().await.is_ok() {} }
    }
}

impl Server {
    /// Opens a provider of the engine, the default one where none is named, and
    /// listens for those that want it.
    ///
    /// # Errors
    ///
    /// `invalid_argument` for an address that is not a loopback one or cannot be
    /// listened on, and what opening the provider fails with.
    pub async fn bind(engine: Engine, provider: Option<&str>, address: SocketAddr) -> Result<Self> {
        if !address.ip().is_loopback() {
            return Err(Error::invalid(
                "listen",
                address,
                "a loopback address: the server knows no identities",
                "listen on 127.0.0.1 or [::1], and reach it from elsewhere through a tunnel",
            ));
        }
        let name = provider.unwrap_or_else(|| engine.default_provider());
        let provider = engine.layered(name).await?;
        let claims = carried(provider.claims(), engine.serves_host_paths());
        let listener = TcpListener::bind(address).await.map_err(|error| {
            Error::invalid(
                "listen",
                address,
                "an address that is free",
                "choose another port, or 0 for any",
            )
            .source(error)
        })?;
        let address = listener.local_addr().map_err(|e| {
            Error::new(ErrorKind::Internal, "the listener has no address").source(e)
        })?;
        let (life, watched) = watch::channel(());
        let state = Arc::new(State {
            engine,
            provider,
            claims,
            owners: owners::Owners::default(),
            known: known::Known::default(),
            sessions: Arc::new(Semaphore::new(MOST_CONNECTIONS)),
            most_sessions: MOST_CONNECTIONS,
            life: watched,
        });
        Ok(Self {
            listener,
            address,
            state,
            life,
            connections: MOST_CONNECTIONS,
        })
    }

    /// Serves at most so many connections at once, at least one, and beside them as many
    /// sessions and streams; 4096 unless said. Beyond that whoever has asked for nothing
    /// for the longest time makes room for who comes, and a session is refused.
    pub fn connections(mut self, most: usize) -> Self {
        self.connections = most.clamp(1, Semaphore::MAX_PERMITS);
        // Nobody else has it before the server runs.
        if let Some(state) = Arc::get_mut(&mut self.state) {
            state.sessions = Arc::new(Semaphore::new(self.connections));
            state.most_sessions = self.connections;
        }
        self
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The URL that clients name.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Serves until the future is dropped; every connection ends with it, and
    /// with them commands of the foreground.
    pub async fn run(self) {
        let places = Places::new(self.connections);
        let Self {
            listener,
            state,
            life: _life,
            ..
        } = self;
        loop {
            let stream = match listener.accept().await {
                Ok((stream, _)) => stream,
                Err(error) => {
                    // Where files are used up, as well as where places are.
                    places.ease();
                    tracing::warn!(%error, "a connection could not be taken");
                    tokio::time::sleep(PAUSE).await;
                    continue;
                }
            };
            let place = places.take().await;
            let state = Arc::clone(&state);
            tokio::spawn(async move {
                let over = state.over();
                tokio::select! {
                    () = serve(state, stream, Arc::new(place)) => {}
                    () = over => {}
                }
            });
        }
    }
}

/// What the wire does not carry is not claimed.
fn carried(claims: &Capabilities, host_paths: bool) -> Capabilities {
    Capabilities {
        listen: false,
        claim: false,
        mount_host: claims.mount_host && host_paths,
        image_directory: claims.image_directory && host_paths,
        ..claims.clone()
    }
}

async fn serve(state: Arc<State>, stream: TcpStream, place: Arc<Place>) {
    // Without it small answers would only be slower.
    let _ = stream.set_nodelay(true);
    let service = service_fn(|request| {
        let (state, asked) = (Arc::clone(&state), place.asked());
        async move {
            let response = respond(state, request).await;
            Ok::<_, Infallible>(response.map(|body| Answer {
                body,
                _request: asked,
            }))
        }
    });
    let served = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(SLOWEST_HEADERS)
        .max_header_size(LONGEST_HEADERS)
        .serve_connection(TokioIo::new(stream), service)
        .with_upgrades();
    let mut served = pin!(served);
    let done = tokio::select! {
        done = &mut served => done,
        () = place.left() => {
            // What was asked for meanwhile is still served.
            served.as_mut().graceful_shutdown();
            loop {
                match tokio::time::timeout(MAKES_ROOM, &mut served).await {
                    Ok(done) => break done,
                    Err(_) if place.is_idle() => return,
                    Err(_) => {}
                }
            }
        }
    };
    if let Err(error) = done {
        tracing::debug!(%error, "a connection ended early");
    }
}

async fn respond(state: Arc<State>, request: Request<Incoming>) -> Response<Body> {
    match route::dispatch(state, request).await {
        Ok(response) => response,
        Err(error) => answer::error(&error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_wire_or_the_policy_does_not_carry_is_not_claimed() {
        let all = Capabilities {
            listen: true,
            claim: true,
            mount_host: true,
            image_directory: true,
            dial: true,
            ..Capabilities::default()
        };
        let told = carried(&all, true);
        assert!(told.mount_host && told.image_directory && told.dial);
        assert!(!told.listen && !told.claim);
        let told = carried(&all, false);
        assert!(!told.mount_host && !told.image_directory && told.dial);
    }
}
