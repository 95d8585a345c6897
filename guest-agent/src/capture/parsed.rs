//! What the parsers saw, for the host.

use porthole_agent_api::agent::Counters;
use porthole_l7::ParserContext;

/// Sets the counts that come from the parsers.
pub fn fill(counters: &mut Counters, context: &ParserContext) {
    let tally = context.tally();
    counters.messages_seen = tally.messages_seen;
    counters.unparsed = tally.unparsed;
    counters.exchanges_incomplete = tally.incomplete;
    counters.bytes_unaccounted.clear();
    let unaccounted = context.unaccounted();
    let of_protocols = unaccounted
        .iter()
        .map(|(protocol, bytes)| (usize::try_from(protocol.row().wire).unwrap_or_default(), bytes));
    let uncaptured = Some((0, unaccounted.uncaptured())).filter(|(_, bytes)| *bytes > 0);
    for (number, bytes) in of_protocols.chain(uncaptured) {
        let length = counters.bytes_unaccounted.len().max(number + 1);
        counters.bytes_unaccounted.resize(length, 0);
        counters.bytes_unaccounted[number] = bytes;
    }
}

#[cfg(test)]
mod tests {
    use porthole_l7::{Chunk, Connection, Direction, Limits, Protocol, ScopeId, Timestamp};

    use super::*;

    #[test]
    fn bytes_are_at_the_number_of_their_protocol() {
        let mut context = ParserContext::new(Limits::default());
        let mut counters = Counters::default();
        fill(&mut counters, &context);
        assert!(counters.bytes_unaccounted.is_empty());
        let mut connection = Connection::new(ScopeId(1));
        let mut moved = |direction, at, bytes: &[u8], total| {
            let chunk = Chunk { direction, timestamp: Timestamp(at), offset: 0, bytes, total };
            connection.chunk(&chunk, &mut context, &mut |_| {});
        };
        let request: &[u8] = b"*2\r\n$3\r\nGET\r\n$1\r\na\r\n";
        // Of a call of a thousand bytes the first command is captured.
        moved(Direction::Ingress, 1, request, 1_000);
        // Redis is recognised by its answers.
        moved(Direction::Egress, 2, b"$-1\r\n", 5);
        fill(&mut counters, &context);
        let number = usize::try_from(Protocol::Redis.row().wire).expect("small");
        let expected = 1_000 - request.len() as u64;
        assert_eq!(
            (counters.bytes_unaccounted.len(), counters.bytes_unaccounted[number]),
            (number + 1, expected)
        );
    }
}
