//! The packets of MySQL's client/server protocol, as far as pairing needs them.
//!
//! Sources: MySQL Source Code Documentation, "Client/Server Protocol"; MariaDB Knowledge Base, "Clients & Utilities:
//! Server Client Protocol". All numbers are little-endian.

/// Bytes before a packet's payload: its length (3), its sequence number (1).
pub(super) const HEADER_BYTES: usize = 4;

/// A payload of this length continues in the next packet.
pub(super) const PAYLOAD_MAX: usize = 0xff_ffff;

/// Capability flags (`include/mysql_com.h`).
pub(super) mod capability {
    pub(crate) const COMPRESS: u32 = 1 << 5;
    pub(crate) const PROTOCOL_41: u32 = 1 << 9;
    pub(crate) const SSL: u32 = 1 << 11;
    pub(crate) const DEPRECATE_EOF: u32 = 1 << 24;
    pub(crate) const ZSTD: u32 = 1 << 26;
}

/// Server status flags (`include/mysql_com.h`).
pub(super) mod status {
    pub(crate) const MORE_RESULTS: u16 = 1 << 3;
    pub(crate) const CURSOR_EXISTS: u16 = 1 << 6;
}

/// What was looked for in a packet of which bytes may be missing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum PacketMatch<T> {
    /// It is something else.
    No,
    /// More bytes are needed to decide.
    More,
    /// This.
    Yes(T),
}

/// A packet's header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Header {
    /// Length of the payload.
    pub(super) length: usize,
    /// Sequence number within the command.
    pub(super) sequence: u8,
}

/// The header at the start of these bytes, and what there is of the payload.
pub(super) fn packet(bytes: &[u8]) -> Option<(Header, &[u8])> {
    let [a, b, c, sequence, rest @ ..] = bytes else { return None };
    let length = usize::from(*a) | usize::from(*b) << 8 | usize::from(*c) << 16;
    let header = Header { length, sequence: *sequence };
    Some((header, rest.get(..length).unwrap_or(rest)))
}

/// A length-encoded integer and what follows it.
pub(super) fn lenenc(bytes: &[u8]) -> Option<(u64, &[u8])> {
    let (&first, rest) = bytes.split_first()?;
    let width = match first {
        0..=0xfa => return Some((u64::from(first), rest)),
        0xfc => 2,
        0xfd => 3,
        0xfe => 8,
        _ => return None,
    };
    let (number, rest) = rest.split_at_checked(width)?;
    Some((number.iter().rev().fold(0, |value, byte| value << 8 | u64::from(*byte)), rest))
}

pub(super) fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_le_bytes(bytes.get(at..at.checked_add(2)?)?.try_into().ok()?))
}

pub(super) fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(bytes.get(at..at.checked_add(4)?)?.try_into().ok()?))
}

/// The status flags of an OK packet, behind its first byte: affected rows, last insert id, status, warnings.
pub(super) fn ok_status(payload: &[u8]) -> Option<u16> {
    let (_, rest) = lenenc(payload.get(1..)?)?;
    let (_, rest) = lenenc(rest)?;
    u16_at(rest, 0)
}

/// The content of an ERR packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Failure {
    /// The server's error number.
    pub(super) code: u16,
    /// SQLSTATE, where the packet has one.
    pub(super) state: Option<[u8; 5]>,
}

/// Reads an ERR packet: `ff`, code (2), `#` and SQLSTATE (5), text. The text is not looked at.
pub(super) fn failure(payload: &[u8]) -> Option<Failure> {
    let code = u16_at(payload, 1).filter(|_| payload.first() == Some(&0xff))?;
    let state = payload.get(3..9).and_then(|state| state.strip_prefix(b"#")?.try_into().ok());
    Some(Failure { code, state })
}

/// The same behind its first byte.
pub(super) fn failure_behind(text: &[u8]) -> Option<Failure> {
    failure(&[&[0xff], text].concat())
}

/// Looks for a greeting: the capabilities of the server that sent it.
pub(super) fn greeting(payload: &[u8], length: usize) -> PacketMatch<u32> {
    // Protocol 10, version, its zero, connection id (4), salt (8), a zero, capabilities (2), character set (1),
    // status (2), capabilities (2), salt length (1), six zeros (MariaDB uses the four behind them).
    const FIXED: usize = 4 + 8 + 1 + 2 + 1 + 2 + 2 + 1 + 6;
    let (version, text) = payload.split_first().map_or((10, payload), |(first, rest)| (*first, rest));
    if version != 10 || !(FIXED + 8..400).contains(&length) {
        return PacketMatch::No;
    }
    let end = memchr::memchr(0, text);
    let version = text.get(..end.unwrap_or(text.len())).unwrap_or_default();
    let well_formed = version.first().is_none_or(u8::is_ascii_digit)
        && version.iter().all(u8::is_ascii_graphic)
        && version.len() + FIXED + 2 <= length;
    if !well_formed {
        return PacketMatch::No;
    }
    let Some(fixed) = end.and_then(|end| text.get(end + 1..)?.get(..FIXED)) else {
        return if payload.len() < length { PacketMatch::More } else { PacketMatch::No };
    };
    let [low, high] = [13, 18].map(|at| u16_at(fixed, at).map_or(0, u32::from));
    let capabilities = low | high << 16;
    let zeros = fixed.get(12) == Some(&0)
        && fixed.get(21..27).is_some_and(|zeros| zeros.iter().all(|byte| *byte == 0));
    if zeros && !version.is_empty() && capabilities & capability::PROTOCOL_41 != 0 {
        PacketMatch::Yes(capabilities)
    } else {
        PacketMatch::No
    }
}

/// A client's capabilities for a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Hello {
    /// Its capabilities.
    pub(super) capabilities: u32,
    /// It stops here and continues in TLS.
    pub(super) tls: bool,
}

/// Looks for a handshake response or a request for TLS.
pub(super) fn hello(payload: &[u8], length: usize) -> PacketMatch<Hello> {
    // Capabilities (4), largest packet (4), character set (1), nineteen zeros, four more or MariaDB's capabilities.
    const FIXED: usize = 32;
    let zeros = payload.get(9..).is_none_or(|rest| rest.iter().take(19).all(|byte| *byte == 0));
    if !zeros || !(FIXED..=4096).contains(&length) {
        return PacketMatch::No;
    }
    let (Some(capabilities), Some(largest), Some(_)) =
        (u32_at(payload, 0), u32_at(payload, 4), payload.get(FIXED - 1))
    else {
        return PacketMatch::More;
    };
    let tls = length == FIXED;
    let consistent = capabilities & capability::PROTOCOL_41 != 0
        && (!tls || capabilities & capability::SSL != 0)
        && largest <= 1 << 30;
    if consistent { PacketMatch::Yes(Hello { capabilities, tls }) } else { PacketMatch::No }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn length_encoded_integers() {
        assert_eq!(lenenc(&[0xfa, 1]), Some((250, &[1][..])));
        assert_eq!(lenenc(&[0xfc, 1, 2, 3]), Some((0x201, &[3][..])));
        assert_eq!(lenenc(&[0xfd, 1, 2, 3]), Some((0x03_0201, &[][..])));
        assert_eq!(lenenc(&[0xfe, 1, 0, 0, 0, 0, 0, 0, 1]), Some((0x0100_0000_0000_0001, &[][..])));
        for cut in [&[][..], &[0xfb], &[0xff], &[0xfc, 1], &[0xfe, 1, 2, 3, 4, 5, 6, 7]] {
            assert_eq!(lenenc(cut), None, "{cut:?}");
        }
    }

    #[test]
    fn failures_have_a_code_and_a_state() {
        let failure = failure(b"\xff\x28\x04#42000You have").unwrap();
        assert_eq!((failure.code, failure.state), (1064, Some(*b"42000")));
        assert_eq!(super::failure(b"\xff\x10\x04Too many").unwrap().state, None);
        assert_eq!(super::failure(b"\xff\x10"), None);
        assert_eq!(super::failure(b"\xfe\x10\x04"), None);
    }
}
