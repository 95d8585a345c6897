//! `GET /metrics` and `GET /tenants/<tenant>/metrics`: negotiates the form, and sends an encoding that all scrapes of the
//! moment share.

use std::{sync::Arc, time::Instant};

use super::{
    App,
    access::{Tenant, Viewer},
    delivery,
    encoding::{Encoded, Variant},
};
use crate::{exposition::Format, fleet::Fleet};
use axum::{
    Extension,
    extract::State,
    http::{HeaderMap, StatusCode, header},
    response::{IntoResponse, Response},
};

/// Answers a scrape of everything.
pub async fn metrics(State(app): State<App>, headers: HeaderMap) -> Response {
    let fleet = Arc::clone(&app.fleet);
    answer(
        &app,
        &headers,
        None,
        Delivery { fleet, of: Scraped::Everything, began: Instant::now(), whole: false },
    )
    .await
}

/// Answers a scrape of one tenant.
pub async fn tenant_metrics(
    State(app): State<App>,
    Extension(viewer): Extension<Viewer>,
    Extension(Tenant(tenant)): Extension<Tenant>,
    headers: HeaderMap,
) -> Response {
    let fleet = Arc::clone(&app.fleet);
    let of = Scraped::Tenant { by_operator: viewer.is_operator() };
    answer(&app, &headers, Some(tenant), Delivery { fleet, of, began: Instant::now(), whole: false }).await
}

async fn answer(app: &App, headers: &HeaderMap, of: Option<Arc<str>>, mut delivery: Delivery) -> Response {
    let variant = negotiate(headers, app.classic_with_native);
    let Some(encoded) = app.encodings.exposition(&app.fleet, of, variant).await else {
        return StatusCode::INTERNAL_SERVER_ERROR.into_response();
    };
    let body = delivery::body(encoded, move |encoded| delivery.done(encoded));
    let mut response = body.into_response();
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, header::HeaderValue::from_static(variant.format.content_type()));
    headers.insert(header::VARY, header::HeaderValue::from_static("Accept, Accept-Encoding"));
    if variant.gzip {
        headers.insert(header::CONTENT_ENCODING, header::HeaderValue::from_static("gzip"));
    }
    response
}

/// What is scraped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Scraped {
    Everything,
    Tenant { by_operator: bool },
}

/// Counts a scrape when it was delivered, and as failed when it goes before that.
struct Delivery {
    fleet: Arc<Fleet>,
    of: Scraped,
    began: Instant,
    whole: bool,
}

impl Delivery {
    fn done(&mut self, encoded: &Encoded) {
        self.whole = true;
        let own = &self.fleet.own;
        if self.of == Scraped::Everything {
            own.scrapes.inc();
            let took = i64::try_from(self.began.elapsed().as_nanos()).unwrap_or(i64::MAX);
            own.last_scrape_ns.set(took);
        } else {
            own.tenant_scrapes.inc();
        }
        // A tenant that scrapes often must not take the last values from the operator's Prometheus.
        if self.of != (Scraped::Tenant { by_operator: false }) {
            self.fleet.scraped(&encoded.ended);
        }
    }
}

impl Drop for Delivery {
    fn drop(&mut self) {
        if !self.whole {
            let own = &self.fleet.own;
            let failed =
                if self.of == Scraped::Everything { &own.scrapes_failed } else { &own.tenant_scrapes_failed };
            failed.inc();
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

/// Whether the client takes what is compressed by gzip.
pub(super) fn accepts_gzip(headers: &HeaderMap) -> bool {
    accepted(headers, &header::ACCEPT_ENCODING)
        .any(|range| range.split(';').next().is_some_and(|range| range.trim().eq_ignore_ascii_case("gzip")))
}

/// Protobuf where the client names it, since only then native histograms can be sent; otherwise OpenMetrics unless the
/// client names only other types. gzip where the client takes it.
fn negotiate(headers: &HeaderMap, classic: bool) -> Variant {
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
        Format::Protobuf { classic }
    } else if (accepts("text/plain") || accepts("text/*")) && !accepts("application/openmetrics-text") {
        Format::Text
    } else {
        Format::OpenMetrics
    };
    Variant { format, gzip: accepts_gzip(headers) }
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
        let variant = negotiate(&headers, false);
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
        assert_eq!(answer(Some(native), Some("gzip")), (Format::Protobuf { classic: false }, true));
        let text_form =
            "application/vnd.google.protobuf;proto=io.prometheus.client.MetricFamily;encoding=text";
        assert_eq!(answer(Some(text_form), Some("gzip;q=0, br")), (Format::OpenMetrics, false));
        assert_eq!(answer(None, Some("deflate, gzip;q=1.0")), (Format::OpenMetrics, true));
    }
}
