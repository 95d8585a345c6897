//! Before the protocol is known: keeps the first bytes of both ends, and compares them with the table's protocols.

use crate::{
    Chunk, Direction, Protocol, Side, Timestamp,
    parser::{Detection, PREFIX_BYTES_MAX, Prefix, Sender, Start, Transport, Unrecognised},
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
    /// The connection was open before: its first bytes may be within a message.
    is_joined: bool,
    /// Bytes of either end were lost.
    has_lost: bool,
    /// Nothing more can be added to what is kept: some of it was not captured.
    sealed: [bool; 2],
    /// Bytes that were lost, or not captured, since the other end sent what is kept of it.
    lost: [u64; 2],
    /// By direction: the last bytes, if they fit no protocol.
    unrecognised: [Option<Unrecognised>; 2],
    /// By direction: what is kept of it came right behind bytes of the other.
    is_turn: [bool; 2],
    /// By direction: what moves may be the rest of a message that was not seen; and what is kept.
    is_rest: [bool; 2],
    keeps_rest: [bool; 2],
    /// Which way the last chunk moved.
    last: Option<Direction>,
    misses: u8,
    /// Bytes that moved so far, lost ones too.
    moved: u64,
    /// By direction: whether bytes moved.
    ways: [bool; 2],
    /// Whether any byte was captured.
    has_seen: bool,
    /// Bytes of headers that are not the protocol's.
    stripped: u64,
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
    /// Of a connection that was open before.
    pub(crate) fn joined() -> Self {
        Self { is_joined: true, is_rest: [true; 2], ..Self::default() }
    }

    /// Whether what is kept of a direction, or comes next, is the connection's first.
    pub(crate) fn is_first(&self, direction: Direction) -> bool {
        !self.is_joined && !self.past_first[direction as usize]
    }

    /// Whether what is kept of a direction, or comes next, begins a message for certain: it is the connection's first, or it
    /// answers what the other end sent, and everything before was seen.
    fn is_boundary(&self, direction: Direction) -> bool {
        self.is_first(direction)
            || (!self.is_joined
                && !self.has_lost
                && self.is_turn_of(direction)
                && !self.is_rest_of(direction))
    }

    /// Whether what is kept of a direction, or comes next, follows bytes of the other end.
    fn is_turn_of(&self, direction: Direction) -> bool {
        let this = direction as usize;
        if self.kept[this].is_empty() { self.last == Some(direction.reverse()) } else { self.is_turn[this] }
    }

    /// Whether what is kept of a direction, or comes next, may be the rest of a message that was not seen.
    fn is_rest_of(&self, direction: Direction) -> bool {
        let this = direction as usize;
        if self.kept[this].is_empty() {
            self.is_rest[this] && !self.is_turn_of(direction)
        } else {
            self.keeps_rest[this]
        }
    }

    /// How a parser of a process on this side starts with what is kept.
    pub(crate) fn start(&self, transport: Transport, side: Side) -> Start {
        let is_client = Sender::of(Direction::Ingress, side) == Sender::Client;
        let by_sender = if is_client {
            [Direction::Ingress, Direction::Egress]
        } else {
            [Direction::Egress, Direction::Ingress]
        };
        Start {
            is_boundary: by_sender.map(|direction| self.is_boundary(direction)),
            is_rest: by_sender.map(|direction| self.is_rest_of(direction)),
            ..Start::at_boundary(transport)
        }
    }

    /// Takes the next chunk. When the protocol is found, this chunk is kept as well and comes with [`Self::replay`].
    /// Before it bytes are missing, of which some were lost.
    pub(crate) fn chunk(
        &mut self,
        chunk: &Chunk<'_>,
        [lost, counted]: [u64; 2],
        transport: Transport,
    ) -> DetectorOutcome {
        if chunk.bytes.is_empty() && chunk.total == 0 {
            return DetectorOutcome::Pending;
        }
        let this = chunk.direction as usize;
        let turned = self.last.replace(chunk.direction).is_some_and(|last| last != chunk.direction);
        self.is_rest[this] = (self.is_rest[this] && !turned) || lost > 0;
        self.has_lost |= lost > 0;
        if lost == 0
            && (chunk.bytes.is_empty() || (!turned && transport == Transport::Stream))
            && self.sealed[this]
            && let Some(last) = self.pieces.iter_mut().rev().find(|piece| piece.direction == chunk.direction)
        {
            // More of the contents of which nothing is kept.
            last.total += chunk.total;
            return DetectorOutcome::Pending;
        }
        if lost > 0 || self.sealed[this] || transport == Transport::Datagram {
            self.discard(chunk.direction);
            self.past_first[this] |= lost > 0;
        }
        if transport == Transport::Stream {
            self.lost[this] = self.lost[this].saturating_add(counted);
        }
        if chunk.bytes.is_empty() {
            if transport == Transport::Stream {
                self.lost[this] = self.lost[this].saturating_add(chunk.total);
            }
            self.discard(chunk.direction);
            self.past_first[this] = true;
            return self.count_miss();
        }
        let continued = !self.kept[this].is_empty();
        self.keep(chunk, turned && counted == 0);
        let mut matched = self.match_table(chunk.direction, transport);
        // After bytes of the other end a message may start, whatever the bytes before could become.
        let begins = |detector: &Self| {
            let total = chunk.total;
            let place = Position { first: false, is_rest: !turned, is_turn: turned, last: false };
            let found = detector.match_bytes(chunk.direction, chunk.bytes, total, place, transport);
            turned && matches!(found, TableMatch::Yes(..))
        };
        // The beginning of what was sent between is gone: nothing that is kept answers the bytes before. What is kept of the
        // other end since earlier than those has no beginning in between.
        let began_before = || self.pieces.first().is_some_and(|first| first.direction != chunk.direction);
        let is_answered = || {
            let peer = chunk.direction.reverse();
            !self.kept[1 - this].is_empty() && (began_before() || self.position(peer, false).is_turn)
        };
        let is_stale = turned && transport == Transport::Stream && !is_answered();
        let restarts = match matched {
            TableMatch::No => true,
            TableMatch::More => is_stale || begins(self),
            TableMatch::Yes(..) => false,
        };
        if continued && restarts {
            // The bytes before are no message of any protocol: perhaps one starts with this chunk.
            self.discard(chunk.direction);
            if self.count_miss() == DetectorOutcome::GaveUp {
                return DetectorOutcome::GaveUp;
            }
            self.keep(chunk, turned);
            matched = self.match_table(chunk.direction, transport);
        }
        match matched {
            TableMatch::Yes(protocol, side) => DetectorOutcome::Detected(protocol, side),
            TableMatch::More if !self.sealed[this] || transport == Transport::Datagram => {
                DetectorOutcome::Pending
            }
            // Only bytes of the other end can decide.
            TableMatch::More => self.count_miss(),
            TableMatch::No => {
                self.reject(chunk.direction, turned);
                self.count_miss()
            }
        }
    }

    /// The last bytes of one end, if they fit no protocol and nothing else is kept of it.
    pub(crate) fn unrecognised(&self, direction: Direction) -> Option<Unrecognised> {
        let this = direction as usize;
        self.unrecognised[this].filter(|_| self.kept[this].is_empty())
    }

    /// What is kept of a direction fits no protocol, and this end may begin with it.
    fn reject(&mut self, direction: Direction, begins: bool) {
        let this = direction as usize;
        let pieces = || self.pieces.iter().filter(|piece| piece.direction == direction);
        let bytes = pieces().map(|piece| piece.total).sum();
        let before = self.unrecognised[this].filter(|_| !begins);
        self.unrecognised[this] = match before {
            Some(before) => Some(Unrecognised { bytes: before.bytes.saturating_add(bytes), ..before }),
            None if self.is_rest[this] => None,
            None => pieces().next().map(|first| Unrecognised { start: first.timestamp, bytes }),
        };
        self.discard(direction);
    }

    /// So many bytes moved this way, of which some were captured or none.
    pub(crate) fn count_moved(&mut self, direction: Direction, bytes: u64, is_captured: bool) {
        self.moved = self.moved.saturating_add(bytes);
        self.ways[direction as usize] |= bytes > 0;
        self.has_seen |= is_captured;
    }

    /// The bytes that moved, if they moved both ways and not one was captured.
    pub(crate) fn uncaptured(&self) -> Option<u64> {
        (self.ways == [true; 2] && !self.has_seen).then_some(self.moved)
    }

    /// Bytes that moved and that [`Self::replay`] does not give back; those of headers before the protocol are known.
    pub(crate) fn not_kept(&self) -> u64 {
        let kept = self.pieces.iter().map(|piece| piece.total).fold(self.stripped, u64::saturating_add);
        self.moved.saturating_sub(kept)
    }

    /// Gives back everything that was kept, in its order.
    pub(crate) fn replay(&self, mut to: impl FnMut(&Chunk<'_>, u64)) {
        let mut at = [0_usize; 2];
        for piece in &self.pieces {
            let this = piece.direction as usize;
            let bytes = self.kept[this].get(at[this]..at[this] + piece.bytes).unwrap_or_default();
            let lost = if at[this] == 0 { self.lost[this] } else { 0 };
            at[this] += piece.bytes;
            to(
                &Chunk {
                    direction: piece.direction,
                    timestamp: piece.timestamp,
                    offset: piece.offset,
                    bytes,
                    total: piece.total,
                },
                lost,
            );
        }
    }

    fn count_miss(&mut self) -> DetectorOutcome {
        self.misses += 1;
        if self.misses >= MISSES_MAX { DetectorOutcome::GaveUp } else { DetectorOutcome::Pending }
    }

    fn discard(&mut self, direction: Direction) {
        let this = direction as usize;
        if self.sealed[this] {
            let discarded = self.pieces.iter().filter(|piece| piece.direction == direction);
            self.lost[this] = discarded.fold(self.lost[this], |sum, piece| sum.saturating_add(piece.total));
        }
        self.past_first[this] |= !self.kept[this].is_empty();
        self.kept[this].clear();
        self.sealed[this] = false;
        self.pieces.retain(|piece| piece.direction != direction);
    }

    fn keep(&mut self, chunk: &Chunk<'_>, is_turn: bool) {
        let this = chunk.direction as usize;
        if self.kept[this].is_empty() {
            self.is_turn[this] = is_turn;
            self.keeps_rest[this] = self.is_rest[this];
        }
        if self.kept[1 - this].is_empty() {
            // Nothing that the other end sent before is left.
            self.lost[this] = 0;
        }
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

    /// Offers every protocol what is kept of a direction.
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
        let total =
            self.pieces.iter().filter(|piece| piece.direction == direction).map(|piece| piece.total).sum();
        let position = self.position(direction, false);
        let matched = self.match_bytes(direction, &self.kept[this], total, position, transport);
        let pieces = self.pieces.iter().filter(|piece| piece.direction == direction).count();
        if matches!(matched, TableMatch::More) && pieces > 1 && self.kept[this].len() >= PREFIX_BYTES_MAX {
            // Enough is kept: only the other end can show more.
            self.sealed[this] = true;
        }
        matched
    }

    /// Where what is kept of a direction stands; `last` when nothing follows.
    fn position(&self, direction: Direction, last: bool) -> Position {
        let first = self.is_first(direction);
        let this = direction as usize;
        let is_rest = if self.kept[this].is_empty() { self.is_rest[this] } else { self.keeps_rest[this] };
        Position { first, is_rest, is_turn: first || self.is_turn[this], last }
    }

    /// Offers every protocol these bytes.
    fn match_bytes(
        &self,
        direction: Direction,
        bytes: &[u8],
        total: u64,
        Position { first, is_rest, is_turn, last }: Position,
        transport: Transport,
    ) -> TableMatch {
        let peer = &self.kept[1 - direction as usize];
        let peer_is_turn = self.position(direction.reverse(), last).is_turn;
        let prefix = Prefix { transport, bytes, total, first, is_rest, is_turn, peer, peer_is_turn, last };
        let mut matched = TableMatch::No;
        for entry in table::TABLE.iter().filter(|entry| entry.transports.contains(&transport)) {
            match (entry.detect)(&prefix) {
                Detection::Yes(sender) => return TableMatch::Yes(entry.protocol, sender.side(direction)),
                Detection::More => matched = TableMatch::More,
                Detection::No => {}
            }
        }
        matched
    }

    /// The connection has ended: what one end alone sent may be recognised now.
    pub(crate) fn conclude(&self, transport: Transport) -> Option<(Protocol, Side)> {
        [Direction::Ingress, Direction::Egress].into_iter().find_map(|direction| {
            let this = direction as usize;
            let (bytes, peer) = (self.kept.get(this)?, self.kept.get(1 - this)?);
            if bytes.is_empty() || !peer.is_empty() || self.past_first[1 - this] {
                return None;
            }
            let position = self.position(direction, true);
            match self.match_bytes(direction, bytes, bytes.len() as u64, position, transport) {
                TableMatch::Yes(protocol, side) => Some((protocol, side)),
                TableMatch::No | TableMatch::More => None,
            }
        })
    }

    /// Removes a prefix that is not the protocol's.
    fn strip(&mut self, direction: Direction, length: usize) {
        let mut left = length;
        self.stripped = self.stripped.saturating_add(length as u64);
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

/// Where bytes stand on their connection, as in [`Prefix`].
#[derive(Clone, Copy, Debug)]
#[allow(clippy::struct_excessive_bools)] // Independent facts about one place, not states.
struct Position {
    first: bool,
    is_rest: bool,
    is_turn: bool,
    last: bool,
}

enum TableMatch {
    No,
    More,
    Yes(Protocol, Side),
}
