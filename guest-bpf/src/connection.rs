//! The kernel's table of connections: keyed by the address of the `struct sock`.

use porthole_framing::{Framing, Walk};

use crate::record::HEAD_MAX;

/// What a connection runs over.
pub mod transport {
    /// TCP: the entry goes when the socket reaches `TCP_CLOSE`.
    pub const TCP: u8 = 1;
    /// UDP.
    pub const UDP: u8 = 2;
    /// A unix stream socket.
    pub const UNIX: u8 = 3;
    /// Another stream over IP, such as MPTCP.
    pub const OTHER_STREAM: u8 = 4;
}

/// How the observed process came to the connection.
pub mod role {
    /// Not seen: it was open before, or inherited.
    pub const UNKNOWN: u8 = 0;
    /// By accept(2).
    pub const ACCEPTED: u8 = 1;
    /// By connect(2).
    pub const CONNECTED: u8 = 2;
    /// Set beside it in an announcement: the connection is offloaded.
    pub const OFFLOADED: u8 = 0x80;
}

/// What the programs do with a connection's bytes.
pub mod state {
    /// Captured within a budget until user space has detected the protocol.
    pub const DETECTING: u8 = 0;
    /// Captured.
    pub const FOLLOWED: u8 = 1;
    /// Not captured, only counted: their protocol is not supported.
    pub const IGNORED: u8 = 2;
    /// The detection budget is used up; user space has not decided yet.
    pub const EXHAUSTED: u8 = 3;
    /// The programs parse them themselves: see [`crate::offload`].
    pub const OFFLOADED: u8 = 4;
}

/// What user space decided about a connection: a [`state`] and how messages are found, in one byte.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Verdict(pub u8);

impl Verdict {
    /// Not captured any more.
    pub const IGNORED: Self = Self(state::IGNORED);

    /// Captured.
    pub const fn followed(framing: Framing) -> Self {
        Self(state::FOLLOWED | framing.number() << 4)
    }

    /// One of [`state`].
    #[inline(always)]
    pub const fn state(self) -> u8 {
        self.0 & 0xf
    }

    /// A number of [`Framing`].
    #[inline(always)]
    pub const fn framing(self) -> u8 {
        self.0 >> 4
    }
}

/// One connection, as the kernel side keeps it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Connection {
    /// Unique as long as the kernel runs.
    pub id: u64,
    /// Number of the socket's inode, or its cookie: distinguishes sockets that have the same address one after the other.
    pub identity: u64,
    /// The control group of the process that was first seen on it; 0 until one was.
    pub cgroup: u64,
    /// Bytes that moved, by direction: ingress, egress.
    pub offset: [u64; 2],
    /// Records sent about it; the next one's sequence number.
    pub sequence: u64,
    /// While the protocol is being detected: bytes still to be captured. While ignored: calls until the next attempt. While
    /// followed: calls until the next look at user space's verdict.
    pub budget: u32,
    /// One of [`state`].
    pub state: u8,
    /// One of [`transport`].
    pub transport: u8,
    /// One of [`role`].
    pub role: u8,
    /// Set once it was announced to user space.
    pub announced: u8,
    /// How often detection was tried again after it was ignored.
    pub retries: u32,
    /// Of TCP, where sockets report what moves: the sequence numbers at which the positions are zero, by direction.
    pub begin: [u32; 2],
    /// Of which directions [`Self::begin`] is known: a bit each.
    pub placed: u16,
    /// The directions of the newest calls, the newest one lowest: a bit each, set for egress.
    pub history: u16,
    /// A number of [`porthole_framing::Framing`]: how messages are found.
    pub framing: u8,
    /// Zero.
    pub reserved: [u8; 7],
    /// How far messages were followed, by direction.
    pub walks: [Walk; 2],
}

/// Index of a direction in [`Connection::offset`] and value of [`crate::record::Chunk::direction`].
pub mod direction {
    /// The process read.
    pub const INGRESS: u8 = 0;
    /// The process wrote.
    pub const EGRESS: u8 = 1;
}

/// Bytes captured of a connection while its protocol is unknown: what a fast client sends before the agent has read it
/// and decided.
pub const DETECTION_BUDGET: u32 = 1024 * 1024;

/// Most bytes captured of one call on such a connection that has this budget: most of them are of no protocol that is
/// followed, so the second half of the budget is for heads.
#[inline(always)]
pub const fn detection_call_max(budget: u32) -> u32 {
    if budget > DETECTION_BUDGET / 2 { 256 * 1024 } else { HEAD_MAX }
}

/// user space is woken each time that as much of the budget is used up: with its timer alone it would decide too late.
pub const DETECTION_WAKE: u32 = 64 * 1024;

/// What every captured call costs of the budget besides its bytes, so that small messages end it too.
pub const DETECTION_CALL_COST: u32 = 512;

/// The budget after `captured` bytes of one call; `None` when there is none left for it.
#[inline(always)]
pub const fn spend(budget: u32, captured: u32) -> Option<u32> {
    if budget == 0 {
        return None;
    }
    Some(budget.saturating_sub(captured.saturating_add(DETECTION_CALL_COST)))
}

/// Whether user space must be woken when the budget falls from `before` to `after`: also when nothing is left, as of a
/// retry's budget soon.
#[inline(always)]
pub const fn wakes(before: u32, after: u32) -> bool {
    before / DETECTION_WAKE != after / DETECTION_WAKE || after == 0
}

/// What may be captured when detection is tried again on an ignored connection.
pub const RETRY_BUDGET: u32 = 8 * 1024;

/// Calls on an ignored connection until detection is tried again: a keep-alive connection that was joined in the middle
/// of a body becomes readable with the next request. Ever rarer.
#[inline(always)]
pub const fn calls_until_retry(retries: u32) -> u32 {
    32 << if retries < 10 { retries } else { 10 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_messages_end_the_budget_too() {
        let mut budget = DETECTION_BUDGET;
        let mut calls = 0;
        while let Some(left) = spend(budget, 1) {
            budget = left;
            calls += 1;
        }
        assert!((1_000..=2_048).contains(&calls), "{calls}");
    }

    #[test]
    fn user_space_is_woken_well_before_the_budget_is_used_up() {
        let (mut budget, mut calls, mut woken) = (DETECTION_BUDGET - 1, 0, Vec::new());
        while let Some(left) = spend(budget, 64) {
            calls += 1;
            if wakes(budget, left) {
                woken.push(calls);
            }
            budget = left;
        }
        assert!(woken[0] < calls / 8, "{woken:?} of {calls}");
        assert!((8..=16).contains(&woken.len()), "seldom enough: {woken:?}");
    }

    #[test]
    fn user_space_is_woken_when_the_budget_of_a_retry_is_used_up() {
        let after = spend(RETRY_BUDGET, HEAD_MAX).and_then(|left| spend(left, HEAD_MAX));
        assert_eq!(after, Some(0));
        assert!(!wakes(RETRY_BUDGET, RETRY_BUDGET / 2) && wakes(RETRY_BUDGET / 2, 0));
    }

    #[test]
    fn retries_on_ignored_connections_become_rare() {
        assert_eq!(calls_until_retry(0), 32);
        assert_eq!(calls_until_retry(u32::MAX), 32 * 1024);
    }

    #[test]
    fn long_calls_leave_enough_for_many_heads() {
        let (mut budget, mut long, mut heads) = (DETECTION_BUDGET, 0, 0);
        while let Some(left) = spend(budget, detection_call_max(budget)) {
            if detection_call_max(budget) > HEAD_MAX {
                long += 1;
            } else {
                heads += 1;
            }
            budget = left;
        }
        assert!(long >= 2 && heads >= 100, "{long}, {heads}");
    }

    #[test]
    fn the_last_call_may_overdraw() {
        assert_eq!(spend(1, 4096), Some(0));
        assert_eq!(spend(0, 1), None);
    }
}
