//! Series as agents send them, for simulated agents: in tests, attacks and benchmarks.

use porthole_histogram::Histogram;

use crate::agent;

/// Bytes of each request.
const REQUEST_BYTES: u64 = 100;

/// Bytes of each response.
const RESPONSE_BYTES: u64 = 1_000;

/// A server's series of HTTP/1 requests: one for each duration, with the error class of the status.
pub fn http_series(
    id: u32,
    container: &str,
    (method, route, status): (&str, &str, &str),
    durations: &Histogram,
) -> agent::Series {
    let error = match status.as_bytes().first() {
        Some(b'4') => agent::ErrorClass::ERROR_CLASS_CLIENT,
        Some(b'5') => agent::ErrorClass::ERROR_CLASS_SERVER,
        _ => agent::ErrorClass::ERROR_CLASS_NONE,
    };
    agent::Series {
        id,
        key: Some(agent::SeriesKey {
            container_id: container.to_owned(),
            protocol: agent::Protocol::PROTOCOL_HTTP1.into(),
            side: agent::Side::SIDE_SERVER.into(),
            operation: method.to_owned(),
            resource: route.to_owned(),
            status: status.to_owned(),
            error: error.into(),
            ..Default::default()
        })
        .into(),
        duration: Some(agent::Histogram::from(durations)).into(),
        request_bytes: REQUEST_BYTES * durations.count(),
        response_bytes: RESPONSE_BYTES * durations.count(),
        ..Default::default()
    }
}
