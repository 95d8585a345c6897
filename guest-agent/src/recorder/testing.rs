//! Exchanges for tests.

use porthole_l7::{ErrorClass, Exchange, ParserContext, Protocol, Side, Status, Timestamp};

use super::{Details, Origin, containers::ContainerIndex, peer::Peer};

/// An answered `GET`.
pub(crate) fn exchange(context: &mut ParserContext, side: Side, resource: &str, status: u32) -> Exchange {
    Exchange {
        protocol: Protocol::Http1,
        side,
        operation: context.intern("GET"),
        resource: context.intern(resource),
        status: Status::Code(status),
        error: ErrorClass::None,
        start: Timestamp(1_000),
        end: Timestamp(2_000_000),
        request_bytes: 10,
        response_bytes: 20,
        peer: None,
        trace: None,
        overflowed: false,
    }
}

/// A process of container `shop-1`.
pub(crate) fn origin(peer: &Peer) -> Origin<'_> {
    Origin { container: ContainerIndex(1), container_id: "shop-1", peer, details: Details::default() }
}
