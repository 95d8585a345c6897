//! Packets in tunnels: each request counts once, in its own network, as without the tunnel.

mod packets;

use packets::{Capture, End, MS, ends};

/// Outer addresses, protocol, and what is before the inner packet.
fn outer(protocol: u8, from: u8, to: u8, head: &[u8], inner: &[u8]) -> Vec<u8> {
    let length = u16::try_from(20 + head.len() + inner.len()).expect("a packet").to_be_bytes();
    let ip =
        [0x45, 0, length[0], length[1], 0, 0, 0x40, 0, 64, protocol, 0, 0, 192, 0, 2, from, 192, 0, 2, to];
    [&ip[..], head, inner].concat()
}

/// A datagram of a tunnel.
fn udp(port: u16, head: &[u8], inner: &[u8]) -> Vec<u8> {
    let length = u16::try_from(8 + head.len() + inner.len()).expect("a datagram");
    let datagram = [50_000, port, length, 0].map(u16::to_be_bytes).concat();
    outer(17, 8, 9, &[&datagram, head].concat(), inner)
}

const ETHERNET: [u8; 14] = [2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 8, 0];

fn vxlan(number: u8, inner: &[u8]) -> Vec<u8> {
    udp(4789, &[&[8, 0, 0, 0, 0, 0, number, 0][..], &ETHERNET].concat(), inner)
}

fn gre(key: u8, inner: &[u8]) -> Vec<u8> {
    outer(47, 8, 9, &[0x20, 0, 8, 0, 0, 0, 0, key], inner)
}

fn gtp(number: u8, inner: &[u8]) -> Vec<u8> {
    let length = u16::try_from(inner.len()).expect("a packet").to_be_bytes();
    udp(2152, &[0x30, 0xff, length[0], length[1], 0, 0, 0, number], inner)
}

fn erspan(session: u8, inner: &[u8]) -> Vec<u8> {
    let head = [0x10, 0, 0x88, 0xbe, 0, 0, 0, 1, 0x10, 0, 0, session, 0, 0, 0, 0];
    outer(47, 8, 9, &[&head[..], &ETHERNET].concat(), inner)
}

/// A tunnel between two ends, without a number.
fn ip_in_ip(ends: u8, inner: &[u8]) -> Vec<u8> {
    outer(4, ends, 9, &[], inner)
}

type Tunnel = fn(u8, &[u8]) -> Vec<u8>;

const TUNNELS: [(&str, Tunnel); 5] =
    [("VXLAN", vxlan), ("GRE", gre), ("GTP-U", gtp), ("ERSPAN", erspan), ("IP in IP", ip_in_ip)];

/// A connection with two requests, and two questions with their answers. `seed` makes its numbers and questions its own.
fn conversation(seed: u32) -> Capture {
    let (mut capture, (mut client, mut server)) = (Capture::default(), ends());
    capture.now_ns = u64::from(seed) * 1_000;
    client.next = client.next.wrapping_add(seed.wrapping_mul(77_000_001));
    server.next = server.next.wrapping_add(seed.wrapping_mul(33_000_001));
    capture.open(&mut client, &mut server);
    capture.exchange(&mut client, &mut server);
    capture.exchange(&mut client, &mut server);
    capture.close(&mut client, &mut server);
    let asker = End { port: 5_353, ..client };
    for number in [0, 1] {
        for response in [false, true] {
            capture.dns(asker, response);
            let (_, packet) = capture.packets.back_mut().expect("a packet");
            packet[28..30].copy_from_slice(&[number, u8::try_from(seed).expect("small")]);
            capture.now_ns += 20 * MS;
        }
    }
    capture
}

fn from_client(packet: &[u8]) -> bool {
    packet[15] == 1
}

/// The packets of captures, in the order of their times.
fn together(captures: impl IntoIterator<Item = Capture>) -> Capture {
    let mut packets: Vec<_> = captures.into_iter().flat_map(|capture| capture.packets).collect();
    packets.sort_by_key(|(time_ns, _)| *time_ns);
    Capture { packets: packets.into(), now_ns: 0 }
}

fn within(mut capture: Capture, tunnel: impl Fn(&[u8]) -> Vec<u8>) -> Capture {
    for (_, packet) in &mut capture.packets {
        *packet = tunnel(packet);
    }
    capture
}

const FOUR: [(bool, u64); 4] = [(true, 20); 4];

#[test]
fn what_is_in_a_tunnel_is_counted() {
    for (name, tunnel) in TUNNELS {
        assert_eq!(within(conversation(0), |packet| tunnel(5, packet)).replay(), FOUR, "{name}");
    }
}

#[test]
fn what_is_captured_inside_and_outside_of_a_tunnel_counts_once() {
    for (name, tunnel) in TUNNELS {
        for first_outside in [false, true] {
            let inside = within(conversation(0), |packet| tunnel(5, packet));
            let captures = if first_outside { [conversation(0), inside] } else { [inside, conversation(0)] };
            assert_eq!(together(captures).replay(), FOUR, "{name}, first outside: {first_outside}");
        }
        let relayed = TUNNELS.map(|(_, other)| within(conversation(0), |packet| other(7, packet)));
        assert_eq!(together(relayed).replay(), FOUR, "from tunnel to tunnel");
    }
}

#[test]
fn the_same_addresses_in_two_tunnels_are_two_conversations() {
    for (name, tunnel) in TUNNELS {
        let captures =
            [1, 2].map(|number| within(conversation(number.into()), |packet| tunnel(number, packet)));
        assert_eq!(together(captures).replay(), [(true, 20); 8], "{name}");
        let captures = [conversation(1), within(conversation(2), |packet| tunnel(5, packet))];
        assert_eq!(together(captures).replay(), [(true, 20); 8], "{name} and no tunnel");
    }
}

#[test]
fn the_directions_of_a_conversation_may_have_tunnels_of_their_own() {
    for (name, tunnel) in TUNNELS {
        let apart = within(conversation(0), |packet| tunnel(if from_client(packet) { 1 } else { 2 }, packet));
        assert_eq!(apart.replay(), FOUR, "{name}");
        // As behind a load balancer whose servers answer directly.
        let half =
            within(
                conversation(0),
                |packet| {
                    if from_client(packet) { tunnel(1, packet) } else { packet.to_vec() }
                },
            );
        assert_eq!(half.replay(), FOUR, "{name}");
    }
}

/// A capture that begins with the rest of a response, of which so many bytes have not reached the client.
fn joined(in_flight: u32) -> Capture {
    let (mut capture, (mut client, mut server)) = (Capture::default(), ends());
    capture.send(&mut server, client, b"the rest of a response");
    let before = End { next: server.next.wrapping_sub(in_flight), ..server };
    capture.send(&mut client, before, b"GET /a HTTP/1.1\r\nHost: a.example\r\n\r\n");
    capture.now_ns += 20 * MS;
    capture.send(&mut server, client, b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
    for _ in 0..3 {
        capture.exchange(&mut client, &mut server);
    }
    capture
}

/// In a tunnel are the packets of the client, or those of the server.
fn one_way_in_a_tunnel(capture: Capture, tunnel: Tunnel, of_client: bool) -> Capture {
    within(
        capture,
        |packet| {
            if from_client(packet) == of_client { tunnel(1, packet) } else { packet.to_vec() }
        },
    )
}

#[test]
fn the_directions_of_a_connection_that_is_joined_may_have_tunnels_of_their_own() {
    for (name, tunnel) in TUNNELS {
        for (in_flight, of_client) in
            [0, 1_000, 300_000, 4_000_000].into_iter().flat_map(|bytes| [(bytes, false), (bytes, true)])
        {
            let found = one_way_in_a_tunnel(joined(in_flight), tunnel, of_client).replay();
            assert_eq!(found, FOUR, "{name}, {in_flight} bytes, of the client: {of_client}");
        }
    }
}

#[test]
fn a_flow_of_one_direction_becomes_part_of_the_one_that_a_later_packet_proves() {
    for (name, tunnel) in TUNNELS {
        for of_client in [false, true] {
            let found = one_way_in_a_tunnel(joined(50_000_000), tunnel, of_client).replay();
            assert_eq!(
                found[found.len().saturating_sub(3)..],
                FOUR[1..],
                "{name}, of the client: {of_client}"
            );
        }
    }
}

#[test]
fn joined_connections_of_one_direction_in_two_networks_are_two() {
    let one_way = |seed: u32, of_client: bool| {
        let (mut capture, (mut client, mut server)) = (Capture::default(), ends());
        client.next = client.next.wrapping_add(seed.wrapping_mul(770_000_001));
        server.next = server.next.wrapping_add(seed.wrapping_mul(330_000_001));
        for _ in 0..3 {
            capture.exchange(&mut client, &mut server);
        }
        capture.packets.retain(|(_, packet)| from_client(packet) == of_client);
        capture
    };
    for (name, tunnel) in TUNNELS {
        let captures = [(1, true), (2, false)].map(|(number, of_client)| {
            within(one_way(number.into(), of_client), |packet| tunnel(number, packet))
        });
        assert_eq!(together(captures).replay(), [], "{name}: no request of one is answered by the other");
    }
}

#[test]
fn tunnels_in_tunnels_are_looked_into_up_to_a_depth() {
    let in_so_many = |depth: u8| {
        within(conversation(0), |packet| {
            (0..depth).fold(packet.to_vec(), |inner, level| TUNNELS[usize::from(level) % 5].1(level, &inner))
        })
    };
    for depth in 0..=4 {
        assert_eq!(in_so_many(depth).replay(), FOUR, "{depth}");
    }
    assert_eq!(in_so_many(5).replay(), []);
}

#[test]
fn fragments_are_joined_inside_and_outside_of_a_tunnel() {
    let fragments = |capture: Capture| {
        let mut parts = Capture::default();
        for (number, (time_ns, packet)) in (1_u16..).zip(capture.packets) {
            let (head, payload) = packet.split_at(20);
            let middle = (payload.len() / 2).next_multiple_of(8).min(payload.len());
            for (offset, part) in [(0, &payload[..middle]), (middle, &payload[middle..])] {
                if part.is_empty() {
                    continue;
                }
                let more = offset + part.len() < payload.len();
                let place = u16::try_from(offset / 8).expect("small") | if more { 0x2000 } else { 0 };
                let mut ip = head.to_vec();
                ip[2..4].copy_from_slice(&u16::try_from(20 + part.len()).expect("small").to_be_bytes());
                ip[4..6].copy_from_slice(&number.to_be_bytes());
                ip[6..8].copy_from_slice(&place.to_be_bytes());
                ip.extend(part);
                // Between those of another capture.
                parts.packets.push_back((time_ns + offset.min(1) as u64 * 5_000, ip));
            }
        }
        parts
    };
    for (name, tunnel) in TUNNELS {
        let outside = fragments(within(conversation(0), |packet| tunnel(5, packet)));
        assert_eq!(outside.replay(), FOUR, "{name}");
        let inside = within(fragments(conversation(0)), |packet| tunnel(5, packet));
        assert_eq!(inside.replay(), FOUR, "{name}");
        // Fragments of the same number in two networks are not of one packet.
        let both = [1, 2]
            .map(|number| within(fragments(conversation(number.into())), |packet| tunnel(number, packet)));
        assert_eq!(together(both).replay(), [(true, 20); 8], "{name}");
    }
}

#[test]
fn a_client_may_have_a_tunnels_port() {
    for port in [4789, 8472, 6081, 2152] {
        let mut capture = Capture::default();
        let asker = End { port, ..ends().0 };
        for response in [false, true] {
            capture.dns(asker, response);
            capture.now_ns += 20 * MS;
        }
        assert_eq!(capture.replay(), [(true, 20)], "{port}");
    }
}

#[test]
fn flows_of_many_networks_between_the_same_ends_stay_within_bounds() {
    let captures =
        (0..60).map(|number| within(conversation(number.into()), move |packet| gre(number, packet)));
    assert_eq!(together(captures).replay(), [(true, 20); 240]);
    // The same in more networks than a flow can have.
    let same = (0..60).map(|number| within(conversation(0), move |packet| vxlan(number, packet)));
    assert_eq!(together(same).replay(), FOUR);
}
