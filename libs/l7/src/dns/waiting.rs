//! Questions that wait for their answer.
//!
//! One socket of datagrams queries several servers, or serves many clients, and their ids may be equal: a question is
//! known by its peer, its id and its content. The same question of the same peer may wait several times:
//!
//! - Sent again after a while, it was a retry: an answer belongs to the newest one. The one before is kept for an answer that
//!   comes late.
//! - Sent again at once, it is a duplicate, which is answered as often: answers come in the order of the questions.
//!
//! Where the peer of a datagram is not known, a question of any peer will do: the oldest.

use std::net::SocketAddr;

use crate::{Side, Timestamp, parser::Request, pending::ById};

/// Which question.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Key {
    pub id: u16,
    /// A hash of the question; none in an answer that does not repeat it.
    pub question: Option<u64>,
    /// The other end, where the socket has several peers.
    pub peer: Option<SocketAddr>,
}

impl Key {
    /// Whether an answer of this key may belong to a question of the other one.
    fn may_answer(&self, other: &Self) -> bool {
        let same_peer = self.peer.is_none() || other.peer.is_none() || self.peer == other.peer;
        let same_question = self.question.is_none() || self.question == other.question;
        self.id == other.id && same_question && same_peer
    }
}

/// A question.
#[derive(Clone, Copy, Debug)]
pub(super) struct Waiting {
    pub key: Key,
    pub request: Request,
    /// It requests the transfer of a zone.
    pub transfer: bool,
    /// When the same question was sent again.
    pub resent_at: Option<Timestamp>,
    /// Another server, which got it at the same time, has answered.
    pub answered_elsewhere: bool,
}

/// How often the same question may wait.
const COPIES_MAX: u8 = 4;

/// Copies of a question that are sent within this time are duplicates; clients wait longer before they repeat one,
/// nanoseconds.
const RETRY_NS: u64 = 200_000_000;

/// The questions that wait, by key and number of the copy.
#[derive(Debug, Default)]
pub(super) struct WaitingQuestions(ById<(Key, u8), Waiting>);

impl WaitingQuestions {
    /// Adds a question; returns one that made room for it.
    pub fn ask(&mut self, key: Key, request: Request, transfer: bool, limit: usize) -> Option<Waiting> {
        let mut free = None;
        let mut oldest: Option<(Timestamp, u8)> = None;
        for copy in 0..COPIES_MAX {
            let Some(waiting) = self.0.get_mut((key, copy)) else {
                free = free.or(Some(copy));
                continue;
            };
            waiting.resent_at = waiting.resent_at.or(Some(request.start));
            let this = (waiting.request.start, copy);
            oldest = Some(oldest.map_or(this, |before| before.min(this)));
        }
        let copy = free.or(oldest.map(|(_, copy)| copy)).unwrap_or_default();
        let waiting = Waiting { key, request, transfer, resent_at: None, answered_elsewhere: false };
        self.0.insert((key, copy), waiting, limit)
    }

    /// An answer came; gives the question, seen from that side, that it belongs to.
    pub fn answer(&mut self, key: Key, side: Side) -> Option<Waiting> {
        let unknown = Key { peer: None, ..key };
        let exact = key.question.and_then(|_| self.copy(key).or_else(|| self.copy(unknown)));
        let entry = exact.or_else(|| self.any(&key))?;
        let waiting = self.0.remove(entry)?;
        if side == Side::Client && waiting.key.peer.is_some() {
            self.0.for_each_mut(|other| {
                let apart = other.request.start.0.abs_diff(waiting.request.start.0);
                other.answered_elsewhere |= other.key.peer != waiting.key.peer
                    && (other.key.id, other.key.question) == (waiting.key.id, waiting.key.question)
                    && apart < RETRY_NS;
            });
        }
        Some(waiting)
    }

    /// The copy of a question that is answered next.
    fn copy(&mut self, key: Key) -> Option<(Key, u8)> {
        let mut copies = [(Timestamp(0), 0); COPIES_MAX as usize];
        let mut count = 0;
        for copy in 0..COPIES_MAX {
            if let Some(waiting) = self.0.get_mut((key, copy)) {
                copies[count] = (waiting.request.start, copy);
                count += 1;
            }
        }
        let copies = &mut copies[..count];
        copies.sort_unstable();
        let (mut newest, rest) = copies.split_last()?;
        for before in rest.iter().rev() {
            if newest.0.since(before.0) >= RETRY_NS {
                break;
            }
            newest = before;
        }
        Some((key, newest.1))
    }

    /// The oldest question that an answer may belong to of which the peer or the question is not known.
    fn any(&mut self, key: &Key) -> Option<(Key, u8)> {
        let mut oldest: Option<(Timestamp, (Key, u8))> = None;
        self.0.for_each_entry_mut(|entry, waiting| {
            let start = waiting.request.start;
            if key.may_answer(&entry.0) && oldest.is_none_or(|(before, _)| start < before) {
                oldest = Some((start, entry));
            }
        });
        oldest.map(|(_, entry)| entry)
    }

    /// Takes the oldest one, when it fulfils the condition.
    pub fn pop_oldest_if(&mut self, condition: impl Fn(&Waiting) -> bool) -> Option<Waiting> {
        self.0.pop_oldest_if(condition)
    }
}
