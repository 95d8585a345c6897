//! What the host gets: the ttrpc service, the address that it listens on, and the state that it reads.
//!
//! ```text
//! capture loop ──writes──► state ──reads──► service ──batches──► host
//! ```
//!
//! - [`epochs`]: within one, values are comparable.
//! - [`state`] is shared by the capture loop and the service.
//! - [`keep`]: batches for the companion.
//! - [`service`] answers the host, and proves in `Hello` that the agent holds the secret; [`listen`] accepts no other
//!   peer.

pub mod epochs;
pub mod listen;
pub mod service;
pub mod state;

mod keep;
mod nonce;
