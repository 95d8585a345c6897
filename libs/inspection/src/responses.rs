//! Answers to unary calls: ttrpc's `Response` (its `ttrpc.proto`), with a message of whatever contract within.

use crate::{
    fields::{
        Bounds,
        Kind::{Bytes, Message, Varint},
        Refusal, Shape, check,
    },
    stream::Inspection,
};

/// Longest answer, bytes. The longest of ours has the numbers of a container's processes, three bytes each.
pub const RESPONSE_BYTES_MAX: usize = 128 << 10;

/// Most fields of an answer; the one with the most has a line of `memory.stat` in each.
pub const FIELDS_MAX: usize = 1024;

/// Most details of an error. We read none.
pub const DETAILS_MAX: usize = 16;

/// Which count the details of an error add to.
pub const DETAIL_COUNT: usize = 0;

/// ttrpc's type of a frame with an answer (ttrpc PROTOCOL.md).
const RESPONSE: u8 = 2;

static ENVELOPE: Shape = Shape { fields: &[(1, Message(&STATUS)), (2, Message(&PAYLOAD))], counted: None };

/// An answer's status (`google.rpc.Status`), the first field of the envelope; the second is the answer itself.
pub static STATUS: Shape = Shape { fields: &[(1, Varint), (2, Bytes), (3, Message(&DETAIL))], counted: None };

static DETAIL: Shape = Shape { fields: &[(1, Bytes), (2, Bytes)], counted: Some(DETAIL_COUNT) };

/// The answer itself. Which call it belongs to is not known here, so every field counts.
static PAYLOAD: Shape = Shape { fields: &[], counted: None };

/// The inspection of a connection on which only unary calls are made.
pub const INSPECTION: Inspection = Inspection { bytes_max: RESPONSE_BYTES_MAX, inspect: frame };

/// Checks a frame that can only be an answer to a unary call.
pub fn frame(kind: u8, body: &[u8]) -> Result<(), Refusal> {
    if kind != RESPONSE {
        return Err(Refusal::UnknownFrame);
    }
    if body.len() > RESPONSE_BYTES_MAX {
        return Err(Refusal::TooLong);
    }
    check(body, &ENVELOPE, &Bounds { counted: [DETAILS_MAX], unknown: FIELDS_MAX }).map(drop)
}

#[cfg(test)]
mod tests {
    use protobuf::Message as _;

    use super::*;

    fn answer(payload: Vec<u8>) -> Vec<u8> {
        ttrpc::Response { payload, ..Default::default() }.write_to_bytes().expect("encoded")
    }

    #[test]
    fn every_field_of_the_envelope_is_known() {
        let mut status = ttrpc::get_status(ttrpc::Code::UNKNOWN, "refused");
        status.details = std::iter::repeat_with(Default::default).take(DETAILS_MAX).collect();
        let full =
            ttrpc::Response { status: Some(status).into(), payload: vec![0x08, 1], ..Default::default() };
        let bytes = full.write_to_bytes().expect("encoded");
        let bounds = Bounds { counted: [DETAILS_MAX], unknown: 1 };
        let census = check(&bytes, &ENVELOPE, &bounds).expect("within bounds");
        assert_eq!((census.counted, census.unknown), ([DETAILS_MAX], 1), "the one of the payload");
    }

    #[test]
    fn answers_that_would_grow_are_refused() {
        assert_eq!(frame(RESPONSE, &answer([0x6a, 0].repeat(FIELDS_MAX))), Ok(()));
        assert_eq!(frame(RESPONSE, &answer([0x6a, 0].repeat(FIELDS_MAX + 1))), Err(Refusal::TooMany));
        // The status' details, and the same of many statuses.
        let details = [&[0x0a, 40][..], &[0x1a, 0].repeat(20)].concat();
        assert_eq!(frame(RESPONSE, &details), Err(Refusal::TooMany));
        // A group in a group in a group.
        assert_eq!(frame(RESPONSE, &answer(vec![0x0b; 1 << 10])), Err(Refusal::Malformed));
        assert_eq!(frame(RESPONSE, &answer(vec![0; RESPONSE_BYTES_MAX])), Err(Refusal::TooLong));
        for kind in [0, 1, 3, 255] {
            assert_eq!(frame(kind, &[]), Err(Refusal::UnknownFrame));
        }
    }
}
