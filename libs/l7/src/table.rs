//! The protocols. Adding one touches its folder and this table.

use crate::{
    Protocol,
    parser::Entry,
    {amqp, dns, http1, http2, kafka, memcached, mongodb, mysql, nats, postgres, redis, tls},
};

/// In the order in which they are asked: the first that is sure wins, so those with the strictest openings come first.
pub(crate) static TABLE: &[Entry] = &[
    http1::ENTRY,
    http2::ENTRY,
    redis::ENTRY,
    memcached::ENTRY,
    mysql::ENTRY,
    postgres::ENTRY,
    nats::ENTRY,
    dns::ENTRY,
    kafka::ENTRY,
    amqp::ENTRY,
    mongodb::ENTRY,
    tls::ENTRY,
];

/// The entry of a protocol, when there is a parser for it.
pub(crate) fn entry(protocol: Protocol) -> Option<&'static Entry> {
    TABLE.iter().find(|entry| entry.protocol == protocol)
}
