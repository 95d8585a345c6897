//! The checks on what an agent sends: sizes, characters, enumerations, histograms. Nothing passes unchecked, and
//! nothing here keeps state.

use porthole_agent_api::{
    agent,
    limits::{BATCH_SERIES_MAX, BATCH_SPANS_MAX, KEY_STRING_MAX, KEY_WORD_MAX},
};
use porthole_histogram::Histogram;

use crate::{
    accumulate::{
        series::{CheckedSeries, SeriesKey},
        values::Values,
    },
    instrument,
    protocol::{self, ErrorClass, Protocol, Side, SpanReason},
    rejection::Rejection,
    spans::CheckedSpan,
};

/// Most exchanges of one series, and most of its bytes in units of 64 KiB: 100,000 a second for five years. Sums over
/// all series, sandboxes and runs of agents stay far below 2^64.
pub const COUNT_MAX: u64 = 1 << 44;

/// Largest text of an agent about itself that is kept, in bytes.
pub const ABOUT_TEXT_MAX: usize = 256;

/// Largest number of texts of an agent about itself (capabilities, limitations) that are kept.
pub const ABOUT_TEXTS_MAX: usize = 32;

/// Checks what concerns a batch as a whole.
pub fn check_batch(batch: &agent::Batch, epoch: u64) -> Result<(), Rejection> {
    if batch.series.len() > BATCH_SERIES_MAX || batch.spans.len() > BATCH_SPANS_MAX {
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
    let (peer_address, peer_port) = split_peer(&key.peer);
    let [operation, resource, status] =
        instrument::label_values(protocol, [&key.operation, &key.resource, &key.status]);
    let error_type = protocol::error_type(protocol, side, error, status).into();
    Ok(CheckedSeries {
        id: wire.id,
        container_id: key.container_id,
        key: SeriesKey {
            protocol,
            side,
            container: Box::default(),
            peer_address: peer_address.into(),
            peer_port: peer_port.into(),
            operation: operation.into(),
            resource: resource.into(),
            status: status.into(),
            error_type,
        },
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
    })
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

/// Address and port of `address:port`, `[address]:port`, or a socket's path, which has no port.
fn split_peer(peer: &str) -> (&str, &str) {
    let whole = (peer, "");
    let Some((address, port)) = peer.rsplit_once(':') else { return whole };
    if peer.starts_with('/') || port.is_empty() || !port.bytes().all(|byte| byte.is_ascii_digit()) {
        return whole;
    }
    let bare = address.strip_prefix('[').and_then(|address| address.strip_suffix(']'));
    match bare {
        Some(bare) => (bare, port),
        // An IPv6 address without brackets has no port of its own that could be distinguished from its last group.
        None if address.contains(':') => whole,
        None => (address, port),
    }
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
        assert_eq!(&*checked.key.peer_address, "fd00::1");
        assert_eq!(&*checked.key.peer_port, "8080");
        assert_eq!(&*checked.key.error_type, "503");
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
    fn peers_that_differ_stay_different() {
        assert_eq!(split_peer("10.0.0.1:80"), ("10.0.0.1", "80"));
        assert_eq!(split_peer("catalog:80"), ("catalog", "80"));
        assert_eq!(split_peer("[::1]:80"), ("::1", "80"));
        assert_eq!(split_peer("::1:80"), ("::1:80", ""));
        assert_eq!(split_peer("/run/mysqld.sock"), ("/run/mysqld.sock", ""));
        assert_eq!(split_peer("/run/a:80"), ("/run/a:80", ""));
        assert_eq!(split_peer(""), ("", ""));
    }

    #[test]
    fn texts_about_an_agent_are_cut_on_a_character() {
        let text = about_text(&"ü\n".repeat(300));
        assert!(text.len() <= ABOUT_TEXT_MAX && !text.contains('\n') && text.starts_with('ü'));
    }
}
