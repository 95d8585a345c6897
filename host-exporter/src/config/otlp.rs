//! `[[exporter.otlp]]` of the configuration file: one destination each.

use std::{collections::BTreeMap, fmt, path::PathBuf};

use axum::http::{HeaderMap, HeaderName, HeaderValue, Uri};
use serde::Deserialize;
use tonic::metadata::{AsciiMetadataKey, MetadataMap, MetadataValue};

/// How a destination is reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
pub enum Protocol {
    /// OTLP/gRPC.
    #[serde(rename = "grpc")]
    Grpc,
    /// OTLP/HTTP with protobuf.
    #[serde(rename = "http/protobuf")]
    Http,
}

/// A destination.
#[derive(Clone, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Otlp {
    /// `http` or `https` URL of the server, with the path below which OTLP/HTTP has `v1/traces` and `v1/metrics`.
    pub endpoint: String,
    /// How it is reached.
    pub protocol: Protocol,
    /// What every request carries, such as a token.
    pub headers: BTreeMap<String, String>,
    /// Tenants whose traces and metrics are sent; those of all without it.
    pub tenants: Option<Vec<String>>,
    /// Whether traces are sent.
    pub traces: bool,
    /// Whether metrics are sent.
    pub metrics: bool,
    /// Authorities of the server's certificate, PEM.
    pub tls_ca: Option<PathBuf>,
    /// Requests with traces that wait, each of 512 spans at most; of all tenants together, and 16 MiB at most.
    pub queue_requests: usize,
    /// Longest time for one request.
    pub timeout_seconds: f64,
    /// For how long a request is sent again.
    pub retry_seconds: f64,
}

impl Default for Otlp {
    fn default() -> Self {
        Self {
            endpoint: String::new(),
            protocol: Protocol::Grpc,
            headers: BTreeMap::new(),
            tenants: None,
            traces: true,
            metrics: false,
            tls_ca: None,
            queue_requests: 64,
            timeout_seconds: 10.0,
            retry_seconds: 300.0,
        }
    }
}

impl fmt::Debug for Otlp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Values of headers are secrets, most likely.
        let names: Vec<_> = self.headers.keys().collect();
        f.debug_struct("Otlp")
            .field("endpoint", &self.endpoint)
            .field("protocol", &self.protocol)
            .field("headers", &names)
            .field("tenants", &self.tenants)
            .field("traces", &self.traces)
            .field("metrics", &self.metrics)
            .field("tls_ca", &self.tls_ca)
            .field("queue_requests", &self.queue_requests)
            .field("timeout_seconds", &self.timeout_seconds)
            .field("retry_seconds", &self.retry_seconds)
            .finish()
    }
}

impl Otlp {
    /// The URL in its parts; none of another kind of URL, and of one with a user's name or a query.
    pub fn uri(&self) -> Option<Uri> {
        let uri: Uri = self.endpoint.parse().ok()?;
        let is_plain = !uri.authority()?.as_str().contains('@') && uri.query().is_none();
        (matches!(uri.scheme_str(), Some("http" | "https")) && is_plain).then_some(uri)
    }

    /// Whether it is reached by TLS.
    pub fn has_tls(&self) -> bool {
        self.uri().is_some_and(|uri| uri.scheme_str() == Some("https"))
    }

    /// Whether it gets what there is of a tenant.
    pub fn admits(&self, tenant: &str) -> bool {
        self.tenants.as_ref().is_none_or(|tenants| tenants.iter().any(|name| name == tenant))
    }

    /// The headers of requests over HTTP, or the name of one that cannot be used.
    pub fn http_headers(&self) -> Result<HeaderMap, &str> {
        let header = |(name, value): (&String, &String)| {
            Some((HeaderName::try_from(name).ok()?, HeaderValue::try_from(value).ok()?))
        };
        self.headers.iter().map(|one| header(one).ok_or(one.0.as_str())).collect()
    }

    /// The same as metadata of requests over gRPC.
    pub fn grpc_metadata(&self) -> Result<MetadataMap, &str> {
        let mut metadata = MetadataMap::new();
        for (name, value) in &self.headers {
            let key = AsciiMetadataKey::from_bytes(name.as_bytes()).map_err(|_| name.as_str())?;
            metadata.insert(key, MetadataValue::try_from(value).map_err(|_| name.as_str())?);
        }
        Ok(metadata)
    }

    /// The key that cannot be used, and what it must be.
    pub fn invalid(&self) -> Option<(&'static str, &'static str)> {
        let has_headers = match self.protocol {
            Protocol::Grpc => self.grpc_metadata().is_ok(),
            Protocol::Http => self.http_headers().is_ok(),
        };
        let seconds = 0.001..=86_400.0;
        if self.uri().is_none() {
            Some(("otlp.endpoint", "must be an http or https URL without user and query"))
        } else if self.has_tls() != self.tls_ca.is_some() {
            Some(("otlp.tls_ca", "must be set where the endpoint is https, and only there"))
        } else if self.tls_ca.as_ref().is_some_and(|path| !path.is_absolute()) {
            Some(("otlp.tls_ca", "must be an absolute path"))
        } else if !has_headers {
            Some(("otlp.headers", "must be names and values of headers; with gRPC no name may end in `-bin`"))
        } else if !self.traces && !self.metrics {
            Some(("otlp.traces", "or `metrics` must be true"))
        } else if !(1..=4_096).contains(&self.queue_requests) {
            Some(("otlp.queue_requests", "must lie between 1 and 4096"))
        } else if !seconds.contains(&self.timeout_seconds) || !seconds.contains(&self.retry_seconds) {
            Some(("otlp.timeout_seconds", "and `retry_seconds` must lie between 0.001 and 86400 seconds"))
        } else {
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(change: impl FnOnce(&mut Otlp)) -> Otlp {
        let mut otlp = Otlp { endpoint: "http://collector:4317".into(), ..Otlp::default() };
        change(&mut otlp);
        otlp
    }

    #[test]
    fn what_cannot_be_used_is_refused_with_its_key() {
        assert_eq!(with(|_| ()).invalid(), None);
        let refused = |change: fn(&mut Otlp)| with(change).invalid().map(|(key, _)| key);
        for endpoint in ["", "collector:4317", "ftp://c", "http://user@c/", "http://c/?a=b"] {
            let otlp = Otlp { endpoint: endpoint.into(), ..Otlp::default() };
            assert_eq!(otlp.invalid().map(|(key, _)| key), Some("otlp.endpoint"), "{endpoint}");
        }
        assert_eq!(refused(|otlp| otlp.endpoint = "https://c".into()), Some("otlp.tls_ca"));
        assert_eq!(refused(|otlp| otlp.tls_ca = Some("/ca".into())), Some("otlp.tls_ca"));
        for (name, value, of_grpc, of_http) in [
            ("Authorization", "Bearer secret", None, None),
            ("a b", "c", Some("otlp.headers"), Some("otlp.headers")),
            ("a", "b\nc", Some("otlp.headers"), Some("otlp.headers")),
            ("token-bin", "c", Some("otlp.headers"), None),
        ] {
            for (protocol, key) in [(Protocol::Grpc, of_grpc), (Protocol::Http, of_http)] {
                let headers = [(name.to_owned(), value.to_owned())].into();
                let otlp = with(|otlp| (otlp.protocol, otlp.headers) = (protocol, headers));
                assert_eq!(otlp.invalid().map(|(key, _)| key), key, "{name} over {protocol:?}");
            }
        }
        assert_eq!(refused(|otlp| otlp.traces = false), Some("otlp.traces"));
        assert_eq!(refused(|otlp| (otlp.traces, otlp.metrics) = (false, true)), None);
        assert_eq!(refused(|otlp| otlp.queue_requests = 0), Some("otlp.queue_requests"));
        assert_eq!(refused(|otlp| otlp.retry_seconds = f64::NAN), Some("otlp.timeout_seconds"));
    }

    #[test]
    fn values_of_headers_are_not_shown() {
        let otlp = with(|otlp| {
            otlp.headers.insert("authorization".into(), "Bearer secret".into());
        });
        let shown = format!("{otlp:?}");
        assert!(shown.contains("authorization") && !shown.contains("secret"), "{shown}");
    }

    #[test]
    fn a_destination_gets_the_traces_of_its_tenants() {
        let some = with(|otlp| otlp.tenants = Some(vec!["acme".into()]));
        assert!(some.admits("acme") && !some.admits("rival") && with(|_| ()).admits("rival"));
    }
}
