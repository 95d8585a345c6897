//! Exchanges that the kernel side pairs and counts by itself, so that nothing of them is copied to user space.
//!
//! ```text
//! request  ──► Pending (key, start) ─┐
//!                                    ├─► Slot of the key and the status: a histogram that the agent reads
//! response ──► end, status ──────────┘   or, while they have none: Completed, and the agent learns the key
//! ```
//!
//! A connection is counted by the kernel from its first byte, when that begins a request of a protocol that the
//! programs can follow; those of databases, when user space has seen the login and offers them. At the first thing on it that they cannot, all that is known about it goes to user space
//! ([`Counted`] itself is the record), which follows it from there: every exchange is counted by exactly one of the
//! two.
//!
//! User space offers connections that it follows when nothing is under way on them ([`OFFERED`]). The programs take an
//! offer with the next call if nothing moved since, and say so.

/// Protocols that the programs follow.
pub mod protocol {
    /// HTTP/1.0 and HTTP/1.1.
    pub const HTTP1: u16 = 1;
    /// Redis.
    pub const REDIS: u16 = 2;
    /// MySQL and MariaDB.
    pub const MYSQL: u16 = 3;
    /// PostgreSQL.
    pub const POSTGRESQL: u16 = 4;
}

/// On which side of its connection the observed process is.
pub mod side {
    /// It answers.
    pub const SERVER: u16 = 0;
    /// It asks.
    pub const CLIENT: u16 = 1;
}

/// What one direction of a counted connection is in the middle of.
pub mod reading {
    /// A message's first byte comes next.
    pub const START: u32 = 0;
    /// [`super::Reading::left`] bytes of a body.
    pub const LENGTH: u32 = 1;
    /// [`super::Reading::left`] bytes: the data of a chunk and its line end.
    pub const CHUNK_DATA: u32 = 2;
    /// The line with a chunk's size.
    pub const CHUNK_SIZE: u32 = 3;
    /// Redis: [`super::Reading::left`] bytes of a bulk with its line end, then [`super::Reading::items`] values more.
    pub const ITEMS: u32 = 4;
    /// HTTP: a request's first byte was read by itself, and is [`super::Reading::left`].
    pub const FIRST: u32 = 5;
    /// MySQL: a command's header was read by itself, and [`super::Reading::left`] bytes follow.
    pub const HEADER: u32 = 6;
    /// MySQL: [`super::Reading::items`] definitions of columns.
    pub const COLUMNS: u32 = 7;
    /// MySQL: what follows those.
    pub const BEHIND_COLUMNS: u32 = 8;
    /// MySQL: rows. PostgreSQL: any further message of an answer.
    pub const ROWS: u32 = 9;
}

/// Bytes of a message's header that came at the end of a call: [`Reading::request`] has them, the first one lowest, and
/// above them their number.
pub mod held {
    /// Most bytes.
    pub const MAX: u64 = 4;

    /// Both together.
    #[inline(always)]
    pub const fn pack(bytes: u64, count: u64) -> u64 {
        (bytes & ((1 << (8 * count)) - 1)) | (count << 56)
    }

    /// The bytes, and how many they are.
    #[inline(always)]
    pub const fn unpack(packed: u64) -> (u64, u64) {
        (packed & ((1 << 56) - 1), packed >> 56)
    }
}

/// Where one direction stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Reading {
    /// Bytes until the next decision.
    pub left: u64,
    /// Bytes of the current message so far.
    pub bytes: u64,
    /// When the current message's first byte moved, nanoseconds of `CLOCK_MONOTONIC`.
    pub start: u64,
    /// Of a request: what it asks for, as in [`Pending::request`]. Of a response: its status; of a database's the bytes
    /// that are [`held`].
    pub request: u64,
    /// Values that are still to come.
    pub items: u32,
    /// One of [`reading`].
    pub state: u32,
}

/// A request that waits for its response.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Pending {
    /// What it asks for: see [`RequestKey::request`].
    pub request: u64,
    /// When its first byte moved, nanoseconds of `CLOCK_MONOTONIC`.
    pub start: u64,
    /// Its size, bytes.
    pub bytes: u32,
    /// Bits of [`flag`].
    pub flags: u32,
    /// Index in the table of learned keys, plus one; 0 when the key was not learned.
    pub learned: u32,
    /// That entry's [`Learned::generation`] then.
    pub generation: u32,
}

/// Flags of a request.
pub mod flag {
    /// `HEAD`: the response has no body.
    pub const HEAD: u32 = 1;
    /// A prepared statement is executed: user space has its name from elsewhere.
    pub const PREPARED: u32 = 2;
}

/// Flags of a [`Command`].
pub mod command {
    /// The programs do not follow connections on which it is said with an argument that begins with `R` or `T`:
    /// `CLIENT REPLY` and `CLIENT TRACKING`.
    pub const MIND_ARGUMENT: u32 = 1;
}

/// A Redis command that the programs follow.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Command {
    /// The agent's number for it.
    pub id: u32,
    /// Bits of [`command`].
    pub flags: u32,
}

/// A prepared statement of MySQL.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[repr(C)]
pub struct StatementKey {
    /// The connection.
    pub connection: u64,
    /// The server's number for it.
    pub id: u64,
}

/// Most requests that wait on one counted connection; one more, and user space takes over.
pub const PENDING_MAX: usize = 64;

/// [`Counted::kind`] of a connection that user space follows and offers: nothing but protocol, side and positions is set.
pub const OFFERED: u32 = 0;

/// A connection that the kernel side follows. As a record, [`Self::kind`] comes first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Counted {
    /// [`crate::record::kind::HANDOVER`], or [`OFFERED`].
    pub kind: u32,
    /// One of [`protocol`].
    pub protocol: u16,
    /// One of [`side`].
    pub side: u16,
    /// The connection.
    pub connection: u64,
    /// Number of the handover among the connection's records.
    pub sequence: u64,
    /// What was followed of both directions, bytes.
    pub offset: [u64; 2],
    /// Not zero while a CPU works on it.
    pub lock: u64,
    /// Who is at the other end, for [`RequestKey::remote`].
    pub remote: u64,
    /// The control group, for [`RequestKey::cgroup`].
    pub cgroup: u64,
    /// The connection's key in the table of connections.
    pub socket: u64,
    /// Of each place in [`Self::pending`], whether [`flag::HEAD`] is set.
    pub heads: u64,
    /// Requests pushed so far; the next one's place is this modulo [`PENDING_MAX`].
    pub pushed: u32,
    /// Requests answered so far.
    pub popped: u32,
    /// The direction of the requests.
    pub requests: Reading,
    /// The direction of the responses.
    pub responses: Reading,
    /// The requests that wait.
    pub pending: [Pending; PENDING_MAX],
}

impl Counted {
    /// An offer: see [`OFFERED`].
    pub const fn offered(connection: u64, protocol: u16, side: u16, offset: [u64; 2]) -> Self {
        const NOTHING_READ: Reading = Reading { left: 0, bytes: 0, start: 0, request: 0, items: 0, state: 0 };
        const NOTHING: Pending =
            Pending { request: 0, start: 0, bytes: 0, flags: 0, learned: 0, generation: 0 };
        Self {
            kind: OFFERED,
            protocol,
            side,
            connection,
            sequence: 0,
            offset,
            lock: 0,
            remote: 0,
            cgroup: 0,
            socket: 0,
            heads: 0,
            pushed: 0,
            popped: 0,
            requests: NOTHING_READ,
            responses: NOTHING_READ,
            pending: [NOTHING; PENDING_MAX],
        }
    }
}

/// What the exchanges of one learned key have in common, but for the status.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[repr(C)]
pub struct RequestKey {
    /// The process's control group.
    pub cgroup: u64,
    /// Hash of the other end's address for clients; 0 for servers, whose clients' ports pass.
    pub remote: u64,
    /// HTTP: hash of method and path as [`PathHash`] makes it. Redis: [`Command::id`]. MySQL and PostgreSQL: the
    /// statement's hash as [`crate::sql::SqlHash`] makes it; a MySQL command without one is its number, below
    /// [`COMMANDS_MAX`].
    pub request: u64,
    /// One of [`protocol`].
    pub protocol: u32,
    /// One of [`side`].
    pub side: u32,
}

/// Numbers of MySQL's commands end here.
pub const COMMANDS_MAX: u64 = 0x100;

/// Statuses that one learned key has slots for.
pub const STATUSES: usize = 8;

/// A learned key.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Learned {
    /// Changes when the entry is used for another key.
    pub generation: u32,
    /// Slots in use.
    pub used: u32,
    /// Their statuses: HTTP's; otherwise 0 for success.
    pub statuses: [u32; STATUSES],
    /// Their indexes.
    pub slots: [u32; STATUSES],
}

/// Most learned keys.
pub const LEARNED_MAX: u32 = 768;

/// Most pairs of a learned key and a status.
pub const SLOTS_MAX: u32 = 768;

/// Most copies of the slots: CPUs share them when there are more.
pub const STRIPES_MAX: u32 = 8;

/// Which exchanges that have a slot are told in full and not counted there; all in nanoseconds, [`u64::MAX`] for never.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Choice {
    /// From this duration on an exchange is slow.
    pub slow: u64,
    /// How long ago the slot's last one must be for a failed or slow exchange.
    pub failures_interval: u64,
    /// How long ago it must be for any other.
    pub interval: u64,
}

/// What was counted in one slot by the CPUs of one stripe, cumulative; all of it wraps.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct Slot {
    /// Sum of durations, nanoseconds.
    pub duration_ns: u64,
    /// Sum of the requests' sizes, bytes.
    pub request_bytes: u64,
    /// Sum of the responses' sizes, bytes.
    pub response_bytes: u64,
    /// When the newest one ended, nanoseconds of `CLOCK_MONOTONIC`.
    pub last: u64,
    /// When the newest one that was chosen to be told in full ended; that one is not counted here.
    pub chosen: u64,
    /// Exchanges by bucket: index 0 is [`porthole_histogram::INDEX_MIN`].
    pub buckets: [u32; porthole_histogram::BUCKETS],
    /// Zero.
    pub reserved: u32,
}

/// Bytes of an outcome's text that go to user space.
pub const TEXT_MAX: usize = 48;

/// An exchange whose key or status has no slot, or that was chosen to be told in full.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Completed {
    /// [`crate::record::kind::COMPLETED`] or [`crate::record::kind::CHOSEN`].
    pub kind: u32,
    /// HTTP: the status. Otherwise 0, or 1 for an error.
    pub status: u32,
    /// The connection.
    pub connection: u64,
    /// Counts the connection's records.
    pub sequence: u64,
    /// When the request's first byte moved, nanoseconds of `CLOCK_MONOTONIC`.
    pub start: u64,
    /// When the response's last byte moved.
    pub end: u64,
    /// The request's size, bytes.
    pub request_bytes: u64,
    /// The response's size, bytes.
    pub response_bytes: u64,
    /// Process that moved the last bytes, in the outermost namespace.
    pub tgid: u32,
    /// The same of the thread.
    pub tid: u32,
    /// Its key.
    pub key: RequestKey,
    /// Redis: the beginning of an error's text. MySQL: an error's packet, from its number on. PostgreSQL: an error's
    /// fields, or the command's tag.
    pub text: [u64; TEXT_MAX / 8],
}

/// Hash of an HTTP request's method and path.
///
/// A segment that is certainly an id (digits; or hexadecimal digits as of a UUID) is hashed as such and not by its
/// value: `/users/1` and `/users/2` are one key. Paths with equal hashes have equal routes; that equal routes may have
/// several hashes does no harm.
#[derive(Clone, Copy, Debug)]
pub struct PathHash {
    hash: u64,
    /// At the beginning of the segment.
    segment: u64,
    /// Of the segment: digits, 12 bits; hexadecimal letters, 12 bits; everything else but dashes, 8 bits.
    counts: u32,
}

const PRIME: u64 = 0x0000_0100_0000_01b3;
const BASIS: u64 = 0xcbf2_9ce4_8422_2325;
/// No byte: what an id is hashed as.
const ID: u64 = 0x1_00;

const DIGIT: u32 = 1;
const HEX: u32 = 1 << 12;
const WORD: u32 = 1 << 24;

/// What each byte adds to [`PathHash::counts`].
pub type Classes = [u32; 256];

/// Digits, hexadecimal letters, dashes, everything else.
pub const CLASSES: Classes = {
    let mut classes = [WORD; 256];
    let mut byte = 0;
    while byte < 256 {
        // ASCII: digits; letters up to `F`, large and small; `-`, `:`, `_`.
        classes[byte] = match byte {
            0x30..=0x39 => DIGIT,
            0x41..=0x46 | 0x61..=0x66 => HEX,
            0x2d | 0x3a | 0x5f => 0,
            _ => WORD,
        };
        byte += 1;
    }
    classes
};

impl PathHash {
    /// Before the path; `method` is the method's number.
    #[inline(always)]
    pub const fn new(method: u64) -> Self {
        let hash = (BASIS ^ method).wrapping_mul(PRIME);
        Self { hash, segment: hash, counts: 0 }
    }

    /// Takes the path's next byte; `class` is that of the byte.
    #[inline(always)]
    pub const fn take(&mut self, byte: u8, class: u32) {
        if byte == b'/' {
            self.end_segment();
            self.hash = (self.hash ^ byte as u64).wrapping_mul(PRIME);
            self.segment = self.hash;
            self.counts = 0;
            return;
        }
        self.hash = (self.hash ^ byte as u64).wrapping_mul(PRIME);
        // So many words that they overflow do not fit in a path that is hashed.
        self.counts = self.counts.wrapping_add(class);
        if self.counts >= 2 * WORD {
            self.counts -= WORD;
        }
    }

    /// The hash of the whole path.
    #[inline(always)]
    pub const fn finish(mut self) -> u64 {
        self.end_segment();
        self.hash
    }

    #[inline(always)]
    const fn end_segment(&mut self) {
        let (digits, hex) = (self.counts & 0xfff, (self.counts >> 12) & 0xfff);
        let id = self.counts < WORD && digits > 0 && (hex == 0 || digits + hex >= 8 || digits >= 4);
        if id {
            self.hash = (self.segment ^ ID).wrapping_mul(PRIME);
        }
    }
}

/// Hash of a Redis command's name, in the case in which it was said.
#[inline(always)]
pub const fn hash_byte(hash: u64, byte: u8) -> u64 {
    (hash ^ byte as u64).wrapping_mul(PRIME)
}

/// What [`hash_byte`] begins with.
pub const HASH_START: u64 = BASIS;

/// Methods of requests that the programs follow; a method's number is its place, from 1.
pub const METHODS: [&str; 7] = ["GET", "POST", "PUT", "HEAD", "DELETE", "PATCH", "OPTIONS"];

#[cfg(test)]
mod tests {
    use super::*;

    fn hash(path: &str) -> u64 {
        let mut hash = PathHash::new(1);
        for byte in path.bytes() {
            hash.take(byte, CLASSES[usize::from(byte)]);
        }
        hash.finish()
    }

    #[test]
    fn ids_are_one_key_and_words_are_not() {
        assert_eq!(hash("/users/1"), hash("/users/4711"));
        assert_eq!(hash("/users/1/orders/2024-01-31"), hash("/users/22/orders/2025-12-01"));
        let uuid = "/items/0f3c9a1e-77aa-4d1b-9c2e-0123456789ab";
        assert_eq!(hash(uuid), hash("/items/123"));
        for (one, other) in [
            ("/users/a", "/users/b"),
            ("/users/1", "/users/1/"),
            ("/users/1", "/orders/1"),
            ("/users/1", "/users/-"),
            ("/1", "/1/1"),
            ("/v1", "/v2"),
            ("/face", "/cafe"),
            ("/", "//"),
        ] {
            assert_ne!(hash(one), hash(other), "{one} {other}");
        }
        assert_ne!(hash("/users/1"), PathHash::new(2).finish());
    }

    #[test]
    fn long_segments_do_not_overflow_the_counts() {
        let (words, digits) = ("w".repeat(1023), "1".repeat(1023));
        assert_ne!(hash(&format!("/{words}1")), hash(&format!("/{words}2")));
        assert_eq!(hash(&format!("/{digits}")), hash("/7"));
    }
}
