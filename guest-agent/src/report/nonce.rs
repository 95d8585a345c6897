//! The agent's nonce in `Hello`.
//!
//! Early in a guest's life the kernel's random numbers are not of full quality, and waiting until they are takes
//! seconds. The nonce need only differ from others: what keeps a proof from being used again is the host's nonce.

use porthole_agent_api::proof::NONCE_BYTES;

/// A new nonce, without waiting.
pub fn nonce() -> [u8; NONCE_BYTES] {
    let mut bytes = [0; NONCE_BYTES];
    // SAFETY: getrandom(2) writes at most as many bytes as are said, which the buffer has. Whatever it gives will do.
    unsafe { libc::getrandom(bytes.as_mut_ptr().cast(), bytes.len(), libc::GRND_INSECURE) };
    bytes
}

#[cfg(test)]
mod tests {
    #[test]
    fn two_differ() {
        assert_ne!(super::nonce(), super::nonce());
    }
}
