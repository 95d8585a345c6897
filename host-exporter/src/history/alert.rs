//! One alert about an application that misses an objective far too often.

use super::burn::Burn;
use crate::identity::Application;

/// An objective that an application misses far too often.
#[derive(Clone, Debug, PartialEq)]
pub struct Burning {
    /// Whose.
    pub application: Application,
    /// Which, and how far.
    pub burn: Burn,
}

/// One alert, from its begin until its end was posted.
#[derive(Clone, Debug)]
pub(super) struct Alert {
    /// What was seen last.
    pub(super) burning: Burning,
    pub(super) starts_unix_ms: u64,
    /// None while it fires.
    pub(super) ends_unix_ms: Option<u64>,
    /// When what it is now was posted.
    pub(super) posted_unix_ms: Option<u64>,
}
