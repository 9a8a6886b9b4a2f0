//! No answer of the engine is waited for without end. Its client bounds the head of
//! an answer alone, so that a body which never comes, or never ends, would hold a
//! create, and with it the destroy that waits for it.

use std::time::Duration;

use bollard::Docker;
use bollard::errors::Error;
use tokio::time::timeout;

/// An answer of the engine that is still to come.
pub(super) trait Answer<T>: Future<Output = Result<T, Error>> + Send + Sized {
    /// Waits for all of it, for as long as the engine's client waits for a head.
    fn within(self, docker: &Docker) -> impl Future<Output = Result<T, Error>> + Send {
        bounded(docker.timeout(), self)
    }
}

impl<T, F: Future<Output = Result<T, Error>> + Send> Answer<T> for F {}

async fn bounded<T>(
    time: Duration,
    answer: impl Future<Output = Result<T, Error>> + Send,
) -> Result<T, Error> {
    match timeout(time, answer).await {
        Ok(answer) => answer,
        Err(_) => Err(Error::RequestTimeoutError),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn what_never_comes_is_given_up() {
        let time = Duration::from_secs(9);
        let never = std::future::pending::<Result<(), Error>>();
        let given_up = bounded(time, never).await;
        assert!(matches!(given_up, Err(Error::RequestTimeoutError)));
        let late = async {
            tokio::time::sleep(time / 2).await;
            Ok(7)
        };
        assert_eq!(bounded(time, late).await.unwrap(), 7);
    }
}
