//! The link layer: how far into a frame the IP packet begins.

use pcap_parser::Linktype;

/// What a frame begins with. Numbers are those of the registry at <https://www.tcpdump.org/linktypes.html>.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Link {
    /// Ethernet II (1), with VLAN tags or without, and PPP over it.
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

const ETHERTYPE_IPV4: u16 = 0x0800;
const ETHERTYPE_IPV6: u16 = 0x86dd;

/// VLAN tags: 802.1Q, 802.1ad, and the older number of stacked tags.
const ETHERTYPES_VLAN: [u16; 3] = [0x8100, 0x88a8, 0x9100];

/// A session of PPP over Ethernet (RFC 2516), and PPP's numbers of IP (RFC 1332, RFC 5072).
const ETHERTYPE_PPPOE: u16 = 0x8864;
const PPP_IP: [u16; 2] = [0x0021, 0x0057];

/// Version and type of PPP over Ethernet, its code, session and length: bytes.
const PPPOE_BYTES: usize = 6;

/// Stacked tags that are looked through; more are not seen in practice.
const VLAN_TAGS_MAX: usize = 4;

/// Families of IPv6 in a loopback header: Linux, `NetBSD` and `OpenBSD`, `FreeBSD`, macOS. IPv4's is 2 everywhere.
const FAMILIES_IPV6: [u32; 4] = [10, 24, 28, 30];

/// The IP packet in a frame; none when the frame carries something else or is cut off before it.
pub fn ip_packet(link: Link, frame: &[u8]) -> Option<&[u8]> {
    match link {
        Link::Ethernet => after_ethertype(frame, 12),
        Link::LinuxSll => after_ethertype(frame, 14),
        Link::LinuxSll2 => is_ip(be16(frame, 0)?).then(|| frame.get(20..))?,
        Link::Raw => Some(frame),
        Link::Loopback => {
            let family: [u8; 4] = frame.get(..4)?.try_into().ok()?;
            let family = u32::from_le_bytes(family).min(u32::from_be_bytes(family));
            (family == 2 || FAMILIES_IPV6.contains(&family)).then(|| &frame[4..])
        }
        Link::Other(_) => None,
    }
}

fn be16(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

fn is_ip(ethertype: u16) -> bool {
    matches!(ethertype, ETHERTYPE_IPV4 | ETHERTYPE_IPV6)
}

/// Reads the `EtherType` at that place, through VLAN tags.
fn after_ethertype(frame: &[u8], mut at: usize) -> Option<&[u8]> {
    for _ in 0..=VLAN_TAGS_MAX {
        let ethertype = be16(frame, at)?;
        if is_ip(ethertype) {
            return frame.get(at + 2..);
        }
        if ethertype == ETHERTYPE_PPPOE {
            let protocol = at + 2 + PPPOE_BYTES;
            return PPP_IP.contains(&be16(frame, protocol)?).then(|| frame.get(protocol + 2..))?;
        }
        if !ETHERTYPES_VLAN.contains(&ethertype) {
            return None;
        }
        at += 4;
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
        let sll = [&[0; 14][..], &[0x86, 0xdd]].concat();
        let sll2 = [&[8, 0][..], &[0; 18]].concat();
        for (link, head) in [
            (Link::Ethernet, &ethernet[..]),
            (Link::Ethernet, &vlans),
            (Link::Ethernet, &pppoe),
            (Link::LinuxSll, &sll),
            (Link::LinuxSll2, &sll2),
            (Link::Loopback, &[2, 0, 0, 0]),
            (Link::Loopback, &[0, 0, 0, 30]),
            (Link::Raw, &[]),
        ] {
            let frame = frame(head);
            assert_eq!(ip_packet(link, &frame), Some(&ip[..]), "{link:?}");
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
    }
}
