//! The key of a sandbox, and the proofs made with it.

use std::fmt;

use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

use crate::error::{Error, Result};

/// Bytes of a key and of a nonce.
pub(super) const KEY_BYTES: usize = 32;

const HOST: &[u8] = b"stacyvm host";
const AGENT: &[u8] = b"stacyvm agent";

/// The secret that a host and the agent of one sandbox share: 32 random bytes.
///
/// It never prints, and its memory is overwritten when it is dropped, as far
/// as the compiler lets us.
#[derive(Clone)]
pub struct SandboxKey([u8; KEY_BYTES]);

impl SandboxKey {
    /// Makes a new random key.
    ///
    /// # Errors
    ///
    /// `internal` where the system has no source of randomness.
    pub fn random() -> Result<Self> {
        Ok(Self(random_bytes()?))
    }

    /// Takes a key that was made before.
    pub fn from_bytes(bytes: [u8; KEY_BYTES]) -> Self {
        Self(bytes)
    }

    /// Lends the bytes to the one who hands them to the agent.
    pub fn expose(&self) -> &[u8; KEY_BYTES] {
        &self.0
    }

    /// What the host sends to show that it holds the key.
    pub(super) fn host_proof(&self, agent_nonce: &[u8], host_nonce: &[u8]) -> Vec<u8> {
        self.mac(HOST, agent_nonce, host_nonce)
            .finalize()
            .into_bytes()
            .to_vec()
    }

    /// What the agent sends. Only a test's peer makes it on this side.
    #[cfg(test)]
    pub(super) fn agent_proof(&self, host_nonce: &[u8], agent_nonce: &[u8]) -> Vec<u8> {
        self.mac(AGENT, host_nonce, agent_nonce)
            .finalize()
            .into_bytes()
            .to_vec()
    }

    /// Whether the agent's proof is right, in a time that does not depend on it.
    pub(super) fn agent_proved(&self, proof: &[u8], host_nonce: &[u8], agent_nonce: &[u8]) -> bool {
        self.mac(AGENT, host_nonce, agent_nonce)
            .verify_slice(proof)
            .is_ok()
    }

    fn mac(&self, role: &[u8], theirs: &[u8], own: &[u8]) -> Hmac<Sha256> {
        let mut mac =
            Hmac::<Sha256>::new_from_slice(&self.0).expect("HMAC takes a key of any length");
        mac.update(role);
        mac.update(theirs);
        mac.update(own);
        mac
    }
}

impl Drop for SandboxKey {
    fn drop(&mut self) {
        self.0.fill(0);
        // Keeps the write from being removed as dead.
        std::hint::black_box(&self.0);
    }
}

impl fmt::Debug for SandboxKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SandboxKey([redacted])")
    }
}

/// 32 random bytes.
pub(super) fn random_bytes() -> Result<[u8; KEY_BYTES]> {
    let mut bytes = [0; KEY_BYTES];
    getrandom::fill(&mut bytes).map_err(|e| {
        Error::new(
            crate::ErrorKind::Internal,
            "the system gave no random bytes",
        )
        .source(e)
    })?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_proof_fits_one_key_one_role_and_one_pair_of_nonces() {
        let key = SandboxKey::from_bytes([7; 32]);
        let (host, agent) = ([1; 32], [2; 32]);
        let proof = key.agent_proof(&host, &agent);
        assert!(key.agent_proved(&proof, &host, &agent));
        assert!(!key.agent_proved(&proof, &agent, &host));
        assert!(!key.agent_proved(&proof, &host, &[3; 32]));
        assert!(!key.agent_proved(&key.host_proof(&host, &agent), &host, &agent));
        assert!(!key.agent_proved(&[], &host, &agent));
        assert!(!key.agent_proved(&proof[..31], &host, &agent));
        assert!(!SandboxKey::from_bytes([8; 32]).agent_proved(&proof, &host, &agent));
    }

    #[test]
    fn a_key_never_prints() {
        let shown = format!("{:?}", SandboxKey::from_bytes([0xab; 32]));
        assert!(!shown.contains("171") && !shown.contains("ab, "), "{shown}");
    }
}
