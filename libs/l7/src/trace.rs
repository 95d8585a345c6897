//! Trace contexts that requests carry in their heads, so that spans belong to the traces that programs propagate.
//!
//! | header | form |
//! |---|---|
//! | `traceparent` | W3C Trace Context, section 3.2 |
//! | `b3`, `x-b3-traceid`, `x-b3-spanid`, `x-b3-sampled`, `x-b3-flags` | Zipkin, `b3-propagation` |
//! | `uber-trace-id` | Jaeger, "Propagation Format" |
//!
//! Nothing of a value is kept but numbers of a fixed length, and what is not exactly of its form, or comes twice, is no context.

/// Context of a trace, as the caller gave it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TraceContext {
    /// The trace's id; of 8 bytes in B3's and Jaeger's short form, which are the last ones here.
    pub trace_id: [u8; 16],
    /// The id of the caller's span.
    pub parent_span_id: [u8; 8],
    /// The caller records the trace.
    pub sampled: bool,
}

impl TraceContext {
    /// The context in some whole lines of a head, which ends at a blank line; what follows the last whole line is left out.
    pub fn of_lines(mut bytes: &[u8]) -> Option<Self> {
        let mut fields = TraceFields::default();
        while let Some(end) = bytes.iter().position(|byte| *byte == b'\n') {
            let (line, rest) = bytes.split_at(end);
            bytes = rest.get(1..).unwrap_or_default();
            let Some(line) = line.strip_suffix(b"\r").filter(|line| !line.is_empty()) else { break };
            if let Some((name, value)) = header(line)
                && let Some(header) = TraceHeader::of(name)
            {
                fields.take(header, value);
            }
        }
        fields.context()
    }
}

/// Name and value of a header line, if the name is not longer than any that concerns a parser of heads.
pub(crate) fn header(line: &[u8]) -> Option<(&[u8], &[u8])> {
    let colon = line.iter().take(24).position(|byte| *byte == b':')?;
    let (name, value) = line.split_at(colon);
    Some((name, value.get(1..).unwrap_or_default().trim_ascii()))
}

/// A header that carries a context, or a part of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum TraceHeader {
    /// `traceparent`
    W3c,
    /// `b3`
    B3,
    /// `x-b3-traceid`
    B3TraceId,
    /// `x-b3-spanid`
    B3SpanId,
    /// `x-b3-sampled`
    B3Sampled,
    /// `x-b3-flags`
    B3Flags,
    /// `uber-trace-id`
    Jaeger,
}

impl TraceHeader {
    /// The header of that name, in any case.
    pub(crate) fn of(name: &[u8]) -> Option<Self> {
        // Most heads have none: the length decides about nearly all of their fields.
        let (wanted, header): (&[u8], _) = match (name.len(), name.last()?.to_ascii_lowercase()) {
            (2, _) => (b"b3", Self::B3),
            (10, _) => (b"x-b3-flags", Self::B3Flags),
            (11, b't') => (b"traceparent", Self::W3c),
            (11, _) => (b"x-b3-spanid", Self::B3SpanId),
            (12, b'd') if name.get(5) == Some(&b's') || name.get(5) == Some(&b'S') => {
                (b"x-b3-sampled", Self::B3Sampled)
            }
            (12, _) => (b"x-b3-traceid", Self::B3TraceId),
            (13, _) => (b"uber-trace-id", Self::Jaeger),
            _ => return None,
        };
        name.eq_ignore_ascii_case(wanted).then_some(header)
    }
}

/// A value that comes once.
#[derive(Clone, Copy, Debug, Default)]
enum Once<T> {
    #[default]
    Absent,
    Read(T),
    /// It is not of its form, or came twice.
    Refused,
}

impl<T: Copy> Once<T> {
    fn take(&mut self, value: Option<T>) {
        *self = match (&self, value) {
            (Self::Absent, Some(value)) => Self::Read(value),
            _ => Self::Refused,
        };
    }

    fn read(self) -> Option<T> {
        if let Self::Read(value) = self { Some(value) } else { None }
    }
}

/// What a request's head has of these headers.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct TraceFields {
    w3c: Once<TraceContext>,
    b3: Once<TraceContext>,
    b3_trace_id: Once<[u8; 16]>,
    b3_span_id: Once<[u8; 8]>,
    b3_sampled: Once<bool>,
    b3_flags: Once<bool>,
    jaeger: Once<TraceContext>,
}

impl TraceFields {
    /// Takes a header's value.
    pub(crate) fn take(&mut self, header: TraceHeader, value: &[u8]) {
        match header {
            TraceHeader::W3c => self.w3c.take(traceparent(value)),
            TraceHeader::B3 => self.b3.take(b3(value)),
            TraceHeader::B3TraceId => self.b3_trace_id.take(b3_trace_id(value)),
            TraceHeader::B3SpanId => self.b3_span_id.take(hex(value)),
            TraceHeader::B3Sampled => self.b3_sampled.take(Some(matches!(value, b"1" | b"true"))),
            TraceHeader::B3Flags => self.b3_flags.take(Some(value == b"1")),
            TraceHeader::Jaeger => self.jaeger.take(uber_trace_id(value)),
        }
    }

    /// The context: the W3C's before the others.
    pub(crate) fn context(&self) -> Option<TraceContext> {
        let of_parts = || {
            let (trace_id, parent_span_id) = (self.b3_trace_id.read()?, self.b3_span_id.read()?);
            let sampled = [self.b3_sampled, self.b3_flags].into_iter().any(|one| one.read() == Some(true));
            Some(TraceContext { trace_id, parent_span_id, sampled })
        };
        self.w3c.read().or_else(|| self.b3.read()).or_else(of_parts).or_else(|| self.jaeger.read())
    }
}

/// `version "-" trace-id "-" parent-id "-" trace-flags`; later versions may have more behind it.
fn traceparent(value: &[u8]) -> Option<TraceContext> {
    let (head, rest) = value.split_at_checked(55)?;
    let [version @ .., b'-'] = head.get(..3)? else { return None };
    let version: [u8; 1] = hex_or_zero(version)?;
    let is_whole = rest.is_empty() || (version != [0] && rest.first() == Some(&b'-'));
    if version == [0xff] || !is_whole || head.get(35) != Some(&b'-') || head.get(52) != Some(&b'-') {
        return None;
    }
    let [flags]: [u8; 1] = hex_or_zero(head.get(53..)?)?;
    Some(TraceContext {
        trace_id: hex(head.get(3..35)?)?,
        parent_span_id: hex(head.get(36..52)?)?,
        sampled: flags & 1 != 0,
    })
}

/// `trace-id "-" span-id ["-" state ["-" parent]]`.
fn b3(value: &[u8]) -> Option<TraceContext> {
    let mut parts = value.split(|byte| *byte == b'-');
    let (trace_id, parent_span_id) = (b3_trace_id(parts.next()?)?, hex(parts.next()?)?);
    let sampled = match parts.next() {
        None | Some(b"0") => false,
        Some(b"1" | b"d") => true,
        Some(_) => return None,
    };
    if let Some(parent) = parts.next() {
        let _: [u8; 8] = hex(parent)?;
    }
    parts.next().is_none().then_some(TraceContext { trace_id, parent_span_id, sampled })
}

fn b3_trace_id(value: &[u8]) -> Option<[u8; 16]> {
    match value.len() {
        16 => Some(widened(hex(value)?)),
        _ => hex(value),
    }
}

/// `trace-id ":" span-id ":" parent-id ":" flags`, hexadecimal numbers without leading zeros or with; the colons may be escaped as in
/// URLs.
fn uber_trace_id(value: &[u8]) -> Option<TraceContext> {
    let mut rest = value;
    let mut part = || {
        let end = rest.iter().position(|byte| matches!(byte, b':' | b'%')).unwrap_or(rest.len());
        let (part, tail) = rest.split_at(end);
        rest = match tail {
            [b':', tail @ ..] | [b'%', b'3', b'A' | b'a', tail @ ..] => tail,
            [] => tail,
            _ => return None,
        };
        Some(part)
    };
    let [trace_id, span_id, parent] = [part()?, part()?, part()?];
    let flags = rest;
    let number = |digits: &[u8], most: usize| {
        let is_one =
            (1..=most).contains(&digits.len()) && digits.iter().all(|&digit| nibble(digit).is_some());
        is_one.then(|| {
            digits.iter().fold(0_u128, |sum, &digit| sum << 4 | u128::from(nibble(digit).unwrap_or(0)))
        })
    };
    let (trace_id, span_id) = (number(trace_id, 32)?, u64::try_from(number(span_id, 16)?).ok()?);
    number(parent, 16)?;
    let flags = number(flags, 2)?;
    let is_valid = trace_id != 0 && span_id != 0;
    is_valid.then(|| TraceContext {
        trace_id: trace_id.to_be_bytes(),
        parent_span_id: span_id.to_be_bytes(),
        sampled: flags & 1 != 0,
    })
}

fn widened(id: [u8; 8]) -> [u8; 16] {
    u128::from(u64::from_be_bytes(id)).to_be_bytes()
}

/// Bytes as exactly so many hexadecimal digits in lower case, not all of them zero.
fn hex<const N: usize>(digits: &[u8]) -> Option<[u8; N]> {
    hex_or_zero(digits).filter(|bytes| *bytes != [0; N])
}

fn hex_or_zero<const N: usize>(digits: &[u8]) -> Option<[u8; N]> {
    if digits.len() != 2 * N {
        return None;
    }
    let mut bytes = [0; N];
    for (byte, digits) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
        let [high, low] = digits else { return None };
        *byte = nibble(*high)? << 4 | nibble(*low)?;
    }
    Some(bytes)
}

fn nibble(digit: u8) -> Option<u8> {
    match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'a'..=b'f' => Some(digit - b'a' + 10),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::Random;

    const TRACE: [u8; 16] = 0x4bf9_2f35_77b3_4da6_a3ce_929d_0e0e_4736_u128.to_be_bytes();
    const SPAN: [u8; 8] = 0x00f0_67aa_0ba9_02b7_u64.to_be_bytes();
    const T: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
    const S: &str = "00f067aa0ba902b7";

    fn context(headers: &[(&str, &str)]) -> Option<TraceContext> {
        let mut fields = TraceFields::default();
        for (name, value) in headers {
            if let Some(header) = TraceHeader::of(name.as_bytes()) {
                fields.take(header, value.as_bytes());
            }
        }
        fields.context()
    }

    fn expected(sampled: bool) -> TraceContext {
        TraceContext { trace_id: TRACE, parent_span_id: SPAN, sampled }
    }

    #[test]
    fn each_form_is_read_and_the_w3c_s_wins() {
        for (name, value, sampled) in [
            ("traceparent", format!("00-{T}-{S}-01"), true),
            ("TraceParent", format!("00-{T}-{S}-00"), false),
            ("traceparent", format!("cc-{T}-{S}-01-what-comes-later"), true),
            ("b3", format!("{T}-{S}-1"), true),
            ("b3", format!("{T}-{S}-d-{S}"), true),
            ("b3", format!("{T}-{S}"), false),
            ("uber-trace-id", format!("{T}:{S}:0:1"), true),
            ("uber-trace-id", format!("{T}%3A{S}%3a{S}%3A2"), false),
            ("uber-trace-id", format!("{T}:f067aa0ba902b7:0:3"), true),
        ] {
            assert_eq!(context(&[(name, &value)]), Some(expected(sampled)), "{name}: {value}");
        }
        let parts = [("X-B3-TraceId", T), ("X-B3-SpanId", S), ("X-B3-Sampled", "1")];
        assert_eq!(context(&parts), Some(expected(true)));
        assert_eq!(context(&parts[..2]), Some(expected(false)));
        assert_eq!(context(&[parts[0], parts[1], ("x-b3-flags", "1")]), Some(expected(true)));
        let short = context(&[("b3", &format!("{S}-{S}-0"))]).expect("64 bits");
        assert_eq!((&short.trace_id[..8], &short.trace_id[8..]), (&[0; 8][..], &SPAN[..]));
        let other = format!("00-{}-{S}-00", T.replace('4', "5"));
        assert!(context(&[("b3", &format!("{T}-{S}")), ("traceparent", &other)]) != Some(expected(false)));
    }

    #[test]
    fn whole_lines_are_read_up_to_the_head_s_end() {
        let line = format!("Traceparent: 00-{T}-{S}-01\r\n");
        let of = |lines: &str| TraceContext::of_lines(lines.as_bytes());
        assert_eq!(of(&line), Some(expected(true)));
        assert_eq!(of(&format!("{line}Cookie: what comes is cu")), Some(expected(true)));
        assert_eq!(of(&format!("{line}\r\n{line}")), Some(expected(true)), "the second is of a body");
        assert_eq!(
            of(&format!("X-B3-TraceId:{T}\r\nx-b3-spanid: {S}\r\nx-b3-flags:1\r\n")),
            Some(expected(true))
        );
        for none in
            ["", "\r\n", "\n", &line[1..], &line[..line.len() - 1], &format!("\r\n{line}"), &line.repeat(2)]
        {
            assert_eq!(of(none), None, "{none:?}");
        }
    }

    #[test]
    fn what_is_not_exactly_of_its_form_is_no_context() {
        let zero = "0".repeat(32);
        for (name, value) in [
            ("traceparent", format!("00-{}-{S}-01", T.to_uppercase())),
            ("traceparent", format!("00-{zero}-{S}-01")),
            ("traceparent", format!("00-{T}-{}-01", &zero[..16])),
            ("traceparent", format!("ff-{T}-{S}-01")),
            ("traceparent", format!("00-{T}-{S}-01-more")),
            ("traceparent", format!("01-{T}-{S}-01more")),
            ("traceparent", format!("00-{T}-{S}-0")),
            ("traceparent", format!("00 {T}-{S}-01")),
            ("traceparent", format!("00-{T}_{S}-01")),
            ("traceparent", String::new()),
            ("b3", "0".to_owned()),
            ("b3", format!("{T}-{S}-2")),
            ("b3", format!("{T}-{S}-1-{S}-1")),
            ("b3", format!("{T}-{S}-1-x")),
            ("b3", T.to_owned()),
            ("x-b3-traceid", T.to_owned()),
            ("uber-trace-id", format!("{T}:{S}:0")),
            ("uber-trace-id", format!("{T}:{S}:0:1:1")),
            ("uber-trace-id", format!("0{T}:{S}:0:1")),
            ("uber-trace-id", format!("{T}:0:0:1")),
            ("uber-trace-id", format!("{T}:{S}::1")),
            ("uber-trace-id", format!("{T}%3B{S}:0:1")),
            ("x-traceid-of", T.to_owned()),
        ] {
            assert_eq!(context(&[(name, &value)]), None, "{name}: {value}");
        }
        let value = format!("00-{T}-{S}-01");
        assert_eq!(context(&[("traceparent", &value), ("traceparent", &value)]), None, "it came twice");
    }

    #[test]
    fn hostile_bytes_do_no_harm() {
        let mut random = Random(3);
        let good = [format!("00-{T}-{S}-01"), format!("{T}-{S}-1-{S}"), format!("{T}%3A{S}:0:1")];
        let names = ["traceparent", "b3", "uber-trace-id", "x-b3-traceid", "x-b3-spanid", "x-b3-sampled"];
        for _ in 0..20_000 {
            let mut fields = TraceFields::default();
            for name in names {
                let mut bytes = good[random.below(good.len())].clone().into_bytes();
                for _ in 0..random.below(3) {
                    let at = random.below(bytes.len());
                    bytes[at] = random.bytes(1)[0];
                }
                bytes.truncate(random.below(2 * bytes.len()));
                fields.take(TraceHeader::of(name.as_bytes()).expect("known"), &bytes);
            }
            let _ = fields.context();
        }
    }
}
