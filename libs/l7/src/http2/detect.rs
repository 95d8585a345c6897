//! Detection of HTTP/2.
//!
//! At the start of a connection the client's preface shows it. In the middle of a connection both ends have to show
//! frames with a header block of the same stream. The request is recognised by the first field
//! of a block where it is one of the static table; where all fields refer to the dynamic table, whose contents are
//! unknown without the connection's beginning, by the order of the blocks, and by a second block, the trailers of a response.

use crate::{
    http2::frame::{END_STREAM, HEADER_BYTES, Header, Kind, PAYLOAD_BYTES_DEFAULT, PREFACE},
    parser::{Detection, Prefix, Sender},
};

/// Frames that are looked at in search of header blocks.
const FRAMES_MAX: usize = 64;

/// Header blocks of one end that are compared with those of the other.
const BLOCKS_MAX: usize = 16;

/// Looks at first bytes.
pub(super) fn detect(prefix: &Prefix<'_>) -> Detection {
    if prefix.bytes.starts_with(PREFACE) {
        return Detection::Yes(Sender::Client);
    }
    if PREFACE.starts_with(prefix.bytes) {
        return if prefix.may_grow() { Detection::More } else { Detection::No };
    }
    let this = Frames::read(prefix.bytes);
    let peer = Frames::read(prefix.peer);
    match this.state {
        Walk::No => Detection::No,
        Walk::Cut if this.count == 0 => {
            if prefix.may_grow() {
                Detection::More
            } else {
                Detection::No
            }
        }
        Walk::Cut | Walk::Frames => match sender(&this, &peer) {
            Some(sender) => Detection::Yes(sender),
            None => Detection::More,
        },
    }
}

/// Who sent `this`, if both ends have a header block of the same stream.
fn sender(this: &Frames, peer: &Frames) -> Option<Sender> {
    for block in this.blocks.iter().flatten() {
        let Some(other) = peer.blocks.iter().flatten().find(|other| other.stream == block.stream) else {
            continue;
        };
        match (block.sender, other.sender) {
            (Some(sender), Some(other)) if sender == other => return None,
            (Some(sender), _) => return Some(sender),
            (None, Some(Sender::Client)) => return Some(Sender::Server),
            (None, Some(Sender::Server)) => return Some(Sender::Client),
            (None, None) => {}
        }
        let trailers = |frames: &Frames| {
            frames.blocks.iter().flatten().filter(|one| one.stream == block.stream).count() > 1
        };
        return Some(match (trailers(this), trailers(peer)) {
            (false, true) => Sender::Client,
            // The other end has sent a block of this stream before: it has opened the stream.
            _ => Sender::Server,
        });
    }
    None
}

/// A header block of an odd stream.
#[derive(Clone, Copy, Debug)]
struct Block {
    stream: u32,
    /// By its first field, if that is in the static table.
    sender: Option<Sender>,
}

/// Whose field this is, if a literal name of a pseudo-header begins here, plain or in Huffman's code (RFC 9113 section 8.3,
/// RFC 7541 section 5.2).
fn pseudo_header(bytes: &[u8]) -> Option<Sender> {
    const NAMES: [(&[u8], Sender); 10] = [
        (b"\x05:path", Sender::Client),
        (b"\x07:method", Sender::Client),
        (b"\x07:scheme", Sender::Client),
        (b"\x0a:authority", Sender::Client),
        (b"\x07:status", Sender::Server),
        (b"\x84\xb9\x58\xd3\x3f", Sender::Client),
        (b"\x85\xb9\x49\x53\x39\xe4", Sender::Client),
        (b"\x85\xb8\x82\x4e\x5a\x4b", Sender::Client),
        (b"\x88\xb8\x3b\x53\x39\xec\x32\x7d\x7f", Sender::Client),
        (b"\x85\xb8\x84\x8d\x36\xa3", Sender::Server),
    ];
    NAMES.iter().find(|(name, _)| bytes.starts_with(name)).map(|(_, sender)| *sender)
}

/// How far frames could be followed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Walk {
    /// These are no frames.
    No,
    /// The bytes end within a frame's header or a block's first byte.
    Cut,
    /// Every frame fits.
    Frames,
}

/// The frames at the start of one end's bytes.
#[derive(Debug)]
struct Frames {
    state: Walk,
    count: usize,
    blocks: [Option<Block>; BLOCKS_MAX],
}

impl Frames {
    fn read(bytes: &[u8]) -> Self {
        let mut read = Self { state: Walk::Cut, count: 0, blocks: [None; BLOCKS_MAX] };
        let mut rest = bytes;
        let mut found = 0;
        while read.count < FRAMES_MAX && !rest.is_empty() {
            if rest.len() < HEADER_BYTES {
                // Lengths below 2^14, known types.
                let begun = rest.iter().zip([0, 0x40, 0xff, 9]).all(|(byte, most)| *byte <= most);
                read.state = if begun { Walk::Cut } else { Walk::No };
                return read;
            }
            // Client and server differ in details that the blocks decide.
            let Some(header) = Header::read(rest, Sender::Server)
                .filter(|header| header.is_plausible(PAYLOAD_BYTES_DEFAULT))
            else {
                read.state = Walk::No;
                return read;
            };
            let payload = rest.get(HEADER_BYTES..).unwrap_or_default();
            if header.kind == Kind::Headers && header.stream % 2 == 1 {
                let Some((&first, name)) =
                    header.fragment(payload).and_then(|(block, _)| block.split_first())
                else {
                    read.state = if payload.len() < header.payload { Walk::Cut } else { Walk::No };
                    return read;
                };
                let sender = match first {
                    // :authority, :method, :path, :scheme; indexed, or literal with an indexed name.
                    0x81..=0x87 | 0x41..=0x47 | 0x01..=0x07 | 0x11..=0x17 => Some(Sender::Client),
                    // :status
                    0x88..=0x8e | 0x48..=0x4e | 0x08..=0x0e | 0x18..=0x1e => Some(Sender::Server),
                    // A literal with a literal name: gRPC's core sends `:path` so.
                    0x40 | 0x00 | 0x10 if pseudo_header(name).is_some() => pseudo_header(name),
                    // Trailers may begin with any field; others refer to the dynamic table.
                    _ if header.flags & END_STREAM != 0 || first >= 0xbe => None,
                    // A literal whose name is in the dynamic table, and an update of the table's size.
                    0x7e.. | 0x0f | 0x1f | 0x20..=0x3f => None,
                    _ => {
                        read.state = Walk::No;
                        return read;
                    }
                };
                if let Some(slot) = read.blocks.get_mut(found) {
                    *slot = Some(Block { stream: header.stream, sender });
                    found += 1;
                }
            }
            read.count += 1;
            read.state = Walk::Frames;
            rest = rest.get(header.total()..).unwrap_or_default();
        }
        read
    }
}
