//! Packets in packets: VXLAN (RFC 7348, and its generic extension), Geneve (RFC 8926), GTP-U (3GPP TS 29.281), GRE
//! (RFC 2784, RFC 2890, over UDP RFC 8086) with ERSPAN (draft-foschiano-erspan), IP in IP (RFC 2003, RFC 4213), MPLS in IP
//! (RFC 4023, over UDP RFC 7510), `EtherIP` (RFC 3378).
//!
//! A tunnel over UDP is recognised by its destination port and by its form: any client may have got the port as its own.

use std::net::IpAddr;

use crate::{
    link::{self, ETHERNET, IPV4, IPV6, MPLS, be16},
    network::{Carried, Kind, Network},
};

/// Tunnels in a tunnel that are looked into.
pub(crate) const DEPTH_MAX: usize = 4;

/// VXLAN's port, the one that Linux had before, and that of the generic extension.
const PORTS_VXLAN: [u16; 2] = [4789, 8472];
const PORT_VXLAN_GPE: u16 = 4790;
const PORT_GENEVE: u16 = 6081;
const PORT_GTP: u16 = 2152;
const PORT_GRE: u16 = 4754;
const PORT_MPLS: u16 = 6635;

/// Extension headers of GTP-U that are skipped.
const GTP_EXTENSIONS_MAX: usize = 8;

/// IP protocols that carry packets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Encapsulation {
    /// IP in IP, either version (4, 41).
    Ip,
    /// GRE (47).
    Gre,
    /// Ethernet in IP (97).
    EtherIp,
    /// MPLS in IP (137).
    Mpls,
}

/// The packet in an IP packet of these protocols; none if it has no IP packet. `network` and `ends` are those of the outer
/// one.
pub(crate) fn in_ip(
    encapsulation: Encapsulation,
    payload: &[u8],
    network: Network,
    ends: [IpAddr; 2],
) -> Option<Carried<'_>> {
    // A tunnel without a number has the name of its ends, which is the same in both directions.
    let between = (ends[0].min(ends[1]), ends[0].max(ends[1]));
    match encapsulation {
        Encapsulation::Ip => Some(Carried { packet: payload, network: network.within(Kind::Ip, between) }),
        Encapsulation::Gre => gre(payload, network, between),
        Encapsulation::EtherIp => {
            let network = network.within(Kind::Ip, between);
            (be16(payload, 0)? == 0x3000).then(|| link::carried(ETHERNET, payload.get(2..)?, network))?
        }
        Encapsulation::Mpls => link::carried(MPLS, payload, network.within(Kind::Ip, between)),
    }
}

/// GRE's flags.
mod gre_flag {
    pub const CHECKSUM: u16 = 0x8000;
    pub const ROUTING: u16 = 0x4000;
    pub const KEY: u16 = 0x2000;
    pub const SEQUENCE: u16 = 0x1000;
    pub const VERSION: u16 = 0x0007;
}

/// `EtherTypes` of ERSPAN: I and II, III.
const ETHERTYPES_ERSPAN: [u16; 2] = [0x88be, 0x22eb];

fn gre(payload: &[u8], network: Network, between: (IpAddr, IpAddr)) -> Option<Carried<'_>> {
    let (flags, ethertype) = (be16(payload, 0)?, be16(payload, 2)?);
    if flags & (gre_flag::ROUTING | gre_flag::VERSION) != 0 {
        return None;
    }
    let mut at = 4;
    if flags & gre_flag::CHECKSUM != 0 {
        at += 4;
    }
    let mut network = if flags & gre_flag::KEY == 0 {
        network.within(Kind::Gre, between)
    } else {
        at += 4;
        network.within(Kind::Gre, payload.get(at - 4..at)?)
    };
    let is_numbered = flags & gre_flag::SEQUENCE != 0;
    if is_numbered {
        at += 4;
    }
    if !ETHERTYPES_ERSPAN.contains(&ethertype) {
        return link::carried(ethertype, payload.get(at..)?, network);
    }
    if is_numbered {
        network = network.within(Kind::Erspan, be16(payload, at + 2)? & 0x3ff);
        at += match payload.get(at)? >> 4 {
            // Type II.
            1 => 8,
            // Type III; the last bit announces a header of the platform. Its frames are Ethernet (0) or IP (2).
            2 => {
                let last = be16(payload, at + 10)?;
                let header = if last & 1 == 0 { 12 } else { 20 };
                if last >> 10 & 0x1f == 2 {
                    let packet = payload.get(at + header..)?;
                    return Some(Carried { packet, network });
                }
                header
            }
            _ => return None,
        };
    }
    link::carried(ETHERNET, payload.get(at..)?, network)
}

/// What a datagram of a tunnel has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Content<'a> {
    Packet(Carried<'a>),
    /// No IP, or not enough of it.
    Other,
}

/// What a datagram to that port carries; none when it is no tunnel's. `length` is that of its whole payload.
pub(crate) fn in_udp(
    port: u16,
    payload: &[u8],
    length: usize,
    network: Network,
    ends: [IpAddr; 2],
) -> Option<Content<'_>> {
    let of_ip = |encapsulation| {
        let carried = in_ip(encapsulation, payload, network, ends);
        carried.filter(|carried| is_ip(carried.packet)).map(Content::Packet)
    };
    match port {
        PORT_GRE => of_ip(Encapsulation::Gre),
        PORT_MPLS => of_ip(Encapsulation::Mpls),
        PORT_GENEVE => geneve(payload, network),
        PORT_GTP => gtp(payload, length, network),
        PORT_VXLAN_GPE => vxlan(payload, network),
        _ if PORTS_VXLAN.contains(&port) => vxlan(payload, network),
        _ => None,
    }
}

fn content(carried: Option<Carried<'_>>) -> Content<'_> {
    carried.map_or(Content::Other, Content::Packet)
}

/// Whether bytes begin like an IP packet.
fn is_ip(bytes: &[u8]) -> bool {
    match bytes.first() {
        Some(first) if first >> 4 == 4 => {
            // Hardware that segments leaves the length at 0.
            let is_length = |length| length == 0 || length >= 4 * u16::from(first & 15);
            first & 15 >= 5 && be16(bytes, 2).is_some_and(is_length)
        }
        Some(first) => first >> 4 == 6,
        None => false,
    }
}

/// The number of 24 bits at that place.
fn be24(bytes: &[u8], at: usize) -> Option<[u8; 3]> {
    bytes.get(at..at + 3)?.try_into().ok()
}

fn vxlan(payload: &[u8], network: Network) -> Option<Content<'_>> {
    const HAS_NETWORK: u8 = 0x08;
    const HAS_PROTOCOL: u8 = 0x04;
    const HAS_GROUP: u8 = 0x80;
    let (head, rest) = payload.split_at_checked(8)?;
    if head[0] & HAS_NETWORK == 0 {
        return None;
    }
    let network = network.within(Kind::Vxlan, be24(head, 4)?);
    let ethertype = match head[3] {
        _ if head[0] & HAS_PROTOCOL == 0 => Some(ETHERNET),
        1 => Some(IPV4),
        2 => Some(IPV6),
        3 => Some(ETHERNET),
        5 => Some(MPLS),
        _ => None,
    };
    let carried = ethertype.and_then(|ethertype| link::carried(ethertype, rest, network));
    // Bits that are reserved may be set, but hardly where there is no packet either.
    let is_plain = head[0] & !(HAS_NETWORK | HAS_PROTOCOL | HAS_GROUP) == 0
        && (head[0] != HAS_NETWORK || head[1..4] == [0; 3])
        && head[7] == 0;
    (is_plain || carried.is_some_and(|carried| is_ip(carried.packet))).then(|| content(carried))
}

fn geneve(payload: &[u8], network: Network) -> Option<Content<'_>> {
    let (head, rest) = payload.split_at_checked(8)?;
    // Version 0, its two flags, and nothing in the reserved bits.
    if head[0] >> 6 != 0 || head[1] & 0x3f != 0 || head[7] != 0 {
        return None;
    }
    let network = network.within(Kind::Geneve, be24(head, 4)?);
    let options = 4 * usize::from(head[0] & 0x3f);
    let carried = rest.get(options..).and_then(|packet| link::carried(be16(head, 2)?, packet, network));
    // An unknown protocol is more likely a datagram of another kind.
    (carried.is_some() || be16(head, 2)? == ETHERNET).then(|| content(carried))
}

fn gtp(payload: &[u8], length: usize, network: Network) -> Option<Content<'_>> {
    const HAS_EXTENSION: u8 = 0x04;
    const USER_DATA: u8 = 0xff;
    let (head, mut rest) = payload.split_at_checked(8)?;
    // Version 1, not the charging protocol.
    if head[0] & 0xf8 != 0x30 || head[1] != USER_DATA || usize::from(be16(head, 2)?) + 8 != length {
        return None;
    }
    let network = network.within(Kind::Gtp, &head[4..]);
    if head[0] & 7 != 0 {
        let (optional, behind) = rest.split_at_checked(4)?;
        rest = behind;
        let mut next = if head[0] & HAS_EXTENSION == 0 { 0 } else { optional[3] };
        for _ in 0..GTP_EXTENSIONS_MAX {
            if next == 0 {
                break;
            }
            let size = 4 * usize::from(*rest.first()?);
            let (extension, behind) = rest.split_at_checked(size)?;
            (next, rest) = (*extension.last()?, behind);
        }
        if next != 0 {
            return None;
        }
    }
    is_ip(rest).then_some(Content::Packet(Carried { packet: rest, network }))
}

#[cfg(test)]
#[path = "tunnel_tests.rs"]
mod tests;
