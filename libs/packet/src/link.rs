//! The link layer: how far into a frame the IP packet begins, and of which network it is.

use pcap_parser::Linktype;

use crate::network::{Carried, Kind, Network};

/// What a frame begins with. Numbers are those of the registry at <https://www.tcpdump.org/linktypes.html>.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Link {
    /// Ethernet II (1), with VLAN tags, MPLS or PPP, or without.
    Ethernet,
    /// A loopback device of a BSD: the address family in the byte order of the machine (0, 108).
    Loopback,
    /// Linux "cooked" frames (113).
    LinuxSll,
    /// The same, version 2 (276).
    LinuxSll2,
    /// An IP packet and nothing before it (12, 14, 101, 228, 229).
    Raw,
    /// Anything else: no packet is looked at.
    Other(i32),
}

impl From<Linktype> for Link {
    fn from(number: Linktype) -> Self {
        match number.0 {
            1 => Self::Ethernet,
            0 | 108 => Self::Loopback,
            113 => Self::LinuxSll,
            276 => Self::LinuxSll2,
            12 | 14 | 101 | 228 | 229 => Self::Raw,
            other => Self::Other(other),
        }
    }
}

/// `EtherTypes`: IP, MPLS (RFC 5332 has the second), and Ethernet itself, where it is what is carried.
pub(crate) const IPV4: u16 = 0x0800;
pub(crate) const IPV6: u16 = 0x86dd;
pub(crate) const MPLS: u16 = 0x8847;
const MPLS_UPSTREAM: u16 = 0x8848;
pub(crate) const ETHERNET: u16 = 0x6558;

/// VLAN tags: 802.1Q, 802.1ad, and the older number of stacked tags.
const ETHERTYPES_VLAN: [u16; 3] = [0x8100, 0x88a8, 0x9100];

/// A session of PPP over Ethernet (RFC 2516), and PPP's numbers of IP (RFC 1332, RFC 5072).
const ETHERTYPE_PPPOE: u16 = 0x8864;
const PPP_IP: [u16; 2] = [0x0021, 0x0057];

/// Version and type of PPP over Ethernet, its code, session and length: bytes.
const PPPOE_BYTES: usize = 6;

/// Headers of the link layer in a row that are looked through, and labels of MPLS; more are not seen in practice.
const HEADERS_MAX: usize = 8;
const LABELS_MAX: usize = 16;

/// Families of IPv6 in a loopback header: Linux, `NetBSD` and `OpenBSD`, `FreeBSD`, macOS. IPv4's is 2 everywhere.
const FAMILIES_IPV6: [u32; 4] = [10, 24, 28, 30];

/// The IP packet in a frame; none when the frame carries something else or is cut off before it.
pub fn ip_packet(link: Link, frame: &[u8]) -> Option<Carried<'_>> {
    let network = Network::default();
    match link {
        Link::Ethernet => carried(ETHERNET, frame, network),
        Link::LinuxSll => carried(be16(frame, 14)?, frame.get(16..)?, network),
        Link::LinuxSll2 => carried(be16(frame, 0)?, frame.get(20..)?, network),
        Link::Raw => Some(Carried { packet: frame, network }),
        Link::Loopback => {
            let family: [u8; 4] = frame.get(..4)?.try_into().ok()?;
            let family = u32::from_le_bytes(family).min(u32::from_be_bytes(family));
            (family == 2 || FAMILIES_IPV6.contains(&family)).then(|| Carried { packet: &frame[4..], network })
        }
        Link::Other(_) => None,
    }
}

/// The number of 16 bits at that place.
pub(crate) fn be16(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

/// The IP packet in what an `EtherType` announces: through Ethernet headers, VLAN tags, MPLS and PPP.
pub(crate) fn carried(mut ethertype: u16, mut bytes: &[u8], mut network: Network) -> Option<Carried<'_>> {
    for _ in 0..HEADERS_MAX {
        match ethertype {
            IPV4 | IPV6 => return Some(Carried { packet: bytes, network }),
            ETHERNET => (ethertype, bytes) = (be16(bytes, 12)?, bytes.get(14..)?),
            ETHERTYPE_PPPOE => {
                let is_ip = PPP_IP.contains(&be16(bytes, PPPOE_BYTES)?);
                return is_ip.then(|| Some(Carried { packet: bytes.get(PPPOE_BYTES + 2..)?, network }))?;
            }
            MPLS | MPLS_UPSTREAM => {
                let label;
                (label, bytes) = behind_labels(bytes)?;
                network = network.within(Kind::Mpls, label);
                match bytes.first()? >> 4 {
                    4 | 6 => return Some(Carried { packet: bytes, network }),
                    // The control word of a pseudowire (RFC 4385).
                    0 => (ethertype, bytes) = (ETHERNET, bytes.get(4..)?),
                    _ => ethertype = ETHERNET,
                }
            }
            _ if ETHERTYPES_VLAN.contains(&ethertype) => {
                // 0 is no VLAN: the tag is there for the priority.
                let vlan = be16(bytes, 0)? & 0xfff;
                if vlan != 0 {
                    network = network.within(Kind::Vlan, vlan);
                }
                (ethertype, bytes) = (be16(bytes, 2)?, bytes.get(4..)?);
            }
            _ => return None,
        }
    }
    None
}

/// The last label of a stack of MPLS (RFC 3032), which is the customer's network, and what is behind it.
fn behind_labels(mut bytes: &[u8]) -> Option<(u32, &[u8])> {
    for _ in 0..LABELS_MAX {
        let (entry, rest) = bytes.split_first_chunk::<4>()?;
        let entry = u32::from_be_bytes(*entry);
        if entry >> 8 & 1 == 1 {
            return Some((entry >> 12, rest));
        }
        bytes = rest;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ip_packet_is_found_behind_every_kind_of_header() {
        let ip = [0x45, 1, 2, 3];
        let frame = |head: &[u8]| [head, &ip].concat();
        let ethernet = [&[0; 12][..], &[8, 0]].concat();
        let vlans = [&[0; 12][..], &[0x88, 0xa8, 0, 1, 0x81, 0, 0, 2, 8, 0]].concat();
        let pppoe = [&[0; 12][..], &[0x81, 0, 0, 1, 0x88, 0x64, 0x11, 0, 0, 1, 0, 6, 0, 0x21]].concat();
        let mpls = [&[0; 12][..], &[0x88, 0x47, 0, 1, 0, 64, 0, 2, 1, 64]].concat();
        let pseudowire =
            [&[0; 12][..], &[0x88, 0x47, 0, 1, 1, 64], &[0; 4], &[2; 12], &[0x81, 0, 0, 1, 8, 0]].concat();
        let without_word = [&[0; 12][..], &[0x88, 0x47, 0, 1, 1, 64], &[0x22; 12], &[8, 0]].concat();
        let sll = [&[0; 14][..], &[0x86, 0xdd]].concat();
        let sll2 = [&[8, 0][..], &[0; 18]].concat();
        let sll2_vlan = [&[0x81, 0][..], &[0; 18], &[0, 1, 8, 0]].concat();
        for (link, head) in [
            (Link::Ethernet, &ethernet[..]),
            (Link::Ethernet, &vlans),
            (Link::Ethernet, &pppoe),
            (Link::Ethernet, &mpls),
            (Link::Ethernet, &pseudowire),
            (Link::Ethernet, &without_word),
            (Link::LinuxSll, &sll),
            (Link::LinuxSll2, &sll2),
            (Link::LinuxSll2, &sll2_vlan),
            (Link::Loopback, &[2, 0, 0, 0]),
            (Link::Loopback, &[0, 0, 0, 30]),
            (Link::Raw, &[]),
        ] {
            let frame = frame(head);
            assert_eq!(ip_packet(link, &frame).map(|carried| carried.packet), Some(&ip[..]), "{link:?}");
            for cut in 0..head.len() {
                assert_eq!(ip_packet(link, &frame[..cut]), None, "{link:?} cut at {cut}");
            }
        }
    }

    #[test]
    fn other_frames_are_left_alone() {
        let arp = [&[0; 12][..], &[8, 6, 1, 2]].concat();
        assert_eq!(ip_packet(Link::Ethernet, &arp), None);
        assert_eq!(ip_packet(Link::Other(147), &arp), None);
        // PPP's own control protocol.
        let control = [&[0; 12][..], &[0x88, 0x64, 0x11, 0, 0, 1, 0, 6, 0xc0, 0x21, 1, 2]].concat();
        assert_eq!(ip_packet(Link::Ethernet, &control), None);
        let tags: Vec<u8> =
            [0; 12].into_iter().chain([0x81, 0, 0, 1].into_iter().cycle().take(400)).collect();
        assert_eq!(ip_packet(Link::Ethernet, &tags), None);
        let labels: Vec<u8> = [0; 12]
            .into_iter()
            .chain([0x88, 0x47])
            .chain([0, 1, 0, 64].into_iter().cycle().take(400))
            .collect();
        assert_eq!(ip_packet(Link::Ethernet, &labels), None);
    }

    #[test]
    fn vlans_and_labels_are_networks_and_priorities_are_not() {
        let network = |head: &[u8]| {
            let frame = [&[0; 12][..], head, &[8, 0, 0x45]].concat();
            ip_packet(Link::Ethernet, &frame).expect("IP").network
        };
        let label = |label: u8, traffic_class: u8| {
            let frame =
                [&[0; 12][..], &[0x88, 0x47, 0, 0, label << 4 | traffic_class | 1, 64, 0x45]].concat();
            ip_packet(Link::Ethernet, &frame).expect("IP").network
        };
        assert_eq!(network(&[]), Network::default());
        assert_eq!(network(&[0x81, 0, 0xe0, 0]), Network::default(), "only a priority");
        assert_eq!(network(&[0x81, 0, 0xe0, 5]), network(&[0x81, 0, 0, 5]));
        assert_ne!(network(&[0x81, 0, 0, 6]), network(&[0x81, 0, 0, 5]));
        assert_ne!(network(&[0x81, 0, 0, 5]), Network::default());
        assert_eq!(label(3, 0), label(3, 2));
        assert_ne!(label(3, 0), label(4, 0));
    }
}
