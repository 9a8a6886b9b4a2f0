//! The proof that both ends of a keyed connection hold the sandbox's key.

use hmac::{Hmac, KeyInit as _, Mac as _};
use sha2::Sha256;

use crate::protocol::message::{AgentConfig, Failure, FailureKind, Hello, Welcome};
use crate::protocol::{GENERATION, OLDEST_GENERATION};

use super::failure::failure;

/// Bytes of a nonce.
pub(super) const NONCE: usize = 32;

/// Makes the agent's hello, with a fresh nonce where the connection is keyed.
pub(super) fn hello(keyed: bool) -> Hello {
    let mut nonce = Vec::new();
    if keyed {
        nonce = vec![0; NONCE];
        let mut filled = 0;
        while filled < NONCE {
            match rustix::rand::getrandom(
                &mut nonce[filled..],
                rustix::rand::GetRandomFlags::empty(),
            ) {
                Ok(count) => filled += count,
                Err(rustix::io::Errno::INTR) => {}
                // Without randomness no nonce: the host's proof cannot match an empty one.
                Err(_) => return Hello::default(),
            }
        }
    }
    Hello {
        oldest: OLDEST_GENERATION,
        newest: GENERATION,
        version: env!("CARGO_PKG_VERSION").to_owned(),
        nonce,
        proof: Vec::new(),
    }
}

fn mac(key: &[u8], role: &[u8], other: &[u8], own: &[u8]) -> Option<Hmac<Sha256>> {
    let mut mac = Hmac::<Sha256>::new_from_slice(key).ok()?;
    mac.update(role);
    mac.update(other);
    mac.update(own);
    Some(mac)
}

/// Judges the host's hello: the answer, or why there is none. A wrong proof
/// gets no reason at all.
pub(super) fn judge(
    config: &AgentConfig,
    own_nonce: &[u8],
    keyed: bool,
    hello: &Hello,
) -> Result<Welcome, Option<Failure>> {
    let mut proof = Vec::new();
    if keyed {
        if config.key.is_empty() || own_nonce.len() != NONCE || hello.nonce.len() != NONCE {
            return Err(None);
        }
        mac(&config.key, b"stacyvm host", own_nonce, &hello.nonce)
            .and_then(|mac| mac.verify_slice(&hello.proof).ok())
            .ok_or(None)?;
        proof = mac(&config.key, b"stacyvm agent", &hello.nonce, own_nonce)
            .ok_or(None)?
            .finalize()
            .into_bytes()
            .to_vec();
    }
    let generation = GENERATION.min(hello.newest);
    if generation < OLDEST_GENERATION || generation < hello.oldest {
        return Err(Some(failure(
            FailureKind::Unsupported,
            format!(
                "the agent speaks generations {OLDEST_GENERATION} to {GENERATION}, the host {} to {}",
                hello.oldest, hello.newest
            ),
        )));
    }
    Ok(Welcome {
        generation,
        proof,
        can_switch_user: config.can_switch_user,
        kernel: keyed.then(super::kernel::seen),
    })
}
