//! A series' labels, as the host gets them.

use porthole_agent_api::{
    agent,
    limits::{KEY_STRING_MAX, KEY_WORD_MAX},
};
use porthole_l7::{ParserContext, Status};
use protobuf::EnumOrUnknown;

use super::{
    Origin,
    key::{Key, PeerIndex},
};

/// The labels of a series, from its first exchange.
pub(super) fn labels(key: &Key, origin: &Origin<'_>, context: &ParserContext) -> agent::SeriesKey {
    let name = |symbol| cut(context.name(symbol).to_owned());
    agent::SeriesKey {
        container_id: cut(origin.container_id.to_owned()),
        protocol: EnumOrUnknown::from_i32(key.protocol.wire()),
        side: EnumOrUnknown::from_i32(key.side.wire()),
        operation: cut_to(name(key.operation), KEY_WORD_MAX),
        resource: name(key.resource),
        status: match key.status {
            Status::None => String::new(),
            Status::Code(code) => code.to_string(),
            Status::Word(word) => cut_to(name(word), KEY_WORD_MAX),
        },
        error: EnumOrUnknown::from_i32(key.error.wire()),
        peer: match key.peer {
            PeerIndex::NONE => String::new(),
            PeerIndex::OTHER => "other".to_owned(),
            _ => cut(origin.peer.to_string()),
        },
        ..agent::SeriesKey::default()
    }
}

/// The labels of a key's coarser form ([`Key::coarser`]), from those of the key.
pub(super) fn coarsened(labels: &agent::SeriesKey, key: &Key, coarser: &Key) -> agent::SeriesKey {
    let other = || "other".to_owned();
    let mut labels = labels.clone();
    if coarser.resource != key.resource {
        labels.resource = other();
    }
    if coarser.operation != key.operation {
        labels.operation = other();
    }
    if coarser.status != key.status {
        labels.status = String::new();
    }
    if coarser.peer != key.peer {
        labels.peer = other();
    }
    labels
}

/// Cuts a label's value to what the contract allows.
pub(super) fn cut(value: String) -> String {
    cut_to(value, KEY_STRING_MAX)
}

fn cut_to(mut value: String, bytes_max: usize) -> String {
    if value.len() > bytes_max {
        value.truncate(value.floor_char_boundary(bytes_max));
    }
    value
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_cut_to_what_the_contract_allows() {
        assert_eq!(cut("ä".repeat(200)).len(), KEY_STRING_MAX);
        assert_eq!(cut("x".into()), "x");
    }
}
