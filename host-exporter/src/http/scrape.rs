//! `GET /metrics`: negotiates the form, and sends an encoding that all scrapes of the moment share.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use axum::{
    body::Body,
    extract::State,
    http::{HeaderMap, StatusCode, header},
    response::{IntoResponse, Response},
};
use futures_util::StreamExt;

use super::{
    App,
    encoding::{CutOff, Encoded, Variant},
};
use crate::{exposition::Format, fleet::Fleet};

/// Longest time that a client may take for the whole exposition.
const DELIVERY_MAX: Duration = Duration::from_mins(1);

/// Answers a scrape.
pub async fn metrics(State(app): State<App>, headers: HeaderMap) -> Response {
    let began = Instant::now();
    let variant = negotiate(&headers);
    let delivery = Delivery { fleet: Arc::clone(&app.fleet), began, whole: false };
    let Some(encoded) = app.encodings.get(&app.fleet, variant).await else {
        return StatusCode::INTERNAL_SERVER_ERROR.into_response();
    };
    let body = futures_util::stream::unfold(Some((encoded, 0, delivery)), |state| async move {
        let (encoded, at, mut delivery) = state?;
        if delivery.began.elapsed() > DELIVERY_MAX {
            return Some((Err(CutOff), None));
        }
        match encoded.piece(at) {
            Ok(Some(piece)) => Some((Ok(piece), Some((encoded, at + 1, delivery)))),
            Ok(None) => {
                delivery.done(&encoded);
                None
            }
            Err(cut_off) => Some((Err(cut_off), None)),
        }
    });
    let mut response = Body::from_stream(body.fuse()).into_response();
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, header::HeaderValue::from_static(variant.format.content_type()));
    headers.insert(header::VARY, header::HeaderValue::from_static("Accept, Accept-Encoding"));
    if variant.gzip {
        headers.insert(header::CONTENT_ENCODING, header::HeaderValue::from_static("gzip"));
    }
    response
}

/// Counts a scrape when it was delivered, and as failed when it goes before that.
struct Delivery {
    fleet: Arc<Fleet>,
    began: Instant,
    whole: bool,
}

impl Delivery {
    fn done(&mut self, encoded: &Encoded) {
        self.whole = true;
        self.fleet.own.scrapes.inc();
        let took = i64::try_from(self.began.elapsed().as_nanos()).unwrap_or(i64::MAX);
        self.fleet.own.last_scrape_ns.set(took);
        self.fleet.scraped(&encoded.ended);
    }
}

impl Drop for Delivery {
    fn drop(&mut self) {
        if !self.whole {
            self.fleet.own.scrapes_failed.inc();
        }
    }
}

/// The parameters of a list in a header, without those whose quality is zero.
fn accepted<'a>(headers: &'a HeaderMap, name: &header::HeaderName) -> impl Iterator<Item = &'a str> {
    headers
        .get_all(name)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .filter(|range| {
            let quality = range.split(';').skip(1).find_map(|parameter| parameter.trim().strip_prefix("q="));
            quality.and_then(|quality| quality.trim().parse::<f32>().ok()).is_none_or(|quality| quality > 0.0)
        })
}

/// Protobuf where the client names it, since only then native histograms can be sent; otherwise OpenMetrics unless the
/// client names only other types. gzip where the client takes it.
fn negotiate(headers: &HeaderMap) -> Variant {
    let accepts = |media_type: &str| {
        accepted(headers, &header::ACCEPT).any(|range| {
            range.split(';').next().is_some_and(|range| range.trim().eq_ignore_ascii_case(media_type))
        })
    };
    let is_protobuf = |range: &str| {
        let mut parts = range.split(';').map(str::trim);
        parts.next().is_some_and(|range| range.eq_ignore_ascii_case("application/vnd.google.protobuf"))
            && parts.clone().any(|part| part == "proto=io.prometheus.client.MetricFamily")
            && parts.clone().any(|part| part == "encoding=delimited")
    };
    let format = if accepted(headers, &header::ACCEPT).any(is_protobuf) {
        Format::Protobuf
    } else if (accepts("text/plain") || accepts("text/*")) && !accepts("application/openmetrics-text") {
        Format::Text
    } else {
        Format::OpenMetrics
    };
    let gzip = accepted(headers, &header::ACCEPT_ENCODING)
        .any(|range| range.split(';').next().is_some_and(|range| range.trim().eq_ignore_ascii_case("gzip")));
    Variant { format, gzip }
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;

    use super::*;

    fn answer(accept: Option<&'static str>, encoding: Option<&'static str>) -> (Format, bool) {
        let mut headers = HeaderMap::new();
        for (name, value) in [(header::ACCEPT, accept), (header::ACCEPT_ENCODING, encoding)] {
            if let Some(value) = value {
                headers.insert(name, HeaderValue::from_static(value));
            }
        }
        let variant = negotiate(&headers);
        (variant.format, variant.gzip)
    }

    #[test]
    fn prometheus_and_browsers_get_openmetrics_and_text_only_clients_text() {
        let format = |accept| answer(accept, None).0;
        let prometheus = "application/openmetrics-text;version=1.0.0,application/openmetrics-text;version=0.0.1;q=0.75,text/plain;version=0.0.4;q=0.5,*/*;q=0.1";
        assert_eq!(format(Some(prometheus)), Format::OpenMetrics);
        assert_eq!(format(None), Format::OpenMetrics);
        assert_eq!(format(Some("*/*")), Format::OpenMetrics);
        assert_eq!(format(Some("text/plain;version=0.0.4")), Format::Text);
    }

    #[test]
    fn protobuf_and_gzip_are_sent_to_those_who_ask() {
        let native = "application/vnd.google.protobuf;proto=io.prometheus.client.MetricFamily;encoding=delimited;q=0.6,application/openmetrics-text;version=1.0.0;q=0.5,text/plain;q=0.2";
        assert_eq!(answer(Some(native), Some("gzip")), (Format::Protobuf, true));
        let text_form =
            "application/vnd.google.protobuf;proto=io.prometheus.client.MetricFamily;encoding=text";
        assert_eq!(answer(Some(text_form), Some("gzip;q=0, br")), (Format::OpenMetrics, false));
        assert_eq!(answer(None, Some("deflate, gzip;q=1.0")), (Format::OpenMetrics, true));
    }
}
