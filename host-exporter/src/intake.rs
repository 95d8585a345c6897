//! The checks on what an agent sends: sizes, characters, enumerations, histograms. Nothing passes unchecked, and
//! nothing here keeps state.

use porthole_agent_api::{
    agent,
    dependencies::Failure,
    limits::{
        BATCH_DEPENDENCIES_MAX, BATCH_RESOURCES_MAX, BATCH_SERIES_MAX, BATCH_SPANS_MAX, KEY_STRING_MAX,
        KEY_WORD_MAX,
    },
    resources::{Measured, Resource},
};
use porthole_histogram::Histogram;

use crate::{
    accumulate::{
        dependencies::{Connections, Failures, Reported},
        series::{CheckedSeries, Labels, SeriesKey},
        values::Values,
    },
    ids::{SpanId, TraceId},
    instrument, peer,
    protocol::{self, ErrorClass, ParentCertainty, Protocol, Side, SpanReason},
    rejection::Rejection,
    spans::{CheckedSpan, Context, Lineage},
};

/// Most exchanges of one series, and most of its bytes in units of 64 KiB: 100,000 a second for five years. Sums over
/// all series, sandboxes and runs of agents stay far below 2^64.
pub const COUNT_MAX: u64 = 1 << 44;

/// Largest value of a resource: 36 years in nanoseconds, an exbibyte.
pub const RESOURCE_MAX: u64 = 1 << 60;

/// Largest text of an agent about itself that is kept, in bytes.
pub const ABOUT_TEXT_MAX: usize = 256;

/// Largest number of texts of an agent about itself (capabilities, limitations) that are kept.
pub const ABOUT_TEXTS_MAX: usize = 32;

/// Checks what concerns a batch as a whole.
pub fn check_batch(batch: &agent::Batch, epoch: u64) -> Result<(), Rejection> {
    if batch.series.len() > BATCH_SERIES_MAX
        || batch.spans.len() > BATCH_SPANS_MAX
        || batch.resources.len() > BATCH_RESOURCES_MAX
        || batch.dependencies.len() > BATCH_DEPENDENCIES_MAX
    {
        return Err(Rejection::BatchTooLarge);
    }
    if batch.epoch != epoch {
        return Err(Rejection::EpochMismatch);
    }
    Ok(())
}

/// Checks one series.
pub fn check_series(wire: agent::Series) -> Result<CheckedSeries, Rejection> {
    let key = wire.key.into_option().ok_or(Rejection::KeyMissing)?;
    for text in [&key.container_id, &key.resource, &key.peer] {
        check_text(text, KEY_STRING_MAX)?;
    }
    for text in [&key.operation, &key.status] {
        check_text(text, KEY_WORD_MAX)?;
    }
    let protocol = Protocol::from_wire(key.protocol.value()).ok_or(Rejection::ProtocolUnknown)?;
    let side = Side::from_wire(key.side.value()).ok_or(Rejection::SideUnknown)?;
    let error = ErrorClass::from_wire(key.error.value()).ok_or(Rejection::ErrorClassUnknown)?;
    let durations = match wire.duration.as_ref() {
        Some(histogram) => Histogram::try_from(histogram).map_err(|_| Rejection::HistogramMalformed)?,
        None => Histogram::default(),
    };
    if [durations.count(), wire.request_bytes >> 16, wire.response_bytes >> 16].iter().any(|&n| n > COUNT_MAX)
    {
        return Err(Rejection::CountTooLarge);
    }
    let (peer_address, peer_port) = peer::split(&key.peer);
    let [operation, resource, status] =
        instrument::label_values(protocol, [&key.operation, &key.resource, &key.status]);
    let error_type = protocol::error_type(protocol, side, error, status);
    let labels =
        Labels { operation, resource, status, error_type, peer_address, peer_port, ..Labels::default() };
    Ok(CheckedSeries {
        id: wire.id,
        container_id: key.container_id,
        key: SeriesKey::new(protocol, side, labels).map_err(|_| Rejection::TextTooLong)?,
        error,
        values: Values { durations, request_bytes: wire.request_bytes, response_bytes: wire.response_bytes },
    })
}

/// Checks one span. Its times are the guest's word: any are possible.
pub fn check_span(wire: agent::Span) -> Result<CheckedSpan, Rejection> {
    check_text(&wire.local, KEY_STRING_MAX)?;
    check_text(&wire.remote, KEY_STRING_MAX)?;
    Ok(CheckedSpan {
        start_unix_ns: wire.start_unix_ns,
        duration_ns: wire.duration_ns,
        request_bytes: wire.request_bytes,
        response_bytes: wire.response_bytes,
        reason: SpanReason::from_wire(wire.reason).ok_or(Rejection::SpanReasonUnknown)?,
        process_id: wire.process_id,
        thread_id: wire.thread_id,
        local: wire.local.into(),
        remote: wire.remote.into(),
        lineage: Lineage {
            context: check_context(&wire.trace_id, &wire.parent_span_id, wire.trace_sampled)?,
            number: wire.number,
            parent: wire.parent,
            certainty: ParentCertainty::from_wire(wire.certainty),
        },
    })
}

/// Checks a trace context. Ids of zeros stand for none (W3C Trace Context, 3.2.2).
fn check_context(trace: &[u8], parent: &[u8], is_sampled: bool) -> Result<Option<Context>, Rejection> {
    fn id<const N: usize>(bytes: &[u8]) -> Result<Option<[u8; N]>, Rejection> {
        if bytes.is_empty() {
            return Ok(None);
        }
        let id: [u8; N] = bytes.try_into().map_err(|_| Rejection::SpanContextMalformed)?;
        Ok((id != [0; N]).then_some(id))
    }
    let (trace, parent) = (id(trace)?.map(TraceId), id(parent)?.map(SpanId));
    Ok(trace.map(|trace| Context { trace, parent, is_sampled }))
}

/// Checks the connections to one address.
pub fn check_dependency(wire: agent::Dependency) -> Result<Reported, Rejection> {
    check_text(&wire.container_id, KEY_STRING_MAX)?;
    check_text(&wire.peer, KEY_STRING_MAX)?;
    check_text(&wire.name, KEY_STRING_MAX)?;
    let made = match wire.made.as_ref() {
        Some(histogram) => Histogram::try_from(histogram).map_err(|_| Rejection::HistogramMalformed)?,
        None => Histogram::default(),
    };
    let counts = [made.count(), wire.retransmitted_segments];
    if counts.iter().chain(&wire.failed).chain(&wire.broken).any(|&count| count > COUNT_MAX) {
        return Err(Rejection::CountTooLarge);
    }
    let (address, port) = peer::split(&wire.peer);
    Ok(Reported {
        address: address.into(),
        port: port.into(),
        name: (!wire.name.is_empty()).then(|| wire.name.into()),
        connections: Connections {
            made,
            failed: by_reason(&wire.failed),
            broken: by_reason(&wire.broken),
            retransmitted_segments: wire.retransmitted_segments,
            round_trip_us: wire.round_trip_us,
        },
        container_id: wire.container_id,
        begun: wire.begun,
    })
}

/// Counts by reason; those of reasons of a later contract are among the others.
fn by_reason(counts: &[u64]) -> Failures {
    let mut all = [0; Failure::ALL.len()];
    for (at, count) in counts.iter().enumerate() {
        let at = if at < all.len() { at } else { Failure::Other as usize };
        all[at] = count.saturating_add(all[at]);
    }
    all
}

/// Checks the resources of one container, or of the guest.
pub fn check_resources(wire: agent::Resources) -> Result<(String, Measured), Rejection> {
    check_text(&wire.container_id, KEY_STRING_MAX)?;
    let measured = Measured::from_wire(&wire).ok_or(Rejection::ResourcesMalformed)?;
    if Resource::ALL.iter().any(|&resource| measured.get(resource) > Some(RESOURCE_MAX)) {
        return Err(Rejection::CountTooLarge);
    }
    Ok((wire.container_id, measured))
}

fn check_text(text: &str, bytes_max: usize) -> Result<(), Rejection> {
    if text.len() > bytes_max {
        return Err(Rejection::TextTooLong);
    }
    if text.chars().any(char::is_control) {
        return Err(Rejection::TextCharacters);
    }
    Ok(())
}

/// A text of an agent about itself, cut to size, with control characters replaced.
pub fn about_text(text: &str) -> String {
    text.chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .scan(0, |length, c| {
            *length += c.len_utf8();
            (*length <= ABOUT_TEXT_MAX).then_some(c)
        })
        .collect()
}

/// Texts of an agent about itself.
pub fn about_texts(texts: &[String]) -> Vec<String> {
    texts.iter().take(ABOUT_TEXTS_MAX).map(|text| about_text(text)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn series() -> agent::Series {
        let mut durations = Histogram::default();
        durations.record(1_000_000);
        agent::Series {
            id: 1,
            key: Some(agent::SeriesKey {
                container_id: "shop-1".into(),
                protocol: agent::Protocol::PROTOCOL_HTTP1.into(),
                side: agent::Side::SIDE_CLIENT.into(),
                operation: "GET".into(),
                resource: "/items/{}".into(),
                status: "503".into(),
                error: agent::ErrorClass::ERROR_CLASS_SERVER.into(),
                peer: "[fd00::1]:8080".into(),
                ..Default::default()
            })
            .into(),
            duration: Some(agent::Histogram::from(&durations)).into(),
            ..Default::default()
        }
    }

    #[test]
    fn a_good_series_keeps_all_its_parts() {
        let checked = check_series(series()).expect("good");
        assert_eq!(checked.key.labels().peer_address, "fd00::1");
        assert_eq!(checked.key.labels().peer_port, "8080");
        assert_eq!(checked.key.labels().error_type, "503");
        assert_eq!(checked.values.durations.count(), 1);
    }

    #[test]
    fn each_fault_is_refused_for_its_own_reason() {
        let with = |change: fn(&mut agent::SeriesKey)| {
            let mut wire = series();
            change(wire.key.as_mut().expect("key"));
            check_series(wire).expect_err("refused")
        };
        assert_eq!(with(|key| key.resource = "x".repeat(257)), Rejection::TextTooLong);
        assert_eq!(with(|key| key.operation = "GET\n".into()), Rejection::TextCharacters);
        assert_eq!(with(|key| key.status = "\u{85}".into()), Rejection::TextCharacters);
        assert_eq!(
            with(|key| key.protocol = protobuf::EnumOrUnknown::from_i32(99)),
            Rejection::ProtocolUnknown
        );
        assert_eq!(with(|key| key.side = agent::Side::SIDE_UNSPECIFIED.into()), Rejection::SideUnknown);
        assert_eq!(
            with(|key| key.error = protobuf::EnumOrUnknown::from_i32(-1)),
            Rejection::ErrorClassUnknown
        );
        let mut wire = series();
        wire.duration.as_mut().expect("histogram").count += 1;
        assert_eq!(check_series(wire).expect_err("refused"), Rejection::HistogramMalformed);
        let keyless = agent::Series { id: 1, ..Default::default() };
        assert_eq!(check_series(keyless).expect_err("refused"), Rejection::KeyMissing);
    }

    #[test]
    fn resources_are_checked_by_value_and_form() {
        let wire = |id: &str, measured, values: &[u64]| agent::Resources {
            container_id: id.into(),
            measured,
            values: values.to_vec(),
            ..Default::default()
        };
        let (id, measured) = check_resources(wire("c", 0b101, &[7, RESOURCE_MAX])).expect("good");
        assert_eq!((id.as_str(), measured.get(Resource::CpuUser)), ("c", Some(7)));
        for (wire, rejection) in [
            (wire("c", 0b101, &[7]), Rejection::ResourcesMalformed),
            (wire("c", 0, &[7; 1000]), Rejection::ResourcesMalformed),
            (wire("c", 1, &[RESOURCE_MAX + 1]), Rejection::CountTooLarge),
            (wire("c\n", 1, &[1]), Rejection::TextCharacters),
            (wire(&"c".repeat(257), 1, &[1]), Rejection::TextTooLong),
        ] {
            assert_eq!(check_resources(wire), Err(rejection));
        }
    }

    #[test]
    fn connections_are_checked_by_value_and_form() {
        let wire = |change: fn(&mut agent::Dependency)| {
            let mut wire = agent::Dependency {
                container_id: "c".into(),
                peer: "10.0.0.1:80".into(),
                failed: vec![3],
                ..Default::default()
            };
            change(&mut wire);
            check_dependency(wire)
        };
        let good =
            wire(|wire| wire.broken = [vec![0; Failure::ALL.len()], vec![2, 3]].concat()).expect("good");
        assert_eq!((&*good.address, &*good.port), ("10.0.0.1", "80"));
        assert_eq!(good.connections.failed[Failure::Refused as usize], 3);
        assert_eq!(good.connections.broken[Failure::Other as usize], 5, "of a later contract");
        assert_eq!(wire(|wire| wire.peer = "x".repeat(257)), Err(Rejection::TextTooLong));
        assert_eq!(wire(|wire| wire.container_id = "\n".into()), Err(Rejection::TextCharacters));
        assert_eq!(wire(|wire| wire.failed = vec![0, COUNT_MAX + 1]), Err(Rejection::CountTooLarge));
        assert_eq!(wire(|wire| wire.retransmitted_segments = u64::MAX), Err(Rejection::CountTooLarge));
        let histogram = agent::Histogram { count: 3, ..Default::default() };
        let malformed = agent::Dependency { made: Some(histogram).into(), ..Default::default() };
        assert_eq!(check_dependency(malformed), Err(Rejection::HistogramMalformed));
    }

    #[test]
    fn ids_of_a_trace_context_have_their_lengths() {
        let checked = |trace: &[u8], parent: &[u8]| {
            let wire = agent::Span {
                reason: agent::SpanReason::SPAN_REASON_RATE.into(),
                trace_id: trace.to_vec(),
                parent_span_id: parent.to_vec(),
                ..Default::default()
            };
            check_span(wire).map(|span| span.lineage.context)
        };
        let context = checked(&[1; 16], &[2; 8]).expect("good").expect("a context");
        assert_eq!((context.trace, context.parent), (TraceId([1; 16]), Some(SpanId([2; 8]))));
        assert_eq!(checked(&[], &[]), Ok(None));
        assert_eq!(checked(&[0; 16], &[2; 8]), Ok(None));
        assert_eq!(checked(&[1; 16], &[0; 8]).expect("good").and_then(|context| context.parent), None);
        for (trace, parent) in [(15, 8), (17, 8), (16, 7), (16, 9), (0, 1), (1, 0)] {
            assert_eq!(checked(&vec![1; trace], &vec![1; parent]), Err(Rejection::SpanContextMalformed));
        }
    }

    #[test]
    fn texts_about_an_agent_are_cut_on_a_character() {
        let text = about_text(&"ü\n".repeat(300));
        assert!(text.len() <= ABOUT_TEXT_MAX && !text.contains('\n') && text.starts_with('ü'));
    }
}
