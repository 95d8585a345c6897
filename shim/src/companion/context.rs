//! What the phases of a companion share.

use std::sync::atomic::{AtomicBool, Ordering};

use porthole_registry::AgentSecret;

use super::assignment::Assignment;
use crate::{settings::Settings, state::StateDirectory};

/// One companion.
pub struct Companion<'a> {
    /// The sandbox and how to reach its shim.
    pub assignment: &'a Assignment,
    /// The host's configuration.
    pub settings: &'a Settings,
    /// Its own directory.
    pub state: StateDirectory,
    /// What the sandbox's agent proves to the exporter that it holds.
    pub secret: AgentSecret,
    /// SIGHUP came: the configuration is to be read again.
    pub reload: AtomicBool,
}

impl Companion<'_> {
    /// Whether the configuration is to be read again; once for each demand.
    pub fn reload_demanded(&self) -> bool {
        self.reload.swap(false, Ordering::Relaxed)
    }
}
