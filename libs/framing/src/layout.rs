//! The table of protocols whose messages begin with their length.
//!
//! The length gives where the next message begins, the type how much of a message a parser reads. Both are within
//! a message's first eight bytes.

use porthole_protocol::Protocol;

/// How messages of a connection are found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Framing {
    /// The protocol is not known.
    Unknown = 0,
    /// By reading everything: lines, or lengths in text.
    Text = 1,
    /// HTTP/2 (RFC 9113 section 4.1).
    Http2 = 2,
    /// AMQP 0-9-1 (section 2.3.5 of the specification).
    Amqp = 3,
    /// Kafka (the protocol guide's request and response formats).
    Kafka = 4,
    /// MongoDB (the wire protocol's standard message header).
    Mongodb = 5,
    /// PostgreSQL (protocol 3.0, message formats).
    Postgresql = 6,
    /// MySQL (the protocol's packets).
    Mysql = 7,
}

impl Framing {
    /// How a protocol's messages are found, once it is known.
    pub const fn of(protocol: Protocol) -> Self {
        match protocol {
            Protocol::Http2 | Protocol::Grpc => Self::Http2,
            Protocol::Amqp => Self::Amqp,
            Protocol::Kafka => Self::Kafka,
            Protocol::Mongodb => Self::Mongodb,
            Protocol::Postgresql => Self::Postgresql,
            Protocol::Mysql => Self::Mysql,
            _ => Self::Text,
        }
    }

    /// The number in the records and maps that kernel and agent share.
    pub const fn number(self) -> u8 {
        self as u8
    }

    /// Whether what has this number can be HTTP of any version.
    pub const fn may_be_http(number: u8) -> bool {
        number <= Self::Http2.number()
    }

    /// Whether messages begin with their length.
    pub const fn has_layout(number: u8) -> bool {
        number > Self::Text.number()
    }
}

/// Where in a message's first eight bytes its length is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Length {
    /// All ones where the length's first byte is the highest, zero where it is the lowest: both orders are computed and one
    /// is selected without a branch, of which the verifier would follow both ways.
    pub swapped: u64,
    /// The bits that the length has.
    pub mask: u64,
    /// Bits below it, once the bytes are in order.
    pub shift: u32,
}

impl Length {
    /// In these bytes, of which the first is the highest.
    const fn big_endian(at: u32, bytes: u32) -> Self {
        Self { swapped: u64::MAX, mask: u64::MAX >> (64 - 8 * bytes), shift: 64 - 8 * (at + bytes) }
    }

    /// In these bytes, of which the first is the lowest.
    const fn little_endian(at: u32, bytes: u32) -> Self {
        Self { swapped: 0, mask: u64::MAX >> (64 - 8 * bytes), shift: 8 * at }
    }
}

/// Where a message's length and type are, and what they mean.
///
/// The programs read this table for each message, so it has what they compute with: bits to shift by, not indexes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Layout {
    /// Where the length is.
    pub length: Length,
    /// Bytes of a message with its length and type; at most eight.
    pub header: u32,
    /// Smallest length.
    pub smallest: u64,
    /// Largest length, less the smallest.
    pub span: u64,
    /// Bytes of a message that its length does not include.
    pub uncounted: u64,
    /// Bits of the header below the byte with the type.
    pub type_shift: u32,
    /// The same of a byte that is not zero in messages of length 0; 0 where there are none.
    pub empty_flags_shift: u32,
    /// By type: two to the power of this are the bytes of a message that are wanted, with its header; 0 where there is no
    /// such type.
    pub wanted_bits: [u8; 256],
}

impl Layout {
    /// Length with its header of the message that begins with these bytes, the first one lowest; 0 when they begin none.
    #[allow(clippy::inline_always, clippy::verbose_bit_mask)] // Part of a program that is verified.
    #[inline(always)]
    pub const fn length(&self, header: u64) -> u64 {
        if self.bits(header) == 0 {
            return 0;
        }
        let ordered = header ^ ((header ^ header.swap_bytes()) & self.length.swapped);
        let length = ordered.wrapping_shr(self.length.shift) & self.length.mask;
        if length.wrapping_sub(self.smallest) > self.span {
            return 0;
        }
        if length == 0 && header.wrapping_shr(self.empty_flags_shift) & 0xff == 0 {
            return 0;
        }
        length + self.uncounted
    }

    /// How many bytes of the message of this length that begins with these are wanted.
    #[allow(clippy::inline_always)] // Part of a program that is verified.
    #[inline(always)]
    pub const fn wanted(&self, header: u64, length: u64) -> u64 {
        let most = 1 << (self.bits(header) & 63);
        if length < most { length } else { most }
    }

    #[allow(clippy::inline_always)] // Part of a program that is verified.
    #[inline(always)]
    const fn bits(&self, header: u64) -> u8 {
        self.wanted_bits[(header.wrapping_shr(self.type_shift) & 0xff) as usize]
    }
}

/// The layouts by [`Framing::number`], in a table that three bits index. What has none has one without messages.
pub const LAYOUTS: [Layout; 8] = [NONE, NONE, HTTP2, AMQP, KAFKA, MONGODB, POSTGRESQL, MYSQL];

/// Wanted bytes of the messages of which a header suffices.
const HEADER_ONLY: u8 = 3;

/// Wanted bytes of statements, requests and responses whose names are anywhere in their first 4 KiB.
const HEAD: u8 = 12;

const NONE: Layout = Layout {
    length: Length::big_endian(0, 4),
    header: 0,
    smallest: 1,
    span: largest(31) - 1,
    uncounted: 0,
    type_shift: 0,
    empty_flags_shift: 0,
    wanted_bits: [0; 256],
};

const HTTP2: Layout = Layout {
    length: Length::big_endian(0, 3),
    // With the flags.
    header: 5,
    smallest: 0,
    span: largest(24),
    uncounted: 9,
    type_shift: 8 * 3,
    // A DATA frame without payload ends its stream, a SETTINGS frame acknowledges one; zeros are no frame.
    empty_flags_shift: 8 * 4,
    wanted_bits: types(&[
        // DATA: of a request's first one, with the length of gRPC's message.
        (0, 4),
        // HEADERS, PUSH_PROMISE, CONTINUATION: as the state of the compression depends on each byte.
        (1, 15),
        (5, 15),
        (9, 15),
        // PRIORITY, RST_STREAM, SETTINGS, PING, GOAWAY, WINDOW_UPDATE.
        (2, 4),
        (3, 4),
        (4, 8),
        (6, 5),
        (7, 6),
        (8, 4),
        // ALTSVC, ORIGIN, PRIORITY_UPDATE.
        (0xa, 4),
        (0xc, 4),
        (0x10, 4),
    ]),
};

const AMQP: Layout = Layout {
    length: Length::big_endian(3, 4),
    header: 7,
    smallest: 0,
    span: largest(31),
    // Type, channel and size, and the octet that ends a frame.
    uncounted: 8,
    // Heartbeats and bodies without content: the type itself.
    empty_flags_shift: 0,
    wanted_bits: types(&[(1, 11), (2, 6), (3, HEADER_ONLY), (8, HEADER_ONLY)]),
    ..NONE
};

const KAFKA: Layout = Layout {
    header: 4,
    smallest: 4,
    span: largest(28) - 4,
    uncounted: 4,
    // The length's highest byte, as there is no type.
    wanted_bits: first(16, HEAD + 1),
    ..NONE
};

const MONGODB: Layout = Layout {
    length: Length::little_endian(0, 4),
    header: 4,
    smallest: 16,
    span: largest(26) - 16,
    type_shift: 8 * 3,
    wanted_bits: first(4, 11),
    ..NONE
};

const POSTGRESQL: Layout = Layout {
    length: Length::big_endian(1, 4),
    header: 5,
    smallest: 4,
    span: largest(30) - 4,
    uncounted: 1,
    wanted_bits: types(&[
        // Statements; names of portals and statements, results.
        (b'Q', HEAD),
        (b'P', HEAD),
        (b'F', HEAD),
        (b'B', HEAD),
        (b'C', 9),
        (b'E', 11),
        (b'N', 9),
        // Describe, and rows.
        (b'D', 7),
        (b'S', 7),
        (b'H', 5),
        (b'X', HEADER_ONLY),
        (b'K', 5),
        (b'R', 7),
        (b'Z', 4),
        (b'1', HEADER_ONLY),
        (b'2', HEADER_ONLY),
        (b'3', HEADER_ONLY),
        (b'n', HEADER_ONLY),
        (b't', 4),
        (b'T', 4),
        (b'I', HEADER_ONLY),
        (b's', HEADER_ONLY),
        (b'A', 7),
        (b'G', 5),
        (b'W', 5),
        (b'V', 5),
        (b'v', 5),
        (b'c', HEADER_ONLY),
        (b'd', HEADER_ONLY),
        (b'f', 7),
        // A password.
        (b'p', HEADER_ONLY),
    ]),
    ..NONE
};

const MYSQL: Layout = Layout {
    length: Length::little_endian(0, 3),
    header: 4,
    span: largest(24) - 1,
    uncounted: 4,
    type_shift: 8 * 3,
    // The packet's number: requests are the first of their kind; a response's packet has no more than an error's text.
    wanted_bits: {
        let mut bits = [10; 256];
        bits[0] = HEAD;
        bits
    },
    ..NONE
};

/// The largest number of so many bits.
const fn largest(bits: u32) -> u64 {
    u64::MAX >> (64 - bits)
}

const fn types(types: &[(u8, u8)]) -> [u8; 256] {
    let (mut bits, mut index) = ([0; 256], 0);
    while index < types.len() {
        bits[types[index].0 as usize] = types[index].1;
        index += 1;
    }
    bits
}

const fn first(count: usize, wanted: u8) -> [u8; 256] {
    let (mut bits, mut index) = ([0; 256], 0);
    while index < count {
        bits[index] = wanted;
        index += 1;
    }
    bits
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Window;

    fn message(framing: Framing, bytes: &[u8]) -> Option<(u64, u64)> {
        let layout = &LAYOUTS[usize::from(framing.number())];
        {
            let length = layout.length(bytes.word(0));
            let wanted = layout.wanted(bytes.word(0), length);
            (length > 0).then_some((length, wanted))
        }
    }

    #[test]
    fn messages_are_as_long_as_their_protocols_say() {
        let http2 = |bytes| message(Framing::Http2, bytes);
        assert_eq!(http2(&[0, 0x40, 0, 0, 1, 0, 0, 0, 1]), Some((9 + 0x4000, 16)), "DATA");
        assert_eq!(http2(&[0, 0x10, 0, 1, 4, 0, 0, 0, 1]), Some((9 + 0x1000, 9 + 0x1000)), "HEADERS");
        assert_eq!(http2(&[0, 0, 0, 4, 1, 0, 0, 0, 0]), Some((9, 9)), "SETTINGS with ACK");
        assert_eq!(message(Framing::Amqp, &[3, 0, 1, 0, 1, 0, 0]), Some((65_536 + 8, 8)), "a body");
        assert_eq!(message(Framing::Amqp, &[8, 0, 0, 0, 0, 0, 0]), Some((8, 8)), "a heartbeat");
        assert_eq!(message(Framing::Kafka, &[0, 1, 0, 0]), Some((65_540, 8192)));
        assert_eq!(message(Framing::Mongodb, &[0, 0, 1, 0]), Some((65_536, 2048)));
        assert_eq!(message(Framing::Postgresql, b"D\0\x01\0\0"), Some((65_537, 128)), "a row");
        assert_eq!(message(Framing::Postgresql, b"Z\0\0\0\x05I"), Some((6, 6)));
        assert_eq!(message(Framing::Mysql, &[0, 0, 1, 0]), Some((65_540, 4096)), "a command");
        assert_eq!(message(Framing::Mysql, &[0, 0, 1, 7]), Some((65_540, 1024)), "a row");
    }

    #[test]
    fn zeros_text_and_ones_begin_no_message() {
        for framing in [
            Framing::Http2,
            Framing::Amqp,
            Framing::Kafka,
            Framing::Mongodb,
            Framing::Postgresql,
            Framing::Mysql,
        ] {
            assert_eq!(message(framing, &[0; 8]), None, "{framing:?}");
            if framing != Framing::Mysql {
                assert_eq!(message(framing, b"HTTP/1.1"), None, "{framing:?}");
                assert_eq!(message(framing, &[0xff; 8]), None, "{framing:?}");
            }
        }
    }

    #[test]
    fn no_header_is_longer_than_a_word() {
        for layout in &LAYOUTS[2..] {
            assert!((1..=8).contains(&layout.header));
            assert!(layout.type_shift < 8 * layout.header && layout.empty_flags_shift < 8 * layout.header);
            // No byte behind the header changes what the length is.
            let behind = u64::MAX.checked_shl(8 * layout.header).unwrap_or(0);
            let header = 0x0101_0101_0101_0101;
            assert_eq!(layout.length(header), layout.length(header | behind), "{layout:?}");
            // What is wanted of a message comprises its header, which therefore always is at its message's beginning.
            assert!(layout.wanted_bits.iter().all(|&bits| bits == 0 || 1_u32 << bits >= layout.header));
        }
    }
}
