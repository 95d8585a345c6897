//! IP packets: addresses, payload, and fragments joined (RFC 791, RFC 8200 section 4.5).
//!
//! Headers are read by `etherparse`, leniently: a packet of which only the head was captured is the normal case.

use std::{borrow::Cow, collections::VecDeque, net::IpAddr};

use etherparse::{
    IpFragOffset, IpNumber, Ipv6ExtensionSlice, LaxIpSlice,
    defrag::{IpDefragBuf, IpFragRange},
};

use crate::{network::Network, tunnel::Encapsulation};

/// Packets whose fragments are being collected; the oldest goes when another comes.
const PARTIAL_MAX: usize = 256;

/// Transport protocols that are followed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Transport {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
}

/// What an IP packet carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Protocol {
    /// A segment or datagram.
    Transport(Transport),
    /// Another packet.
    Encapsulation(Encapsulation),
}

impl Protocol {
    /// The protocols of numbers (RFC 5237), as far as they are followed.
    fn of(number: IpNumber) -> Option<Self> {
        Some(match number {
            IpNumber::TCP => Self::Transport(Transport::Tcp),
            IpNumber::UDP => Self::Transport(Transport::Udp),
            IpNumber::IPV4 | IpNumber::IPV6 => Self::Encapsulation(Encapsulation::Ip),
            IpNumber::GRE => Self::Encapsulation(Encapsulation::Gre),
            IpNumber::ETHER_IP => Self::Encapsulation(Encapsulation::EtherIp),
            IpNumber(137) => Self::Encapsulation(Encapsulation::Mpls),
            _ => return None,
        })
    }
}

/// An IP packet, whole as far as it was captured.
#[derive(Clone, Debug)]
pub struct Datagram<'a> {
    /// From where.
    pub source: IpAddr,
    /// To where.
    pub destination: IpAddr,
    /// What it carries.
    pub protocol: Protocol,
    /// The captured head of the payload.
    pub payload: Cow<'a, [u8]>,
    /// Length of the whole payload, bytes; at least what was captured.
    pub length: usize,
}

/// What a packet was.
#[derive(Clone, Debug)]
pub enum Seen<'a> {
    /// A whole one, perhaps by its last fragment.
    Whole(Datagram<'a>),
    /// A fragment of one that is not whole yet, or will never be.
    Fragment,
    /// Not IP, or no protocol that is followed.
    Other,
}

/// What the fragments of one packet have in common.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct FragmentKey {
    network: Network,
    source: IpAddr,
    destination: IpAddr,
    identification: u32,
    protocol: IpNumber,
}

/// Joins fragments.
#[derive(Debug, Default)]
pub struct Reassembly {
    partial: VecDeque<(FragmentKey, IpDefragBuf)>,
    /// Fragments that came to nothing: cut off, contradictory, or left over.
    pub dropped: u64,
}

/// One fragment's place.
struct Fragment {
    offset: IpFragOffset,
    more: bool,
    identification: u32,
}

impl Reassembly {
    /// Reads a packet of that network; one that carries another packet only where tunnels are looked into.
    pub fn packet<'a>(&mut self, network: Network, bytes: &'a [u8], tunnels: bool) -> Seen<'a> {
        self.try_packet(network, bytes, tunnels).unwrap_or(Seen::Other)
    }

    fn try_packet<'a>(&mut self, network: Network, bytes: &'a [u8], tunnels: bool) -> Option<Seen<'a>> {
        let (ip, _stop) = LaxIpSlice::from_slice(bytes).ok()?;
        let (source, destination) = (ip.source_addr(), ip.destination_addr());
        let payload = ip.payload();
        let number = ip.payload_ip_number();
        let protocol =
            Protocol::of(number).filter(|protocol| tunnels || matches!(protocol, Protocol::Transport(_)))?;
        let header_bytes = payload.payload.as_ptr().addr().checked_sub(bytes.as_ptr().addr())?;
        let (declared, fragment) = match &ip {
            LaxIpSlice::Ipv4(ip) => {
                let header = ip.header();
                let fragment = header.is_fragmenting_payload().then(|| Fragment {
                    offset: header.fragments_offset(),
                    more: header.more_fragments(),
                    identification: u32::from(header.identification()),
                });
                (usize::from(header.total_len()), fragment)
            }
            LaxIpSlice::Ipv6(ip) => {
                let fragment = ip.extensions().clone().into_iter().find_map(|extension| match extension {
                    Ipv6ExtensionSlice::Fragment(header) if header.is_fragmenting_payload() => {
                        Some(Fragment {
                            offset: header.fragment_offset(),
                            more: header.more_fragments(),
                            identification: header.identification(),
                        })
                    }
                    _ => None,
                });
                (40 + usize::from(ip.header().payload_length()), fragment)
            }
        };
        // Hardware that segments leaves the length at 0 in captures on the sending machine.
        let length = declared.saturating_sub(header_bytes).max(payload.payload.len());
        let Some(fragment) = fragment else {
            let payload = Cow::Borrowed(payload.payload);
            return Some(Seen::Whole(Datagram { source, destination, protocol, payload, length }));
        };
        if length != payload.payload.len() {
            self.dropped += 1;
            return Some(Seen::Fragment);
        }
        let identification = fragment.identification;
        let key = FragmentKey { network, source, destination, identification, protocol: number };
        let Some(payload) = self.join(key, &fragment, payload.payload) else { return Some(Seen::Fragment) };
        let length = payload.len();
        Some(Seen::Whole(Datagram { source, destination, protocol, payload: Cow::Owned(payload), length }))
    }

    /// Adds a fragment; gives the payload when it was the last.
    fn join(&mut self, key: FragmentKey, fragment: &Fragment, payload: &[u8]) -> Option<Vec<u8>> {
        let at = self.partial.iter().position(|(known, _)| *known == key);
        let at = at.unwrap_or_else(|| {
            if self.partial.len() >= PARTIAL_MAX {
                self.partial.pop_front();
                self.dropped += 1;
            }
            let sections: Vec<IpFragRange> = Vec::new();
            self.partial.push_back((key, IpDefragBuf::new(key.protocol, Vec::new(), sections)));
            self.partial.len() - 1
        });
        let (_, buffer) = &mut self.partial[at];
        if buffer.add(fragment.offset, fragment.more, payload).is_err() {
            self.dropped += 1;
            self.partial.remove(at);
            return None;
        }
        if !buffer.is_complete() {
            return None;
        }
        let (_, buffer) = self.partial.remove(at)?;
        Some(buffer.take_bufs().0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A fragment of 8 bytes of a packet's 16.
    fn fragment(protocol: IpNumber, number: u16, is_last: bool) -> Vec<u8> {
        let (id, place) = (number.to_be_bytes(), if is_last { [0, 1] } else { [0x20, 0] });
        let mut ip = vec![0x45, 0, 0, 28, id[0], id[1], place[0], place[1], 64, protocol.0, 0, 0];
        ip.extend([10, 0, 0, 1, 10, 0, 0, 2]);
        ip.extend([7; 8]);
        ip
    }

    #[test]
    fn fragments_of_tunnels_take_no_room_where_those_are_not_looked_into() {
        for tunnels in [false, true] {
            let mut reassembly = Reassembly::default();
            let mut packet = |protocol, number, is_last| {
                let bytes = fragment(protocol, number, is_last);
                match reassembly.packet(Network::OUTERMOST, &bytes, tunnels) {
                    Seen::Whole(datagram) => Some(datagram.length),
                    Seen::Fragment | Seen::Other => None,
                }
            };
            assert_eq!(packet(IpNumber::UDP, 0, false), None);
            for number in 0..=u16::try_from(PARTIAL_MAX).expect("few") {
                packet(IpNumber::GRE, number, false);
            }
            assert_eq!(packet(IpNumber::UDP, 0, true).is_some(), !tunnels);
            assert_eq!(packet(IpNumber::GRE, 9, true).is_some(), tunnels);
        }
    }
}
