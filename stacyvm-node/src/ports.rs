//! Connections to and from ports inside.

use std::fmt;
use std::sync::Arc;

use napi::Env;
use napi::bindgen_prelude::{Buffer, PromiseRaw};
use napi_derive::napi;
use stacyvm::sandbox::shared::{SharedConnection, SharedListener};

use crate::convert::{Raw, buffer, bytes, call};

/// What is read at once at most.
const PIECE: usize = 64 * 1024;

/// A connection to or from a port inside.
#[napi]
pub struct Connection(Arc<SharedConnection>);

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Connection").field(&self.0).finish()
    }
}

impl From<stacyvm::provider::Connection> for Connection {
    fn from(connection: stacyvm::provider::Connection) -> Self {
        Self(Arc::new(connection.into()))
    }
}

#[napi]
impl Connection {
    /// Bytes of the other side; null once it sends no more.
    #[napi]
    pub fn recv<'env>(&self, env: &'env Env) -> napi::Result<PromiseRaw<'env, Option<Buffer>>> {
        let connection = Arc::clone(&self.0);
        call(env, async move {
            let piece = connection.recv(PIECE).await?;
            Ok((!piece.is_empty()).then(|| buffer(piece)))
        })
    }

    /// Sends all of these bytes; waits while the other side does not read.
    #[napi]
    pub fn send<'env>(&self, env: &'env Env, data: Raw) -> napi::Result<PromiseRaw<'env, ()>> {
        let (connection, data) = (Arc::clone(&self.0), bytes(data));
        call(env, async move { connection.send(data.into()).await })
    }

    /// Tells the other side that no more comes.
    #[napi]
    pub fn send_eof<'env>(&self, env: &'env Env) -> napi::Result<PromiseRaw<'env, ()>> {
        let connection = Arc::clone(&self.0);
        call(env, async move { connection.send_eof().await })
    }

    /// Closes it, also where somebody waits to read or to write.
    #[napi]
    pub fn close<'env>(&self, env: &'env Env) -> napi::Result<PromiseRaw<'env, ()>> {
        let connection = Arc::clone(&self.0);
        call(env, async move {
            connection.close().await;
            Ok(())
        })
    }
}

/// A port inside that is listened on.
#[napi]
#[derive(Debug)]
pub struct Listener(Arc<SharedListener>);

impl From<stacyvm::provider::PortListener> for Listener {
    fn from(listener: stacyvm::provider::PortListener) -> Self {
        Self(Arc::new(listener.into()))
    }
}

#[napi]
impl Listener {
    /// The port.
    #[napi(getter)]
    pub fn port(&self) -> u16 {
        self.0.port()
    }

    /// The next connection that a program inside makes; null once it is closed.
    #[napi]
    pub fn accept<'env>(
        &self,
        env: &'env Env,
    ) -> napi::Result<PromiseRaw<'env, Option<Connection>>> {
        let listener = Arc::clone(&self.0);
        call(env, async move {
            Ok(listener.accept().await?.map(Connection::from))
        })
    }

    /// Closes the port, also where somebody waits for a connection.
    #[napi]
    pub fn close<'env>(&self, env: &'env Env) -> napi::Result<PromiseRaw<'env, ()>> {
        let listener = Arc::clone(&self.0);
        call(env, async move {
            listener.close().await;
            Ok(())
        })
    }
}
