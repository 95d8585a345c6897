use std::net::Ipv4Addr;

use super::*;

const IP: [u8; 20] = [0x45, 0, 0, 20, 0, 0, 0, 0, 64, 6, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2];

fn ends() -> [IpAddr; 2] {
    [1, 2].map(|host| IpAddr::from(Ipv4Addr::new(192, 0, 2, host)))
}

/// An Ethernet frame.
fn frame() -> Vec<u8> {
    [&[2; 12][..], &[8, 0], &IP].concat()
}

fn udp(port: u16, payload: &[u8]) -> Option<Content<'_>> {
    in_udp(port, payload, payload.len(), Network::default(), ends())
}

fn gre(payload: &[u8]) -> Option<Carried<'_>> {
    in_ip(Encapsulation::Gre, payload, Network::default(), ends())
}

/// Datagrams of tunnels: destination port and what is before the IP packet.
fn datagrams() -> Vec<(&'static str, u16, Vec<u8>)> {
    let ethernet = [&[2; 12][..], &[8, 0]].concat();
    let tagged = [&[2; 12][..], &[0x81, 0, 0, 7, 8, 0]].concat();
    let with = |head: &[u8], inner: &[u8]| [head, inner].concat();
    vec![
        ("VXLAN", 4789, with(&[8, 0, 0, 0, 0, 0, 5, 0], &ethernet)),
        ("VXLAN of Linux", 8472, with(&[8, 0, 0, 0, 0, 0, 5, 0], &tagged)),
        ("VXLAN with a group", 4789, with(&[0x88, 0, 1, 2, 0, 0, 5, 0], &ethernet)),
        ("VXLAN with reserved bits", 4789, with(&[0x48, 1, 2, 3, 0, 0, 5, 1], &ethernet)),
        ("VXLAN, generic", 4790, with(&[0x0c, 0, 0, 1, 0, 0, 5, 0], &[])),
        ("VXLAN, generic, of Ethernet", 4790, with(&[0x0c, 0, 0, 3, 0, 0, 5, 0], &ethernet)),
        ("Geneve", 6081, with(&[0, 0, 0x65, 0x58, 0, 0, 5, 0], &ethernet)),
        ("Geneve with options", 6081, with(&[2, 0x40, 8, 0, 0, 0, 5, 0], &[1, 8, 1, 1, 9, 9, 9, 9])),
        ("GTP-U", 2152, with(&[0x30, 0xff, 0, 20, 0, 0, 0, 5], &[])),
        ("GTP-U with a sequence number", 2152, with(&[0x32, 0xff, 0, 24, 0, 0, 0, 5], &[0, 1, 0, 0])),
        (
            "GTP-U with extensions",
            2152,
            with(&[0x34, 0xff, 0, 36, 0, 0, 0, 5], &[0, 0, 0, 0x85, 1, 0, 0, 0x40, 2, 0, 0, 0, 0, 0, 0, 0]),
        ),
        ("GRE over UDP", 4754, vec![0x20, 0, 8, 0, 0, 0, 0, 5]),
        ("MPLS over UDP", 6635, vec![0, 1, 0, 64, 0, 2, 1, 64]),
    ]
}

/// GRE packets: what is before the IP packet.
fn of_gre() -> Vec<(&'static str, Vec<u8>)> {
    let ethernet = [&[2; 12][..], &[8, 0]].concat();
    let with = |head: &[u8], inner: &[u8]| [head, inner].concat();
    vec![
        ("plain", vec![0, 0, 8, 0]),
        ("everything", vec![0xb0, 0, 8, 0, 1, 2, 0, 0, 0, 0, 0, 5, 0, 0, 0, 9]),
        ("Ethernet", with(&[0x20, 0, 0x65, 0x58, 0, 0, 0, 5], &ethernet)),
        ("MPLS", vec![0, 0, 0x88, 0x47, 0, 1, 1, 64]),
        ("ERSPAN I", with(&[0, 0, 0x88, 0xbe], &ethernet)),
        ("ERSPAN II", with(&[0x10, 0, 0x88, 0xbe, 0, 0, 0, 9, 0x10, 0, 0, 5, 0, 0, 0, 0], &ethernet)),
        (
            "ERSPAN III",
            with(&[0x10, 0, 0x22, 0xeb, 0, 0, 0, 9, 0x20, 0, 0, 5, 1, 2, 3, 4, 0, 0, 0, 0], &ethernet),
        ),
        (
            "ERSPAN III with a platform's header",
            with(
                &[
                    0x10, 0, 0x22, 0xeb, 0, 0, 0, 9, 0x20, 0, 0, 5, 1, 2, 3, 4, 0, 0, 0, 1, 1, 2, 3, 4, 5, 6,
                    7, 8,
                ],
                &ethernet,
            ),
        ),
        ("ERSPAN III of IP", vec![0x10, 0, 0x22, 0xeb, 0, 0, 0, 9, 0x20, 0, 0, 5, 1, 2, 3, 4, 0, 0, 8, 0]),
    ]
}

#[test]
fn the_packet_is_found_in_every_datagram_of_a_tunnel_that_is_long_enough() {
    for (name, port, head) in datagrams() {
        let datagram = [&head[..], &IP].concat();
        let Some(Content::Packet(carried)) = udp(port, &datagram) else { panic!("{name}") };
        assert_eq!(carried.packet, IP, "{name}");
        for cut in 0..head.len() {
            let found = in_udp(port, &datagram[..cut], datagram.len(), Network::default(), ends());
            assert!(!matches!(found, Some(Content::Packet(_))), "{name} cut at {cut}: {found:?}");
        }
    }
}

#[test]
fn the_packet_is_found_behind_every_form_of_gre() {
    for (name, head) in of_gre() {
        let packet = [&head[..], &IP].concat();
        assert_eq!(gre(&packet).map(|carried| carried.packet), Some(&IP[..]), "{name}");
        for cut in 0..head.len() {
            assert_eq!(gre(&packet[..cut]), None, "{name} cut at {cut}");
        }
    }
    for (name, head) in
        [("routing", [0x40, 0, 8, 0]), ("PPTP", [0x30, 1, 0x88, 0x0b]), ("other", [0, 0, 8, 6])]
    {
        assert_eq!(gre(&[&head[..], &IP].concat()), None, "{name}");
    }
}

#[test]
fn packets_are_found_in_ip_itself() {
    let in_ip = |encapsulation, head: &[u8]| {
        let packet = [head, &IP].concat();
        in_ip(encapsulation, &packet, Network::default(), ends()).map(|carried| carried.packet.to_vec())
    };
    let ethernet = [&[0x30, 0][..], &[2; 12], &[8, 0]].concat();
    assert_eq!(in_ip(Encapsulation::Ip, &[]), Some(IP.to_vec()));
    assert_eq!(in_ip(Encapsulation::EtherIp, &ethernet), Some(IP.to_vec()));
    assert_eq!(in_ip(Encapsulation::EtherIp, &ethernet[2..]), None);
    assert_eq!(in_ip(Encapsulation::Mpls, &[0, 1, 1, 64]), Some(IP.to_vec()));
}

#[test]
fn a_tunnels_number_is_a_network_and_what_changes_from_packet_to_packet_is_not() {
    let network = |port, head: &[u8]| match udp(port, &[head, &IP].concat()) {
        Some(Content::Packet(carried)) => carried.network,
        other => panic!("{other:?}"),
    };
    let all: Vec<Network> = datagrams().iter().map(|(_, port, head)| network(*port, head)).collect();
    assert!(all.iter().all(|network| *network != Network::default()));
    let (_, _, mut head) = datagrams().swap_remove(0);
    head[6] = 6;
    assert_ne!(network(4789, &head), all[0], "another number");
    assert_eq!(network(4789, &[&[0x88, 0, 9, 9, 0, 0, 5, 0][..], &head[8..]].concat()), all[0], "a group");
    assert_ne!(
        network(4789, &head),
        network(6081, &[&[0, 0, 0x65, 0x58, 0, 0, 6, 0][..], &head[8..]].concat())
    );

    let of_gre = |head: &[u8]| gre(&[head, &IP].concat()).expect("a packet").network;
    let keyed = [0x30, 0, 8, 0, 0, 0, 0, 5, 0, 0, 0, 1];
    let next = [0x30, 0, 8, 0, 0, 0, 0, 5, 0, 0, 0, 2];
    assert_eq!(of_gre(&keyed), of_gre(&next), "the next sequence number");
    assert_ne!(of_gre(&keyed), of_gre(&[0x20, 0, 8, 0, 0, 0, 0, 6]), "another key");

    // Without a number the ends count, in either order.
    let between = |ends| in_ip(Encapsulation::Ip, &IP, Network::default(), ends).expect("a packet").network;
    let [one, two] = ends();
    let three = IpAddr::from(Ipv4Addr::new(192, 0, 2, 3));
    assert_eq!(between([one, two]), between([two, one]));
    assert_ne!(between([one, two]), between([one, three]));
}

#[test]
fn a_datagram_that_is_none_of_a_tunnel_is_left_to_others() {
    // The answer to a client of DNS whose port is a tunnel's.
    let mut answer = vec![0x08, 0x42, 0x81, 0x80, 0, 1, 0, 1, 0, 0, 0, 0];
    answer.extend(b"\x07example\x03com\0\0\x01\0\x01\xc0\x0c\0\x01\0\x01\0\0\0\x3c\0\x04\xc0\0\x02\x01");
    let quic = [&[0xc8, 0, 0, 0, 1][..], &[7; 60]].concat();
    for port in [4789, 8472, 4790, 6081, 2152, 4754, 6635] {
        for id in [0x08, 0x30, 0x0c, 0x20, 0x88, 0] {
            answer[0] = id;
            assert_eq!(udp(port, &answer), None, "DNS to {port}, id {id:#x}");
        }
        assert_eq!(udp(port, &quic), None, "QUIC to {port}");
        assert_eq!(udp(port, b""), None);
        assert_eq!(udp(port, b"hello"), None);
    }
    let packet = [&[8, 0, 0, 0, 0, 0, 5, 0][..], &frame()].concat();
    assert_eq!(udp(53, &packet), None, "another port");
    // What a tunnel carries besides IP is no conversation of its ends either.
    let arp = [&[8, 0, 0, 0, 0, 0, 5, 0][..], &[2; 12], &[8, 6], &[0; 28]].concat();
    assert_eq!(udp(4789, &arp), Some(Content::Other));
    // Control messages of GTP's tunnels.
    assert_eq!(udp(2152, &[0x32, 1, 0, 4, 0, 0, 0, 0, 0, 1, 0, 0]), None);
}
