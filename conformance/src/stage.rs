//! Work of others, each on a thread of its own and in bounded time.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::pin;
use std::sync::OnceLock;
use std::time::Duration;

use futures_util::future::{Either, select};
use tokio::runtime::{Builder, Handle, Runtime};
use tokio::sync::oneshot;

/// A runtime for timers and for what waits for others: nothing of a harness or of a
/// provider runs on it, so that none of them can hold up a deadline. It is never
/// dropped; the one of the caller stands in where it cannot be made.
pub(crate) fn clock() -> Handle {
    static CLOCK: OnceLock<Option<Runtime>> = OnceLock::new();
    let made = CLOCK.get_or_init(|| {
        let mut builder = Builder::new_multi_thread();
        let named = builder.worker_threads(1).thread_name("conformance-clock");
        named.enable_time().build().ok()
    });
    made.as_ref()
        .map_or_else(Handle::current, |clock| clock.handle().clone())
}

/// Does work on a thread of its own, in the context of a runtime, and waits for it at
/// most so long; then it is given up. One that blocks its thread keeps it, and nothing
/// else. To be called on the [`clock`].
///
/// # Errors
///
/// That it panicked, or did not end in time.
pub(crate) async fn bounded<T: Send + 'static>(
    runtime: &Handle,
    what: &str,
    limit: Duration,
    work: impl Future<Output = T> + Send + 'static,
) -> Result<T, String> {
    let (done, told) = oneshot::channel();
    // Dropped when nobody waits any more.
    let (_waits, given_up) = oneshot::channel::<()>();
    let runtime = runtime.clone();
    let body = move || {
        let work = async move {
            match select(pin!(work), given_up).await {
                Either::Left((value, _)) => Some(value),
                Either::Right(_) => None,
            }
        };
        let ended = catch_unwind(AssertUnwindSafe(|| runtime.block_on(work)));
        // Whoever gave it up does not listen.
        let _ = done.send(ended);
    };
    let thread = std::thread::Builder::new().name("conformance-case".to_owned());
    if let Err(error) = thread.spawn(body) {
        return Err(format!("{what}: a thread could not be started: {error}"));
    }
    match tokio::time::timeout(limit, told).await {
        Ok(Ok(Ok(Some(value)))) => Ok(value),
        Ok(Ok(Err(panic))) => Err(format!("{what}: {}", panic_text(&*panic))),
        Ok(_) => Err(format!("{what}: its thread ended before it")),
        Err(_) => {
            let seconds = limit.as_secs_f64();
            Err(format!("{what} did not end within {seconds} s"))
        }
    }
}

fn panic_text(panic: &(dyn Any + Send)) -> String {
    let said = panic.downcast_ref::<&str>().map(ToString::to_string);
    match said.or_else(|| panic.downcast_ref::<String>().cloned()) {
        Some(said) => format!("it panicked: {said}"),
        None => "it panicked".to_owned(),
    }
}
