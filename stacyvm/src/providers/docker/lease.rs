//! An attached lifetime as a lease: the agent ends the sandbox unless its
//! owner says in time that it still lives. So it ends after the owner was
//! killed, or its host lost, with nothing on the engine to clean up.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::time::{sleep, timeout};

use super::life::Life;
use crate::error::{Error, ErrorKind};
use crate::id::SandboxId;

/// Renewals in one lease: all of them may be lost but one, so that an owner on
/// a machine that is busy for some seconds keeps its sandboxes.
const RENEWALS: u32 = 7;
/// How long one may take until the engine is asked whether the sandbox is there.
const SLOW: Duration = Duration::from_secs(3);

/// The end that the agent is told: the sandbox's own, or that of a lease from now.
pub(super) fn end(
    ends: Option<SystemTime>,
    lease: Option<Duration>,
    now: SystemTime,
) -> Option<SystemTime> {
    let renewed = lease.map(|lease| now + lease);
    match (ends, renewed) {
        (Some(ends), Some(renewed)) => Some(ends.min(renewed)),
        (ends, renewed) => ends.or(renewed),
    }
}

/// Renews the lease of a sandbox as long as this process lives, the sandbox is
/// there, and is this owner's. The task dies with its runtime, which is the point.
pub(super) fn hold(life: &Arc<Life>, id: SandboxId, owner: String) {
    let life = Arc::clone(life);
    tokio::spawn(async move {
        let pause = life.config.lease / RENEWALS;
        loop {
            // The first at once: the start took a part of the first lease.
            let mut renewing = std::pin::pin!(life.renew(&id, Some(&owner)));
            let renewed = loop {
                match timeout(SLOW, &mut renewing).await {
                    Ok(renewed) => break renewed,
                    // Some runtimes leave the way to it open after its end.
                    Err(_) => match life.observe(&id).await {
                        Err(error) if is_end(&error) => break Err(error),
                        _ => {}
                    },
                }
            };
            match renewed {
                Ok(true) => {}
                Ok(false) => {
                    // Somebody claimed it or made it theirs, or ended it.
                    if life.observe(&id).await.is_err_and(|error| is_end(&error)) {
                        life.pool.end(&id);
                    }
                    return;
                }
                Err(error) if is_end(&error) => return life.pool.end(&id),
                // The next one may arrive.
                Err(error) => tracing::debug!(sandbox = %id, %error, "a lease was not renewed"),
            }
            sleep(pause).await;
        }
    });
}

fn is_end(error: &Error) -> bool {
    matches!(error.kind(), ErrorKind::NotFound | ErrorKind::SandboxGone)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_earlier_end_binds() {
        let now = SystemTime::now();
        let (short, long) = (Duration::from_secs(1), Duration::from_secs(9));
        assert_eq!(end(None, None, now), None);
        assert_eq!(end(Some(now + long), None, now), Some(now + long));
        assert_eq!(end(None, Some(short), now), Some(now + short));
        assert_eq!(end(Some(now + long), Some(short), now), Some(now + short));
        assert_eq!(end(Some(now + short), Some(long), now), Some(now + short));
    }
}
