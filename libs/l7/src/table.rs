//! The parsers of all protocols. Adding one touches its folder and this table.
//!
//! Detection walks [`TABLE`] in its order; everything that knows its protocol uses [`entry`], whose match the compiler
//! keeps complete. A test holds that both name the same entries.

use crate::{
    Protocol,
    parser::Entry,
    {amqp, dns, http1, http2, kafka, memcached, mongodb, mysql, nats, postgres, redis, tls},
};

/// In the order of detection: the first match wins, so the protocols with the strictest prefixes come first.
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

/// The entry of a protocol; `None` for gRPC, which the parser of HTTP/2 recognises by stream.
pub(crate) fn entry(protocol: Protocol) -> Option<&'static Entry> {
    Some(match protocol {
        Protocol::Http1 => &http1::ENTRY,
        Protocol::Http2 => &http2::ENTRY,
        Protocol::Grpc => return None,
        Protocol::Mysql => &mysql::ENTRY,
        Protocol::Postgresql => &postgres::ENTRY,
        Protocol::Redis => &redis::ENTRY,
        Protocol::Kafka => &kafka::ENTRY,
        Protocol::Dns => &dns::ENTRY,
        Protocol::Mongodb => &mongodb::ENTRY,
        Protocol::Memcached => &memcached::ENTRY,
        Protocol::Amqp => &amqp::ENTRY,
        Protocol::Nats => &nats::ENTRY,
        Protocol::Tls => &tls::ENTRY,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_protocol_with_a_parser_is_detected_by_its_own_entry() {
        for &protocol in Protocol::ALL {
            let detected = TABLE.iter().filter(|entry| entry.protocol == protocol).count();
            match entry(protocol) {
                Some(entry) => assert_eq!((entry.protocol, detected), (protocol, 1)),
                None => assert_eq!((protocol, detected), (Protocol::Grpc, 0)),
            }
        }
    }
}
