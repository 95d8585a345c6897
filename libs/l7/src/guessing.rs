//! Before the protocol is known: keeps the first bytes of both ends, and asks the table.

use crate::{
    Chunk, Direction, Protocol, Side, Timestamp,
    parser::{Guess, OPENING_BYTES_MAX, Opening, Transport},
    proxy::{self, Prefix},
    table,
};

/// Chunks in which no protocol's message starts, after which a connection is given up.
const FRUITLESS_MAX: u8 = 8;

/// Most pieces into which the kept bytes may be cut; further ones are joined and take the first one's time.
const PIECES_MAX: usize = 64;

/// What a chunk showed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Found {
    Nothing,
    GaveUp,
    Protocol(Protocol, Side),
}

/// What is kept of one connection.
#[derive(Debug, Default)]
pub(crate) struct Guessing {
    /// By direction: bytes from the start of a chunk on, contiguous.
    kept: [Vec<u8>; 2],
    pieces: Vec<Piece>,
    /// Of the direction, bytes went by that are not kept.
    past_first: [bool; 2],
    /// Nothing more can be added to what is kept: some of it was not captured.
    sealed: [bool; 2],
    fruitless: u8,
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

impl Guessing {
    /// Takes the next chunk. When the protocol is found, this chunk is kept as well and comes with [`Self::replay`].
    pub(crate) fn chunk(&mut self, chunk: &Chunk<'_>, lost: u64, transport: Transport) -> Found {
        if chunk.bytes.is_empty() && chunk.total == 0 {
            return Found::Nothing;
        }
        let this = chunk.direction as usize;
        if lost > 0 || self.sealed[this] || transport == Transport::Datagram {
            self.discard(chunk.direction);
        }
        if chunk.bytes.is_empty() {
            self.discard(chunk.direction);
            self.past_first[this] = true;
            return self.fruitless();
        }
        let continued = !self.kept[this].is_empty();
        self.keep(chunk);
        let mut guess = self.ask(chunk.direction, transport);
        if continued && matches!(guess, Asked::No) {
            // What was begun leads nowhere: perhaps a message starts with this chunk.
            self.discard(chunk.direction);
            if self.fruitless() == Found::GaveUp {
                return Found::GaveUp;
            }
            self.keep(chunk);
            guess = self.ask(chunk.direction, transport);
        }
        match guess {
            Asked::Yes(protocol, side) => Found::Protocol(protocol, side),
            Asked::More if !self.sealed[this] || transport == Transport::Datagram => Found::Nothing,
            // Only the other end can say more.
            Asked::More => self.fruitless(),
            Asked::No => {
                self.discard(chunk.direction);
                self.fruitless()
            }
        }
    }

    /// Gives back everything that was kept, in the order in which it came.
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

    fn fruitless(&mut self) -> Found {
        self.fruitless += 1;
        if self.fruitless >= FRUITLESS_MAX { Found::GaveUp } else { Found::Nothing }
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
    fn ask(&mut self, direction: Direction, transport: Transport) -> Asked {
        let this = direction as usize;
        if transport == Transport::Stream && !self.past_first[this] {
            match proxy::prefix(&self.kept[this]) {
                Prefix::None => {}
                Prefix::More => return Asked::More,
                Prefix::Header(length) => {
                    self.strip(direction, length);
                    if self.kept[this].is_empty() {
                        return Asked::More;
                    }
                }
            }
        }
        let unseen = self.pieces.iter().filter(|piece| piece.direction == direction);
        let opening = Opening {
            transport,
            bytes: &self.kept[this],
            total: unseen.map(|piece| piece.total).sum(),
            first: !self.past_first[this],
            peer: &self.kept[1 - this],
        };
        let mut asked = Asked::No;
        for entry in table::TABLE.iter().filter(|entry| entry.transports.contains(&transport)) {
            match (entry.identify)(&opening) {
                Guess::Yes(sender) => return Asked::Yes(entry.protocol, sender.side(direction)),
                Guess::More => asked = Asked::More,
                Guess::No => {}
            }
        }
        let pieces = self.pieces.iter().filter(|piece| piece.direction == direction).count();
        if matches!(asked, Asked::More) && pieces > 1 && self.kept[this].len() >= OPENING_BYTES_MAX {
            return Asked::No;
        }
        asked
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

enum Asked {
    No,
    More,
    Yes(Protocol, Side),
}
