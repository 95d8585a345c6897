//! Is this HTTP/2?
//!
//! At its start the client's preface says so. In the middle of a connection both ends together have to be convincing: a
//! header block of a request on one end, that of a response of the same stream on the other.

use crate::{
    http2::frame::{HEADER_BYTES, Header, Kind, PREFACE},
    parser::{Detection, Prefix, Sender},
};

/// Frames that are looked at in search of a header block.
const FRAMES_MAX: usize = 16;

/// Looks at first bytes.
pub(super) fn detect(prefix: &Prefix<'_>) -> Detection {
    if prefix.bytes.starts_with(PREFACE) {
        return Detection::Yes(Sender::Client);
    }
    if PREFACE.starts_with(prefix.bytes) {
        return if prefix.may_grow() { Detection::More } else { Detection::No };
    }
    let this = find(prefix.bytes);
    let peer = find(prefix.peer);
    match (this, peer) {
        (Look::Block(stream, sender), Look::Block(of_peer, peer)) if stream == of_peer && sender != peer => {
            Detection::Yes(sender)
        }
        (Look::Block(..) | Look::Frames, _) => Detection::More,
        (Look::Cut, _) if prefix.may_grow() => Detection::More,
        _ => Detection::No,
    }
}

enum Look {
    /// No frames.
    No,
    /// Too short to say.
    Cut,
    /// Plausible frames that are not distinctive.
    Frames,
    /// The first field of a header block on this stream tells its sender.
    Block(u32, Sender),
}

/// Walks over frames from the start of the bytes up to a header block that tells who sent it.
fn find(bytes: &[u8]) -> Look {
    let mut rest = bytes;
    let mut frames = Look::Cut;
    for _ in 0..FRAMES_MAX {
        if rest.is_empty() {
            return frames;
        }
        if rest.len() < HEADER_BYTES {
            // Lengths below 2^14, known types.
            let begun = rest.iter().zip([0, 0x40, 0xff, 9]).all(|(byte, most)| *byte <= most);
            return if begun { frames } else { Look::No };
        }
        // Client and server differ in details that the block decides.
        let Some(header) = Header::read(rest, Sender::Server).filter(Header::is_plausible) else {
            return Look::No;
        };
        let payload = rest.get(HEADER_BYTES..).unwrap_or_default();
        if header.kind == Kind::Headers && header.stream % 2 == 1 {
            let Some((block, _)) = header.fragment(payload) else { return Look::Cut };
            let sender = match block.first() {
                None => return Look::Cut,
                // :authority, :method, :path, :scheme; indexed, or literal with an indexed name.
                Some(0x82..=0x87 | 0x41..=0x47 | 0x01..=0x07 | 0x11..=0x17) => Sender::Client,
                // :status
                Some(0x88..=0x8e | 0x48..=0x4e | 0x08..=0x0e | 0x18..=0x1e) => Sender::Server,
                // From the dynamic table: any field.
                Some(0xbe..) => return Look::Frames,
                Some(_) => return Look::No,
            };
            return Look::Block(header.stream, sender);
        }
        frames = Look::Frames;
        rest = rest.get(header.total()..).unwrap_or_default();
    }
    frames
}
