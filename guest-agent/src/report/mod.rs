//! What the host gets: the ttrpc service, the address that it listens on, and the state that it reads.
//!
//! ```text
//! capture loop ──writes──► state ──reads──► service ──batches──► host
//! ```
//!
//! - [`state`] is shared by the capture loop and the service.
//! - [`service`] answers the host, and proves in `Hello` that the agent holds the secret; [`listen`] lets nobody else in.

pub mod listen;
pub mod service;
pub mod state;

mod nonce;
