//! Turns fuzz bytes into what a connection may be given: chunks of both directions, cut anywhere, with parts not
//! captured and parts lost; and checks what must hold whatever the bytes.
//!
//! The input is a sequence of steps: a control byte, a length byte, then that many bytes. Of the control byte, bit 0 is
//! the direction, bit 1 means that a length byte of bytes that were not captured follows, bit 2 the same for bytes lost
//! before, bit 3 multiplies the length by 16, bit 4 lets time pass.

use porthole_l7::{
    Chunk, Connection, Direction, Limits, ParserContext, Protocol, ScopeId, Side, Timestamp, Transport,
};

/// Bytes of a chunk that are captured at most.
const CAPTURED_MAX: usize = 4096;

/// Gives the input to a connection whose protocol has to be found.
pub fn detection(data: &[u8]) {
    drive(Connection::new(ScopeId(1)), data);
    drive(Connection::new(ScopeId(1)).joined(), data);
    drive(Connection::datagram(ScopeId(1)), data);
}

/// Gives the input to a protocol's parser, from both sides.
pub fn parser(protocol: Protocol, transport: Transport, data: &[u8]) {
    for side in [Side::Server, Side::Client] {
        if let Some(connection) = Connection::known(ScopeId(1), transport, protocol, side) {
            drive(connection, data);
        }
    }
}

fn drive(mut connection: Connection, data: &[u8]) {
    let mut context = ParserContext::new(Limits {
        symbols: 128,
        routes_per_scope: 20,
        pending_per_connection: 8,
        pending_shared: 8,
    });
    let mut offsets = [0_u64; 2];
    let mut now = 0_u64;
    let mut exchanges = 0_u64;
    let mut rest = data;
    while let Some((&control, tail)) = rest.split_first() {
        rest = tail;
        let mut number = || {
            let (&byte, tail) = rest.split_first()?;
            rest = tail;
            Some(u64::from(byte))
        };
        let Some(mut length) = number() else { break };
        let truncated = if control & 2 != 0 { number().unwrap_or(0) } else { 0 };
        let lost = if control & 4 != 0 { number().unwrap_or(0) } else { 0 };
        if control & 8 != 0 {
            length *= 16;
        }
        now += if control & 16 != 0 { 10_000_000_000 } else { 1000 };
        let length = usize::try_from(length).unwrap_or(0).min(rest.len()).min(CAPTURED_MAX);
        let (bytes, tail) = rest.split_at(length);
        rest = tail;
        let direction = if control & 1 == 0 { Direction::Ingress } else { Direction::Egress };
        let offset = &mut offsets[usize::from(control & 1)];
        *offset += lost;
        let chunk = Chunk {
            direction,
            timestamp: Timestamp(now),
            offset: *offset,
            bytes,
            total: length as u64 + truncated,
        };
        *offset += chunk.total;
        let mut sink = |_| exchanges += 1;
        connection.chunk(&chunk, &mut context, &mut sink);
        if control & 16 != 0 {
            connection.tick(Timestamp(now), &mut context, &mut sink);
        }
    }
    connection.close(Timestamp(now + 1000), &mut context, &mut |_| exchanges += 1);
    let tally = context.tally();
    assert_eq!(tally.exchanges, exchanges);
    assert_eq!(tally.messages_seen, tally.exchanges + tally.unparsed, "every message comes to one end");
}
