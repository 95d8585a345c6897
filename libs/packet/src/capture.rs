//! Capture files: pcap with either byte order and resolution, and pcapng with several sections and interfaces.
//!
//! The container formats are read with `pcap-parser`, which streams and has no unsafe code; what is ours is the clock and
//! the bound on memory.

use std::io::Read;

use pcap_parser::{
    Block, PcapBlockOwned, PcapError, create_reader,
    traits::{PcapNGPacketBlock as _, PcapReaderIterator},
};

use crate::link::Link;

/// Size of the reading buffer, and most that a single block may take. Captures of loopback have frames of 64 KiB;
/// blocks of names and secrets may be larger.
const BUFFER_BYTES: usize = 1 << 20;
const BLOCK_BYTES_MAX: usize = 16 << 20;

/// Interfaces of one section that are kept; the format has no bound.
const INTERFACES_MAX: usize = 4096;

const NANOS: u64 = 1_000_000_000;

/// Bytes from which a capture file is recognised.
pub const HEAD_BYTES: usize = 12;

/// Whether a file begins like a capture: pcap in either byte order and resolution, or pcapng with the mark of its byte
/// order.
pub fn is_capture(head: &[u8]) -> bool {
    let word =
        |at: usize| head.get(at..at + 4).and_then(|bytes| Some(u32::from_be_bytes(bytes.try_into().ok()?)));
    match word(0) {
        Some(0xa1b2_c3d4 | 0xd4c3_b2a1 | 0xa1b2_3c4d | 0x4d3c_b2a1) => true,
        Some(0x0a0d_0d0a) => matches!(word(8), Some(0x1a2b_3c4d | 0x4d3c_2b1a)),
        _ => false,
    }
}

/// A file that cannot be read, or not further.
#[derive(Debug, thiserror::Error)]
pub enum CaptureError {
    /// Neither pcap nor pcapng.
    #[error("this is no capture file: it begins like neither pcap nor pcapng")]
    NotACapture,
    /// Reading failed.
    #[error("the file cannot be read")]
    Read,
    /// What follows is no block of the format.
    #[error("the file is damaged after {0} packets")]
    Damaged(u64),
    /// The file ends within a packet.
    #[error("the file is cut off after {0} packets")]
    CutOff(u64),
    /// A block larger than any packet could be.
    #[error("a block after {0} packets is larger than {BLOCK_BYTES_MAX} bytes")]
    TooLarge(u64),
}

/// A captured frame.
#[derive(Clone, Copy, Debug)]
pub struct Packet<'a> {
    /// Nanoseconds since 1970.
    pub timestamp_ns: u64,
    /// What it begins with.
    pub link: Link,
    /// What was captured of it.
    pub bytes: &'a [u8],
}

/// Clock and link type of an interface.
#[derive(Clone, Copy, Debug)]
struct Interface {
    link: Link,
    /// Ticks in a second.
    resolution: u64,
    /// Seconds to add.
    offset: i64,
}

/// A capture file, read from its beginning.
pub struct Capture {
    reader: Box<dyn PcapReaderIterator>,
    interfaces: Vec<Interface>,
    /// Timestamp of the last packet that had one, nanoseconds since 1970.
    last_ns: u64,
    packets: u64,
    buffer: usize,
}

impl Capture {
    /// Begins to read.
    pub fn open(source: impl Read + Send + 'static) -> Result<Self, CaptureError> {
        let reader = create_reader(BUFFER_BYTES, source).map_err(|error| match error {
            PcapError::ReadError => CaptureError::Read,
            _ => CaptureError::NotACapture,
        })?;
        Ok(Self { reader, interfaces: Vec::new(), last_ns: 0, packets: 0, buffer: BUFFER_BYTES })
    }

    /// Packets read so far.
    pub fn packets(&self) -> u64 {
        self.packets
    }

    /// Gives the next packet to `take`; false at the end of the file.
    pub fn next(&mut self, take: &mut dyn FnMut(Packet<'_>)) -> Result<bool, CaptureError> {
        loop {
            match self.reader.next() {
                Ok((length, block)) => {
                    let taken = Self::block(&mut self.interfaces, &mut self.last_ns, &block, take);
                    drop(block);
                    self.reader.consume(length);
                    if taken {
                        self.packets += 1;
                        return Ok(true);
                    }
                }
                Err(PcapError::Eof) => return Ok(false),
                Err(PcapError::Incomplete(_)) => self.refill()?,
                Err(PcapError::BufferTooSmall) => self.grow()?,
                Err(PcapError::UnexpectedEof) => return Err(CaptureError::CutOff(self.packets)),
                Err(PcapError::ReadError) => return Err(CaptureError::Read),
                Err(_) => return Err(CaptureError::Damaged(self.packets)),
            }
        }
    }

    fn refill(&mut self) -> Result<(), CaptureError> {
        if self.reader.reader_exhausted() {
            return Err(CaptureError::CutOff(self.packets));
        }
        match self.reader.refill() {
            Ok(()) => Ok(()),
            Err(PcapError::BufferTooSmall) => self.grow(),
            Err(_) => Err(CaptureError::Read),
        }
    }

    fn grow(&mut self) -> Result<(), CaptureError> {
        self.buffer *= 2;
        if self.buffer > BLOCK_BYTES_MAX || !self.reader.grow(self.buffer) {
            return Err(CaptureError::TooLarge(self.packets));
        }
        Ok(())
    }

    /// Learns from a block, and passes on the packet in it; true when there was one.
    fn block(
        interfaces: &mut Vec<Interface>,
        last_ns: &mut u64,
        block: &PcapBlockOwned<'_>,
        take: &mut dyn FnMut(Packet<'_>),
    ) -> bool {
        match block {
            PcapBlockOwned::LegacyHeader(header) => {
                let resolution = if header.is_nanosecond_precision() { NANOS } else { 1_000_000 };
                *interfaces = vec![Interface { link: header.network.into(), resolution, offset: 0 }];
                false
            }
            PcapBlockOwned::Legacy(packet) => {
                let Some(interface) = interfaces.first() else { return false };
                let ticks = u64::from(packet.ts_sec)
                    .saturating_mul(interface.resolution)
                    .saturating_add(u64::from(packet.ts_usec));
                let length = packet.data.len().min(usize::try_from(packet.caplen).unwrap_or(usize::MAX));
                let timestamp_ns = interface.nanoseconds(ticks);
                take(Packet { timestamp_ns, link: interface.link, bytes: &packet.data[..length] });
                true
            }
            PcapBlockOwned::NG(Block::SectionHeader(_)) => {
                interfaces.clear();
                false
            }
            PcapBlockOwned::NG(Block::InterfaceDescription(description)) => {
                if interfaces.len() < INTERFACES_MAX {
                    interfaces.push(Interface {
                        link: description.linktype.into(),
                        resolution: description
                            .ts_resolution()
                            .filter(|ticks| *ticks > 0)
                            .unwrap_or(1_000_000),
                        offset: description.ts_offset(),
                    });
                }
                false
            }
            PcapBlockOwned::NG(Block::EnhancedPacket(packet)) => {
                let interface = usize::try_from(packet.if_id).ok().and_then(|index| interfaces.get(index));
                let Some(interface) = interface else { return false };
                let ticks = u64::from(packet.ts_high) << 32 | u64::from(packet.ts_low);
                *last_ns = interface.nanoseconds(ticks);
                take(Packet { timestamp_ns: *last_ns, link: interface.link, bytes: packet.packet_data() });
                true
            }
            PcapBlockOwned::NG(Block::SimplePacket(packet)) => {
                let Some(interface) = interfaces.first() else { return false };
                // It has no time: order is all that is known.
                take(Packet { timestamp_ns: *last_ns, link: interface.link, bytes: packet.packet_data() });
                true
            }
            PcapBlockOwned::NG(_) => false,
        }
    }
}

impl Interface {
    /// Nanoseconds since 1970 of a timestamp.
    fn nanoseconds(&self, ticks: u64) -> u64 {
        let nanos = u128::from(ticks) * u128::from(NANOS) / u128::from(self.resolution);
        let nanos = i128::try_from(nanos).unwrap_or(i128::MAX);
        let nanos = nanos.saturating_add(i128::from(self.offset) * i128::from(NANOS));
        u64::try_from(nanos.max(0)).unwrap_or(u64::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_capture_is_recognised_by_what_the_reader_reads() {
        let ng = |mark: [u8; 4]| [&[0x0a, 0x0d, 0x0d, 0x0a, 28, 0, 0, 0][..], &mark].concat();
        let pcap = |magic: u32| [magic.to_be_bytes().to_vec(), magic.to_le_bytes().to_vec()];
        let heads = [
            pcap(0xa1b2_c3d4),
            pcap(0xa1b2_3c4d),
            [ng([0x4d, 0x3c, 0x2b, 0x1a]), ng([0x1a, 0x2b, 0x3c, 0x4d])],
        ];
        for head in heads.concat() {
            assert!(is_capture(&head), "{head:x?}");
            let shorter = if head.len() == HEAD_BYTES { HEAD_BYTES - 1 } else { 3 };
            assert!(!is_capture(&head[..shorter]), "{head:x?}");
        }
        for other in [&b"\n\r\r\nsome text of others"[..], b"#fields\tts\tuid", b""] {
            assert!(!is_capture(other), "{other:?}");
            assert!(Capture::open(std::io::Cursor::new(other.to_vec())).is_err());
        }
    }
}
