//! Ids of traces and spans: of OpenTelemetry's sizes, from the spans' numbers under keys that are random for each run of the
//! exporter, so that no guest can choose or foresee one. But a trace whose first span's request carries a trace context has the id in it,
//! which a program chose ([`crate::traces`]).

use std::{
    fmt,
    hash::{BuildHasher as _, RandomState},
};

/// The id of a trace.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TraceId(pub [u8; 16]);

/// The id of a span.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SpanId(pub [u8; 8]);

impl TraceId {
    /// An id as it is written, 32 hexadecimal digits.
    pub fn parse(text: &str) -> Option<Self> {
        let is_hex = text.len() == 32 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
        u128::from_str_radix(text, 16).ok().filter(|id| is_hex && *id != 0).map(|id| Self(id.to_be_bytes()))
    }
}

macro_rules! in_hexadecimal {
    ($($id:ident),+) => { $(
        impl fmt::Display for $id {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
            }
        }

        impl fmt::Debug for $id {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, f)
            }
        }
    )+ };
}

in_hexadecimal!(TraceId, SpanId);

/// What ids are made with.
#[derive(Debug, Default)]
pub struct IdKeys {
    spans: RandomState,
    traces: [RandomState; 2],
}

impl IdKeys {
    /// The id of the span with this number.
    pub fn span(&self, number: u64) -> SpanId {
        // Zero is no id (W3C Trace Context, 3.2.2).
        SpanId(self.spans.hash_one(number).max(1).to_be_bytes())
    }

    /// The id of a trace of which the span with this number came first.
    pub fn trace(&self, number: u64) -> TraceId {
        let [high, low] = [0, 1].map(|half: usize| u128::from(self.traces[half].hash_one(number).max(1)));
        TraceId((high << 64 | low).to_be_bytes())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_read_as_they_are_written_and_differ() {
        let (keys, others) = (IdKeys::default(), IdKeys::default());
        let id = keys.trace(7);
        assert_eq!(TraceId::parse(&id.to_string()), Some(id));
        assert_ne!(keys.trace(8), id);
        assert_ne!(others.trace(7), id, "keys are of one run");
        assert_eq!(keys.span(7).to_string().len(), 16);
        for text in ["", "0", "00000000000000000000000000000000", "+0000000000000000000000000000001", "é"] {
            assert_eq!(TraceId::parse(text), None, "{text}");
        }
    }
}
