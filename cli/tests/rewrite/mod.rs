//! Captures in other forms: a reader and writer of the formats of the tests' own, so that the program's reading is
//! checked against another's.

use etherparse::{PacketBuilder, SlicedPacket};

/// An IP packet and its time.
#[derive(Clone, Debug)]
pub struct Frame {
    nanos: u64,
    ip: Vec<u8>,
}

/// How a file is written.
#[derive(Clone, Copy, Debug, Default)]
pub enum Shape {
    /// pcap, little endian, microseconds, Ethernet: as tcpdump writes it.
    #[default]
    Ethernet,
    /// pcap, big endian, nanoseconds, Linux cooked.
    BigEndianNanosSll,
    /// pcap, version 2 of Linux cooked.
    Sll2,
    /// pcap, loopback of a BSD.
    Loopback,
    /// pcap, bare IP.
    Raw,
    /// pcap, Ethernet with a VLAN tag.
    Vlan,
    /// pcapng, one interface.
    Ng,
    /// pcapng, a section for each half, with two interfaces of different clocks and link types each.
    NgSections,
}

impl Shape {
    pub const ALL: [Self; 8] = [
        Self::Ethernet,
        Self::BigEndianNanosSll,
        Self::Sll2,
        Self::Loopback,
        Self::Raw,
        Self::Vlan,
        Self::Ng,
        Self::NgSections,
    ];
}

/// Reads what tcpdump wrote: little endian, microseconds, Ethernet.
pub fn read(bytes: &[u8]) -> Vec<Frame> {
    let word = |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"));
    assert_eq!((word(0), word(20)), (0xa1b2_c3d4, 1), "not as tcpdump writes it on this machine");
    let mut frames = Vec::new();
    let mut at = 24;
    while at < bytes.len() {
        let length = word(at + 8) as usize;
        let nanos = u64::from(word(at)) * 1_000_000_000 + u64::from(word(at + 4)) * 1000;
        frames.push(Frame { nanos, ip: bytes[at + 16 + 14..at + 16 + length].to_vec() });
        at += 16 + length;
    }
    frames
}

/// Writes a capture file.
pub fn write(frames: &[Frame], shape: Shape) -> Vec<u8> {
    let cooked = [&[0; 14][..], &[8, 0]].concat();
    let ethernet = [&[2; 12][..], &[8, 0]].concat();
    match shape {
        Shape::Ethernet => pcap(frames, 1, &ethernet, false),
        Shape::BigEndianNanosSll => pcap(frames, 113, &cooked, true),
        Shape::Sll2 => pcap(frames, 276, &[&[8, 0][..], &[0; 18]].concat(), false),
        Shape::Loopback => pcap(frames, 0, &[2, 0, 0, 0], false),
        Shape::Raw => pcap(frames, 101, &[], false),
        Shape::Vlan => pcap(frames, 1, &[&[2; 12][..], &[0x81, 0, 0, 5, 8, 0]].concat(), false),
        Shape::Ng => section(frames, &[(1, 6, &ethernet)]),
        Shape::NgSections => {
            let (one, two) = frames.split_at(frames.len() / 2);
            let interfaces: [(u16, u8, &[u8]); 2] = [(101, 9, &[]), (113, 6, &cooked)];
            [section(one, &interfaces), section(two, &interfaces)].concat()
        }
    }
}

fn pcap(frames: &[Frame], link: u32, head: &[u8], big_endian_nanos: bool) -> Vec<u8> {
    let word = |value: u32| if big_endian_nanos { value.to_be_bytes() } else { value.to_le_bytes() };
    let half = |value: u16| if big_endian_nanos { value.to_be_bytes() } else { value.to_le_bytes() };
    let magic = if big_endian_nanos { 0xa1b2_3c4d } else { 0xa1b2_c3d4 };
    let mut file =
        [word(magic).as_slice(), &half(2), &half(4), &word(0), &word(0), &word(65_535), &word(link)].concat();
    for frame in frames {
        let fraction = u32::try_from(frame.nanos % 1_000_000_000).expect("small");
        let fraction = if big_endian_nanos { fraction } else { fraction / 1000 };
        let seconds = u32::try_from(frame.nanos / 1_000_000_000).expect("before 2106");
        let length = u32::try_from(head.len() + frame.ip.len()).expect("small");
        for value in [seconds, fraction, length, length] {
            file.extend(word(value));
        }
        file.extend(head);
        file.extend(&frame.ip);
    }
    file
}

/// A section of a pcapng file whose packets alternate between interfaces of a link type, a power of ten of ticks in a
/// second, and a frame's head.
fn section(frames: &[Frame], interfaces: &[(u16, u8, &[u8])]) -> Vec<u8> {
    let mut file =
        block(0x0a0d_0d0a, &[&0x1a2b_3c4d_u32.to_le_bytes()[..], &[1, 0, 0, 0], &[0xff; 8]].concat());
    for (link, power, _) in interfaces {
        // Option 9, if_tsresol, and the end of options.
        let options = [9, 0, 1, 0, *power, 0, 0, 0, 0, 0, 0, 0];
        file.extend(block(
            1,
            &[&link.to_le_bytes()[..], &[0, 0], &65_535_u32.to_le_bytes(), &options].concat(),
        ));
    }
    for (number, frame) in frames.iter().enumerate() {
        let interface = number % interfaces.len();
        let (_, power, head) = interfaces[interface];
        let ticks = frame.nanos / 10_u64.pow(9 - u32::from(power));
        let length = u32::try_from(head.len() + frame.ip.len()).expect("small").to_le_bytes();
        let id = u32::try_from(interface).expect("small").to_le_bytes();
        let [high, low] =
            [ticks >> 32, ticks & 0xffff_ffff].map(|half| u32::try_from(half).expect("half").to_le_bytes());
        let body = [&id[..], &high, &low, &length, &length, head, &frame.ip].concat();
        file.extend(block(6, &body));
    }
    file
}

fn block(kind: u32, body: &[u8]) -> Vec<u8> {
    let padded = body.len().next_multiple_of(4);
    let length = u32::try_from(padded + 12).expect("small").to_le_bytes();
    let mut bytes = [&kind.to_le_bytes()[..], &length, body].concat();
    bytes.resize(8 + padded, 0);
    bytes.extend(length);
    bytes
}

impl Frame {
    fn tcp(&self) -> Option<etherparse::TcpHeader> {
        match SlicedPacket::from_ip(&self.ip).expect("an IP packet").transport {
            Some(etherparse::TransportSlice::Tcp(tcp)) => Some(tcp.to_header()),
            _ => None,
        }
    }

    pub fn is_udp(&self) -> bool {
        self.tcp().is_none()
    }

    /// Whether it opens a connection.
    pub fn opens(&self) -> bool {
        self.tcp().is_some_and(|tcp| tcp.syn && !tcp.ack)
    }

    /// Whether it has bytes of a connection.
    fn has_payload(&self) -> bool {
        self.tcp().is_some_and(|tcp| self.ip.len() > 20 + tcp.header_len())
    }
}

/// Swaps segments that follow each other, of which both have bytes, from either end.
pub fn swap_neighbours(mut frames: Vec<Frame>) -> Vec<Frame> {
    let mut at = 0;
    while at + 1 < frames.len() {
        if frames[at].has_payload() && frames[at + 1].has_payload() {
            frames.swap(at, at + 1);
            at += 1;
        }
        at += 1;
    }
    frames
}

/// Cuts an IPv4 packet into fragments of at most 48 bytes of payload.
pub fn fragment(frame: &Frame) -> Vec<Frame> {
    const PIECE: usize = 48;
    let (header, payload) = frame.ip.split_at(20);
    let pieces = payload.chunks(PIECE);
    let last = pieces.len() - 1;
    pieces
        .enumerate()
        .map(|(number, piece)| {
            let mut ip = [header, piece].concat();
            let length = u16::try_from(ip.len()).expect("small");
            ip[2..4].copy_from_slice(&length.to_be_bytes());
            let more = if number == last { 0 } else { 0x2000 };
            let place = u16::try_from(number * PIECE / 8).expect("small") | more;
            ip[6..8].copy_from_slice(&place.to_be_bytes());
            // Identical datagrams of one capture need identifications of their own; the time distinguishes them.
            let identification = u16::try_from(frame.nanos / 1000 % 65_536).expect("small");
            ip[4..6].copy_from_slice(&identification.to_be_bytes());
            Frame { nanos: frame.nanos, ip }
        })
        .collect()
}

/// TCP connections and UDP datagrams full of reproducible noise (xorshift).
pub fn noise(count: u16) -> Vec<Frame> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut random = move |length: usize| -> Vec<u8> {
        let mut bytes = Vec::with_capacity(length + 8);
        while bytes.len() < length {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            bytes.extend(state.to_le_bytes());
        }
        bytes.truncate(length);
        bytes
    };
    let mut frames = Vec::new();
    for number in 0..count {
        let (client, server) = (40_000 + number, 100 + number);
        let mut push = |builder: etherparse::PacketBuilderStep<etherparse::TcpHeader>, payload: &[u8]| {
            let mut ip = Vec::new();
            builder.write(&mut ip, payload).expect("written");
            frames.push(Frame { nanos: u64::from(number) * 1_000_000, ip });
        };
        let (one, two) = ([10, 0, 0, 1], [10, 0, 0, 2]);
        push(PacketBuilder::ipv4(one, two, 64).tcp(client, server, 99, 1000).syn(), &[]);
        for round in 0..8_u32 {
            let ask = PacketBuilder::ipv4(one, two, 64)
                .tcp(client, server, 100 + round * 1000, 1000)
                .ack(500 + round * 1000);
            push(ask, &random(1000));
            let answer = PacketBuilder::ipv4(two, one, 64)
                .tcp(server, client, 500 + round * 1000, 1000)
                .ack(1100 + round * 1000);
            push(answer, &random(1000));
        }
        for (from, to, source, destination) in [(one, two, client, server), (two, one, server, client)] {
            let mut ip = Vec::new();
            let length = 12 + usize::from(number);
            PacketBuilder::ipv4(from, to, 64)
                .udp(source, destination)
                .write(&mut ip, &random(length))
                .expect("written");
            frames.push(Frame { nanos: u64::from(number) * 1_000_000, ip });
        }
    }
    frames
}
