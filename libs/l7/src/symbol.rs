//! Names as small integers, and the application for which their number is bounded.

/// A name, as a small integer. Equal names have equal symbols within one [`ParserContext`](crate::ParserContext).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Symbol(pub u32);

impl Symbol {
    /// No name.
    pub const NONE: Self = Self(0);
    /// What a name becomes when there is no room for another.
    pub const OTHER: Self = Self(1);
}

/// The application in whose favour routes are limited: all connections of one container share one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ScopeId(pub u32);
