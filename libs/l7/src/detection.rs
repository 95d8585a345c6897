//! Before the protocol is known: keeps the first bytes of both ends, and compares them with the table's protocols.

use crate::{
    Chunk, Direction, Protocol, Side, Timestamp,
    parser::{Detection, PREFIX_BYTES_MAX, Prefix, Transport},
    proxy::{self, ProxyHeader},
    table,
};

/// Chunks in which no protocol's message starts, after which a connection is given up.
const MISSES_MAX: u8 = 8;

/// Most pieces into which the kept bytes may be cut; further ones are joined and take the first one's time.
const PIECES_MAX: usize = 64;

/// What a chunk showed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum DetectorOutcome {
    Pending,
    GaveUp,
    Detected(Protocol, Side),
}

/// What is kept of one connection.
#[derive(Debug, Default)]
pub(crate) struct Detector {
    /// By direction: bytes from the start of a chunk on, contiguous.
    kept: [Vec<u8>; 2],
    pieces: Vec<Piece>,
    /// Of the direction, bytes went by that are not kept.
    past_first: [bool; 2],
    /// Nothing more can be added to what is kept: some of it was not captured.
    sealed: [bool; 2],
    misses: u8,
}

/// A chunk, or several, of what is kept.
#[derive(Debug)]
struct Piece {
    direction: Direction,
    timestamp: Timestamp,
    offset: u64,
    bytes: usize,
    total: u64,
}

impl Detector {
    /// Takes the next chunk. When the protocol is found, this chunk is kept as well and comes with [`Self::replay`].
    pub(crate) fn chunk(&mut self, chunk: &Chunk<'_>, lost: u64, transport: Transport) -> DetectorOutcome {
        if chunk.bytes.is_empty() && chunk.total == 0 {
            return DetectorOutcome::Pending;
        }
        let this = chunk.direction as usize;
        if lost > 0 || self.sealed[this] || transport == Transport::Datagram {
            self.discard(chunk.direction);
        }
        if chunk.bytes.is_empty() {
            self.discard(chunk.direction);
            self.past_first[this] = true;
            return self.count_miss();
        }
        let continued = !self.kept[this].is_empty();
        self.keep(chunk);
        let mut matched = self.match_table(chunk.direction, transport);
        if continued && matches!(matched, TableMatch::No) {
            // The bytes before are no message of any protocol: perhaps one starts with this chunk.
            self.discard(chunk.direction);
            if self.count_miss() == DetectorOutcome::GaveUp {
                return DetectorOutcome::GaveUp;
            }
            self.keep(chunk);
            matched = self.match_table(chunk.direction, transport);
        }
        match matched {
            TableMatch::Yes(protocol, side) => DetectorOutcome::Detected(protocol, side),
            TableMatch::More if !self.sealed[this] || transport == Transport::Datagram => {
                DetectorOutcome::Pending
            }
            // Only the other end can say more.
            TableMatch::More => self.count_miss(),
            TableMatch::No => {
                self.discard(chunk.direction);
                self.count_miss()
            }
        }
    }

    /// Gives back everything that was kept, in its order.
    pub(crate) fn replay(&self, mut to: impl FnMut(&Chunk<'_>, u64)) {
        let mut at = [0_usize; 2];
        for piece in &self.pieces {
            let this = piece.direction as usize;
            let bytes = self.kept[this].get(at[this]..at[this] + piece.bytes).unwrap_or_default();
            at[this] += piece.bytes;
            to(
                &Chunk {
                    direction: piece.direction,
                    timestamp: piece.timestamp,
                    offset: piece.offset,
                    bytes,
                    total: piece.total,
                },
                0,
            );
        }
    }

    fn count_miss(&mut self) -> DetectorOutcome {
        self.misses += 1;
        if self.misses >= MISSES_MAX { DetectorOutcome::GaveUp } else { DetectorOutcome::Pending }
    }

    fn discard(&mut self, direction: Direction) {
        let this = direction as usize;
        self.past_first[this] |= !self.kept[this].is_empty();
        self.kept[this].clear();
        self.sealed[this] = false;
        self.pieces.retain(|piece| piece.direction != direction);
    }

    fn keep(&mut self, chunk: &Chunk<'_>) {
        let this = chunk.direction as usize;
        self.kept[this].extend_from_slice(chunk.bytes);
        self.sealed[this] = chunk.total > chunk.bytes.len() as u64;
        if self.pieces.len() >= PIECES_MAX
            && let Some(last) = self.pieces.iter_mut().rev().find(|piece| piece.direction == chunk.direction)
        {
            last.bytes += chunk.bytes.len();
            last.total += chunk.total;
            return;
        }
        self.pieces.push(Piece {
            direction: chunk.direction,
            timestamp: chunk.timestamp,
            offset: chunk.offset,
            bytes: chunk.bytes.len(),
            total: chunk.total,
        });
    }

    /// Asks every protocol about what is kept of a direction.
    fn match_table(&mut self, direction: Direction, transport: Transport) -> TableMatch {
        let this = direction as usize;
        if transport == Transport::Stream && !self.past_first[this] {
            match proxy::prefix(&self.kept[this]) {
                ProxyHeader::None => {}
                ProxyHeader::More => return TableMatch::More,
                ProxyHeader::Header(length) => {
                    self.strip(direction, length);
                    if self.kept[this].is_empty() {
                        return TableMatch::More;
                    }
                }
            }
        }
        let truncated = self.pieces.iter().filter(|piece| piece.direction == direction);
        let prefix = Prefix {
            transport,
            bytes: &self.kept[this],
            total: truncated.map(|piece| piece.total).sum(),
            first: !self.past_first[this],
            peer: &self.kept[1 - this],
        };
        let mut matched = TableMatch::No;
        for entry in table::TABLE.iter().filter(|entry| entry.transports.contains(&transport)) {
            match (entry.detect)(&prefix) {
                Detection::Yes(sender) => return TableMatch::Yes(entry.protocol, sender.side(direction)),
                Detection::More => matched = TableMatch::More,
                Detection::No => {}
            }
        }
        let pieces = self.pieces.iter().filter(|piece| piece.direction == direction).count();
        if matches!(matched, TableMatch::More) && pieces > 1 && self.kept[this].len() >= PREFIX_BYTES_MAX {
            return TableMatch::No;
        }
        matched
    }

    /// Removes a prefix that is not the protocol's.
    fn strip(&mut self, direction: Direction, length: usize) {
        let mut left = length;
        self.kept[direction as usize].drain(..length.min(self.kept[direction as usize].len()));
        self.pieces.retain_mut(|piece| {
            if piece.direction != direction || left == 0 {
                return true;
            }
            let cut = left.min(piece.bytes);
            left -= cut;
            piece.bytes -= cut;
            piece.offset += cut as u64;
            piece.total -= cut as u64;
            piece.total > 0
        });
        self.past_first[direction as usize] = false;
    }
}

enum TableMatch {
    No,
    More,
    Yes(Protocol, Side),
}
