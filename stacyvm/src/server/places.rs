//! Who is served at once. When every place is taken, whoever has asked for nothing for
//! the longest time makes room for who comes: idle connections keep nobody out.

use std::collections::BTreeMap;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};

use bytes::Bytes;
use hyper::body::{Body as HttpBody, Frame, SizeHint};
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};

use super::MAKES_ROOM;
use super::answer::Body;

/// How many make room at once where not even a place is what is missing.
const EASE: usize = 32;

/// Places for connections.
pub(super) struct Places {
    free: Arc<Semaphore>,
    idle: Mutex<Idle>,
    /// One more asks for nothing.
    more: Notify,
}

/// Those that ask for nothing, by when that began.
#[derive(Default)]
struct Idle {
    last: u64,
    all: BTreeMap<u64, Arc<Notify>>,
}

impl Places {
    pub(super) fn new(most: usize) -> Arc<Self> {
        Arc::new(Self {
            free: Arc::new(Semaphore::new(most)),
            idle: Mutex::default(),
            more: Notify::new(),
        })
    }

    fn idle(&self) -> MutexGuard<'_, Idle> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Has some of those make room that are idle longest.
    pub(super) fn ease(&self) {
        let mut idle = self.idle();
        for _ in 0..EASE {
            let Some((_, leave)) = idle.all.pop_first() else {
                return;
            };
            leave.notify_one();
        }
    }

    /// Waits for a place, where there is none for that of who is idle.
    pub(super) async fn take(self: &Arc<Self>) -> Place {
        let permit = loop {
            let more = self.more.notified();
            let free = Arc::clone(&self.free);
            if let Ok(permit) = Arc::clone(&free).try_acquire_owned() {
                break permit;
            }
            let leaves = self.idle().all.pop_first();
            let again = async {
                match leaves {
                    Some((_, leave)) => {
                        leave.notify_one();
                        // It may have asked for something before it heard of that.
                        tokio::time::sleep(2 * MAKES_ROOM).await;
                    }
                    None => more.await,
                }
            };
            tokio::select! {
                // It is never closed.
                Ok(permit) = free.acquire_owned() => break permit,
                () = again => {}
            }
        };
        let place = Place {
            places: Arc::clone(self),
            asks: Mutex::default(),
            leave: Arc::default(),
            _permit: permit,
        };
        place.rest(&mut place.asks());
        place
    }
}

/// One connection's place.
pub(super) struct Place {
    places: Arc<Places>,
    asks: Mutex<Asks>,
    /// Told when it is to make room.
    leave: Arc<Notify>,
    _permit: OwnedSemaphorePermit,
}

/// What a connection has asked for and not got yet.
#[derive(Default)]
struct Asks {
    requests: usize,
    /// Its number among the idle ones, while there are none.
    number: Option<u64>,
}

impl Place {
    fn asks(&self) -> MutexGuard<'_, Asks> {
        self.asks.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn rest(&self, asks: &mut Asks) {
        let mut idle = self.places.idle();
        idle.last += 1;
        let number = idle.last;
        idle.all.insert(number, Arc::clone(&self.leave));
        asks.number = Some(number);
        self.places.more.notify_waiters();
    }

    /// A request: it is served until what this gives is dropped.
    pub(super) fn asked(self: &Arc<Self>) -> Request {
        let mut asks = self.asks();
        asks.requests += 1;
        if let Some(number) = asks.number.take() {
            self.places.idle().all.remove(&number);
        }
        Request(Arc::clone(self))
    }

    /// Whether it asks for nothing.
    pub(super) fn is_idle(&self) -> bool {
        self.asks().requests == 0
    }

    /// Ends when it is to make room.
    pub(super) async fn left(&self) {
        self.leave.notified().await;
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if let Some(number) = self.asks().number {
            self.places.idle().all.remove(&number);
        }
    }
}

/// A request that is served, its answer included.
pub(super) struct Request(Arc<Place>);

impl Drop for Request {
    fn drop(&mut self) {
        let mut asks = self.0.asks();
        asks.requests -= 1;
        if asks.requests == 0 {
            self.0.rest(&mut asks);
        }
    }
}

/// The body of an answer, with whose end the request has been served.
pub(super) struct Answer {
    pub(super) body: Body,
    pub(super) _request: Request,
}

impl HttpBody for Answer {
    type Data = Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
