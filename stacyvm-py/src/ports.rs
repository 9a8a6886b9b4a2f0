//! Connections to and from ports inside.

use std::os::fd::{IntoRawFd as _, OwnedFd};
use std::sync::Arc;

use pyo3::inspect::PyStaticExpr;
use pyo3::prelude::*;
use pyo3::types::{IntoPyDict as _, PyAny};
use stacyvm::sandbox::shared::{SharedConnection, SharedListener};
use stacyvm::{Error, ErrorKind, Result};
use tokio::io::AsyncWriteExt as _;
use tokio::net::UnixStream;

use crate::convert::{BYTES, Bytes, Nothing, Raw, Whole};
use crate::forked::OfProcess;
use crate::pending::Call;

/// A port that fits its type; what it means is the library's to say.
pub(crate) fn port_of(port: Whole) -> Result<u16> {
    port.fits("port", "0 to 65535")
}

fn of_another_process() -> Error {
    Error::new(
        ErrorKind::Conflict,
        "this was opened by the process that forked this one; open it again",
    )
}

/// A `socket.socket`.
#[derive(Debug)]
pub(crate) struct Socket(OwnedFd);

impl From<OwnedFd> for Socket {
    fn from(socket: OwnedFd) -> Self {
        Self(socket)
    }
}

impl<'py> IntoPyObject<'py> for Socket {
    type Target = PyAny;
    type Output = Bound<'py, PyAny>;
    type Error = PyErr;

    const OUTPUT_TYPE: PyStaticExpr = PyStaticExpr::Attribute {
        value: &PyStaticExpr::Name { id: "socket" },
        attr: "socket",
    };

    fn into_pyobject(self, py: Python<'py>) -> PyResult<Self::Output> {
        let class = py.import("socket")?.getattr("socket")?;
        class.call(
            (),
            Some(&[("fileno", self.0.into_raw_fd())].into_py_dict(py)?),
        )
    }
}

/// A socket of the host whose other end is this connection.
fn socket(mut connection: stacyvm::provider::Connection) -> Result<OwnedFd> {
    let failed = |error: std::io::Error| {
        Error::new(ErrorKind::ResourceExhausted, "no socket could be made").source(error)
    };
    let (mut ours, theirs) = UnixStream::pair().map_err(failed)?;
    let theirs = theirs.into_std().map_err(failed)?;
    theirs.set_nonblocking(false).map_err(failed)?;
    tokio::spawn(async move {
        // What breaks it ends both.
        let _ = tokio::io::copy_bidirectional(&mut connection, &mut ours).await;
        // A forked child may hold a copy of it.
        let _ = ours.shutdown().await;
    });
    Ok(theirs.into())
}

/// A connection to or from a port inside. It is closed where the last reference goes.
#[pyclass(module = "stacyvm._native", frozen)]
pub(crate) struct Connection(Arc<OfProcess<SharedConnection>>);

impl From<stacyvm::provider::Connection> for Connection {
    fn from(connection: stacyvm::provider::Connection) -> Self {
        Self(Arc::new(OfProcess::new(connection.into())))
    }
}

#[pymethods]
impl Connection {
    /// Bytes of the other side, so many at most; none at its end.
    fn recv(&self, limit: Whole) -> Call<Bytes> {
        let shared = Arc::clone(&self.0);
        Call::new(async move {
            let connection = shared.get().ok_or_else(of_another_process)?;
            connection.recv(limit.fits("limit", BYTES)?).await
        })
    }

    /// Sends all of these bytes; waits while the other side does not read.
    fn send(&self, data: Raw) -> Call<Nothing> {
        let shared = Arc::clone(&self.0);
        Call::new(async move {
            let connection = shared.get().ok_or_else(of_another_process)?;
            connection.send(data.0.into()).await
        })
    }

    /// Tells the other side that no more comes.
    fn send_eof(&self) -> Call<Nothing> {
        let shared = Arc::clone(&self.0);
        Call::new(async move {
            let connection = shared.get().ok_or_else(of_another_process)?;
            connection.send_eof().await
        })
    }

    /// A socket of the host in its place.
    fn socket(&self) -> Call<Socket> {
        let shared = Arc::clone(&self.0);
        Call::new(async move {
            let connection = shared.get().ok_or_else(of_another_process)?;
            socket(connection.take().await?)
        })
    }

    /// Closes it, also where somebody waits to read or to write.
    fn close(&self) -> Call<Nothing> {
        let shared = Arc::clone(&self.0);
        Call::new(async move {
            if let Some(connection) = shared.get() {
                connection.close().await;
            }
            Ok(())
        })
    }
}

/// A port inside that is listened on. It is closed where the last reference goes.
#[pyclass(module = "stacyvm._native", frozen)]
pub(crate) struct Listener {
    port: u16,
    shared: Arc<OfProcess<SharedListener>>,
}

impl From<stacyvm::provider::PortListener> for Listener {
    fn from(listener: stacyvm::provider::PortListener) -> Self {
        Self {
            port: listener.port,
            shared: Arc::new(OfProcess::new(listener.into())),
        }
    }
}

#[pymethods]
impl Listener {
    /// The port.
    #[getter]
    fn port(&self) -> u16 {
        self.port
    }

    /// The next connection that a program inside makes; `None` once it is closed.
    fn accept(&self) -> Call<Option<Connection>> {
        let shared = Arc::clone(&self.shared);
        Call::new(async move {
            let listener = shared.get().ok_or_else(of_another_process)?;
            Ok(listener.accept().await?.map(Connection::from))
        })
    }

    /// Closes the port, also where somebody waits for a connection.
    fn close(&self) -> Call<Nothing> {
        let shared = Arc::clone(&self.shared);
        Call::new(async move {
            if let Some(listener) = shared.get() {
                listener.close().await;
            }
            Ok(())
        })
    }
}
