//! How an agent proves in `Hello` that it holds its sandbox's secret, without sending it.
//!
//! Both sides give a nonce; the proof is HMAC-SHA256 (RFC 2104, FIPS 180-4) under the secret over a fixed text and both
//! nonces. The host's nonce is new for each connection, so that a proof that was seen once is of no use later.

use std::io;

use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

use crate::{
    agent::{HelloRequest, HelloResponse},
    limits::CONTRACT_VERSION,
};

/// Length of a nonce, in bytes. Others are refused: with a fixed length the concatenation has one meaning.
pub const NONCE_BYTES: usize = 32;

/// Environment variable of the agent with its secret, 64 hexadecimal digits. The agent removes it from its memory when
/// it has read it.
pub const SECRET_ENV: &str = "PORTHOLE_AGENT_SECRET";

/// What is proved.
const PURPOSE: &[u8] = b"porthole.agent.v1 Hello";

/// The host's side of one connection's `Hello`.
#[derive(Debug)]
pub struct Challenge([u8; NONCE_BYTES]);

impl Challenge {
    /// A challenge that no other connection has had, by the kernel's random numbers.
    pub fn new() -> io::Result<Self> {
        let mut nonce = [0; NONCE_BYTES];
        getrandom::fill(&mut nonce).map_err(io::Error::other)?;
        Ok(Self(nonce))
    }

    /// The request; `host_version` is that of the program that sends it.
    pub fn request(&self, host_version: &str) -> HelloRequest {
        HelloRequest {
            host_nonce: self.0.to_vec(),
            version_min: CONTRACT_VERSION,
            version_max: CONTRACT_VERSION,
            host_version: host_version.to_owned(),
            ..HelloRequest::default()
        }
    }

    /// Whether the answer proves that its sender holds the secret.
    pub fn is_met(&self, secret: &[u8; 32], answer: &HelloResponse) -> bool {
        is_proven(secret, &self.0, &answer.agent_nonce, &answer.proof)
    }
}

/// The proof; `None` for nonces of another length.
pub fn prove(secret: &[u8; 32], host_nonce: &[u8], agent_nonce: &[u8]) -> Option<Vec<u8>> {
    Some(mac(secret, host_nonce, agent_nonce)?.finalize().into_bytes().to_vec())
}

/// Whether the proof is right, compared in a time that does not depend on it.
pub fn is_proven(secret: &[u8; 32], host_nonce: &[u8], agent_nonce: &[u8], proof: &[u8]) -> bool {
    mac(secret, host_nonce, agent_nonce).is_some_and(|mac| mac.verify_slice(proof).is_ok())
}

fn mac(secret: &[u8; 32], host_nonce: &[u8], agent_nonce: &[u8]) -> Option<Hmac<Sha256>> {
    if host_nonce.len() != NONCE_BYTES || agent_nonce.len() != NONCE_BYTES {
        return None;
    }
    // HMAC takes keys of any length; only the type allows an error.
    let mac = Hmac::<Sha256>::new_from_slice(secret).ok()?;
    Some(mac.chain_update(PURPOSE).chain_update(host_nonce).chain_update(agent_nonce))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECRET: [u8; 32] = [7; 32];
    const HOST: [u8; 32] = [1; 32];
    const AGENT: [u8; 32] = [2; 32];

    #[test]
    fn only_the_secret_and_both_nonces_give_the_proof() {
        let proof = prove(&SECRET, &HOST, &AGENT).expect("proof");
        assert!(is_proven(&SECRET, &HOST, &AGENT, &proof));
        assert!(!is_proven(&[8; 32], &HOST, &AGENT, &proof), "another secret");
        assert!(!is_proven(&SECRET, &[3; 32], &AGENT, &proof), "a proof that was seen before");
        assert!(!is_proven(&SECRET, &AGENT, &HOST, &proof), "the nonces the other way round");
        assert!(!is_proven(&SECRET, &HOST, &AGENT, &proof[..31]), "cut");
        assert!(!is_proven(&SECRET, &HOST, &AGENT, &[]), "none");
    }

    #[test]
    fn nonces_of_another_length_prove_nothing() {
        for (host, agent) in [(&HOST[..31], &AGENT[..]), (&HOST, &[]), (&[0; 33], &AGENT)] {
            assert_eq!(prove(&SECRET, host, agent), None);
            assert!(!is_proven(&SECRET, host, agent, &[0; 32]));
        }
    }
}
