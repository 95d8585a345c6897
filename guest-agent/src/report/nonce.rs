//! The agent's nonce in `Hello`.
//!
//! Early in a guest's life the kernel's random numbers are not of full quality, and waiting until they are takes
//! seconds. The nonce need only differ from others: what keeps a proof from being used again is the host's nonce.

use porthole_agent_api::proof::NONCE_BYTES;
use rustix::rand::{GetRandomFlags, getrandom};

/// A new nonce, without waiting.
pub fn nonce() -> [u8; NONCE_BYTES] {
    let mut bytes = [0; NONCE_BYTES];
    // With this flag the kernel neither waits nor gives fewer bytes; one before 5.6 lacks it, and leaves zeros.
    let _ = getrandom(&mut bytes, GetRandomFlags::INSECURE);
    bytes
}

#[cfg(test)]
mod tests {
    #[test]
    fn two_differ() {
        assert_ne!(super::nonce(), super::nonce());
    }
}
