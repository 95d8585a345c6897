//! A double of a collector, and what it got of metrics in the form that scrapes have it.

#![allow(dead_code, reason = "each test program uses a part")]

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    net::SocketAddr,
    sync::Arc,
};

use axum::{
    Router,
    body::Bytes,
    extract::State,
    http::{HeaderMap, StatusCode, header},
    response::{IntoResponse, Response},
    routing::post,
};
use opentelemetry_proto::tonic::{
    collector::{
        metrics::v1::{
            ExportMetricsServiceRequest, ExportMetricsServiceResponse,
            metrics_service_server::{MetricsService, MetricsServiceServer},
        },
        trace::v1::{
            ExportTraceServiceRequest, ExportTraceServiceResponse,
            trace_service_server::{TraceService, TraceServiceServer},
        },
    },
    common::v1::{KeyValue, any_value::Value},
    metrics::v1::{
        AggregationTemporality, ExponentialHistogramDataPoint, Metric, metric::Data, number_data_point,
    },
    trace::v1::Span,
};
use parking_lot::Mutex;
use prost::Message as _;
use tokio::net::TcpListener;
use tonic::{metadata::MetadataMap, transport::server::TcpIncoming};

use crate::support::exposition::{Exposition, Labels};

/// What requests have to carry.
pub const TOKEN: &str = "Bearer secret";

/// A double of a collector: it refuses by these statuses first, and then takes everything.
#[derive(Clone, Default)]
pub struct Collector {
    pub refusals: Arc<Mutex<VecDeque<u16>>>,
    pub taken: Arc<Mutex<Vec<ExportTraceServiceRequest>>>,
    pub metrics: Arc<Mutex<Points>>,
    pub requests: Arc<Mutex<usize>>,
    /// Identifiers of the spans of all requests over HTTP, also of those that it refused.
    pub offered: Arc<Mutex<Vec<Vec<u8>>>>,
    /// `Retry-After` of its refusals over HTTP; 0 without it.
    pub retry_after: Option<&'static str>,
}

impl Collector {
    pub fn refusing(statuses: &[u16]) -> Self {
        let collector = Self::default();
        collector.refusals.lock().extend(statuses);
        collector
    }

    /// The status to refuse with; a request without the token is refused for good.
    fn take(&self, token: Option<&str>) -> Option<u16> {
        *self.requests.lock() += 1;
        if token != Some(TOKEN) {
            return Some(401);
        }
        self.refusals.lock().pop_front()
    }

    /// Its answer over HTTP, which has no refused part.
    fn answer(&self, headers: &HeaderMap) -> Response {
        assert_eq!(headers[header::CONTENT_TYPE], "application/x-protobuf");
        let token = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
        match self.take(token) {
            None => StatusCode::OK.into_response(),
            Some(status) => {
                let status = StatusCode::from_u16(status).expect("status");
                (status, [(header::RETRY_AFTER, self.retry_after.unwrap_or("0"))]).into_response()
            }
        }
    }

    /// The same over gRPC.
    fn status(&self, metadata: &MetadataMap) -> Result<(), tonic::Status> {
        let token = metadata.get("authorization").and_then(|value| value.to_str().ok());
        match self.take(token) {
            None => Ok(()),
            Some(401) => Err(tonic::Status::unauthenticated("no token")),
            Some(400) => Err(tonic::Status::invalid_argument("not this")),
            Some(_) => Err(tonic::Status::unavailable("not now")),
        }
    }

    pub async fn serve_http(&self) -> SocketAddr {
        async fn traces(State(collector): State<Collector>, headers: HeaderMap, body: Bytes) -> Response {
            let request = ExportTraceServiceRequest::decode(body).expect("a request");
            let resources = request.resource_spans.iter().flat_map(|of| &of.scope_spans);
            let spans = resources.flat_map(|of| &of.spans).map(|span| span.span_id.clone());
            collector.offered.lock().extend(spans);
            let answer = collector.answer(&headers);
            if answer.status().is_success() {
                collector.taken.lock().push(request);
            }
            answer
        }
        async fn metrics(State(collector): State<Collector>, headers: HeaderMap, body: Bytes) -> Response {
            let answer = collector.answer(&headers);
            if answer.status().is_success() {
                collector.metrics.lock().add(&ExportMetricsServiceRequest::decode(body).expect("a request"));
            }
            answer
        }
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("bound");
        let address = listener.local_addr().expect("address");
        let router = Router::new()
            .route("/otlp/v1/traces", post(traces))
            .route("/otlp/v1/metrics", post(metrics))
            .with_state(self.clone());
        tokio::spawn(async move { axum::serve(listener, router).await });
        address
    }

    pub async fn serve_grpc(&self) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("bound");
        let address = listener.local_addr().expect("address");
        let server = tonic::transport::Server::builder()
            .add_service(TraceServiceServer::new(self.clone()))
            .add_service(MetricsServiceServer::new(self.clone()));
        tokio::spawn(server.serve_with_incoming(TcpIncoming::from(listener)));
        address
    }

    /// The newest point of each stream.
    pub fn points(&self) -> Points {
        self.metrics.lock().clone()
    }

    pub fn spans(&self) -> Vec<(BTreeMap<String, String>, Span)> {
        let taken = self.taken.lock().clone();
        let of_resources = taken.into_iter().flat_map(|request| request.resource_spans);
        of_resources
            .flat_map(|of_resource| {
                let resource = texts(&of_resource.resource.expect("a resource").attributes);
                let spans = of_resource.scope_spans.into_iter().flat_map(|of_scope| of_scope.spans);
                spans.map(move |span| (resource.clone(), span)).collect::<Vec<_>>()
            })
            .collect()
    }
}

#[tonic::async_trait]
impl TraceService for Collector {
    async fn export(
        &self,
        request: tonic::Request<ExportTraceServiceRequest>,
    ) -> Result<tonic::Response<ExportTraceServiceResponse>, tonic::Status> {
        self.status(request.metadata())?;
        self.taken.lock().push(request.into_inner());
        Ok(tonic::Response::new(ExportTraceServiceResponse::default()))
    }
}

#[tonic::async_trait]
impl MetricsService for Collector {
    async fn export(
        &self,
        request: tonic::Request<ExportMetricsServiceRequest>,
    ) -> Result<tonic::Response<ExportMetricsServiceResponse>, tonic::Status> {
        self.status(request.metadata())?;
        self.metrics.lock().add(request.get_ref());
        Ok(tonic::Response::new(ExportMetricsServiceResponse::default()))
    }
}

/// Times of a point: the start of its value, and when it was taken.
pub type Times = (u64, u64);

/// The newest point of each stream, by the name and labels of its samples in scrapes.
#[derive(Clone, Debug, Default)]
pub struct Points {
    pub samples: BTreeMap<(String, Labels), f64>,
    pub times: BTreeMap<(String, Labels), Times>,
    /// Trace ids of exemplars, by the name of the metric.
    pub exemplars: BTreeMap<String, BTreeSet<Vec<u8>>>,
}

impl Points {
    fn add(&mut self, request: &ExportMetricsServiceRequest) {
        for of_resource in &request.resource_metrics {
            let resource = texts(&of_resource.resource.as_ref().expect("a resource").attributes);
            for metric in of_resource.scope_metrics.iter().flat_map(|of_scope| &of_scope.metrics) {
                self.take(&resource, metric);
            }
        }
    }

    fn take(&mut self, resource: &Labels, metric: &Metric) {
        let unit = match metric.unit.as_str() {
            "s" => "_seconds",
            "By" => "_bytes",
            "1" => "_ratio",
            _ => "",
        };
        let name = metric.name.replace('.', "_") + unit;
        let cumulative = i32::from(AggregationTemporality::Cumulative);
        let (numbers, suffix) = match metric.data.as_ref().expect("points") {
            Data::Gauge(gauge) => (&gauge.data_points, ""),
            Data::Sum(sum) => {
                assert!(sum.is_monotonic && sum.aggregation_temporality == cumulative, "{metric:?}");
                (&sum.data_points, "_total")
            }
            Data::ExponentialHistogram(histogram) => {
                assert_eq!(histogram.aggregation_temporality, cumulative);
                for point in &histogram.data_points {
                    self.take_histogram(&name, labels(resource, &point.attributes), point);
                }
                return;
            }
            other => panic!("{other:?}"),
        };
        for point in numbers {
            let key = (name.clone() + suffix, labels(resource, &point.attributes));
            #[allow(clippy::cast_precision_loss)]
            let value = match point.value.expect("a value") {
                number_data_point::Value::AsInt(value) => value as f64,
                number_data_point::Value::AsDouble(value) => value,
            };
            assert_eq!(point.start_time_unix_nano == 0, suffix.is_empty(), "gauges have no start: {key:?}");
            self.times.insert(key.clone(), (point.start_time_unix_nano, point.time_unix_nano));
            self.samples.insert(key, value);
        }
    }

    #[allow(clippy::cast_precision_loss)]
    fn take_histogram(&mut self, name: &str, labels: Labels, point: &ExponentialHistogramDataPoint) {
        assert_eq!(point.scale, 3);
        let positive = point.positive.clone().unwrap_or_default();
        let counts = positive.bucket_counts.iter().zip(positive.offset..);
        assert_eq!(point.zero_count + counts.clone().map(|(count, _)| count).sum::<u64>(), point.count);
        // Bounds of scrapes are powers of two of seconds.
        for power in -16..=5 {
            let below = counts.clone().filter(|(_, index)| *index < 8 * power).map(|(count, _)| count);
            let mut labels = labels.clone();
            labels.insert("le".to_owned(), format!("{:?}", 2_f64.powi(power)));
            let cumulative = point.zero_count + below.sum::<u64>();
            self.samples.insert((format!("{name}_bucket"), labels), cumulative as f64);
        }
        let times = (point.start_time_unix_nano, point.time_unix_nano);
        self.times.insert((name.to_owned(), labels.clone()), times);
        self.samples.insert((format!("{name}_count"), labels.clone()), point.count as f64);
        self.samples.insert((format!("{name}_sum"), labels), point.sum.expect("a sum"));
        let traces = point.exemplars.iter().map(|exemplar| exemplar.trace_id.clone());
        self.exemplars.entry(name.to_owned()).or_default().extend(traces);
    }

    /// Those with names that begin so, as far as scrapes have such: without those of the last bucket.
    pub fn beginning(&self, prefixes: &[&str]) -> BTreeMap<(String, Labels), f64> {
        let wanted = self.samples.iter().filter(|((name, _), _)| begins(name, prefixes));
        wanted.map(|(key, value)| (key.clone(), *value)).collect()
    }
}

/// The same of a scrape.
pub fn scraped(exposition: &Exposition, prefixes: &[&str]) -> BTreeMap<(String, Labels), f64> {
    let wanted = exposition.samples().filter(|(name, labels, _)| {
        begins(name, prefixes) && labels.get("le").is_none_or(|bound| bound != "+Inf")
    });
    let with_bound = |labels: &Labels| {
        let mut labels = labels.clone();
        if let Some(bound) = labels.get_mut("le") {
            *bound = format!("{:?}", bound.parse::<f64>().expect("a number"));
        }
        labels
    };
    wanted.map(|(name, labels, value)| ((name.clone(), with_bound(labels)), *value)).collect()
}

fn begins(name: &str, prefixes: &[&str]) -> bool {
    prefixes.iter().any(|prefix| name.starts_with(prefix))
}

/// The labels of a point in scrapes.
fn labels(resource: &Labels, attributes: &[KeyValue]) -> Labels {
    let in_scrapes = |name: &str| match name {
        "porthole.tenant" => "tenant".to_owned(),
        "porthole.containerd.namespace" => "containerd_namespace".to_owned(),
        "service.instance.id" => "sandbox_id".to_owned(),
        name => name.replace('.', "_"),
    };
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").expect("a name");
    // In scrapes there is no sandbox and no service where they are not known.
    let is_known = |(name, value): &(&String, &String)| match name.as_str() {
        "service.instance.id" => value.as_str() != host.trim(),
        "service.name" => value.as_str() != "porthole",
        _ => true,
    };
    let attributes = texts(attributes);
    let all = resource.iter().filter(is_known).chain(&attributes);
    all.map(|(name, value)| (in_scrapes(name), value.clone())).collect()
}

/// Attributes as texts.
pub fn texts(attributes: &[KeyValue]) -> BTreeMap<String, String> {
    let text = |attribute: &KeyValue| match attribute.value.clone()?.value? {
        Value::StringValue(text) => Some(text),
        Value::IntValue(number) => Some(number.to_string()),
        _ => None,
    };
    attributes.iter().filter_map(|attribute| Some((attribute.key.clone(), text(attribute)?))).collect()
}
