//! Traces sent by OTLP to doubles of a collector, over HTTP and gRPC: whole, each span once, by tenant, again after a refusal that
//! passes, and not again after one that does not.

#![allow(clippy::float_cmp, reason = "counts are exact in f64")]

mod support;

use std::{
    collections::{BTreeMap, VecDeque},
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
    collector::trace::v1::{
        ExportTraceServiceRequest, ExportTraceServiceResponse,
        trace_service_server::{TraceService, TraceServiceServer},
    },
    common::v1::{KeyValue, any_value::Value},
    trace::v1::{Span, span::SpanKind},
};
use parking_lot::Mutex;
use porthole_agent_api::{agent, agent::SpanReason};
use porthole_exporter::{
    clock::unix_ns,
    config::{
        self,
        otlp::{Otlp, Protocol},
    },
    otlp::check,
};
use prost::Message as _;
use support::{
    Companion, Exporter, Host,
    agent::{TestAgent, http, http_client},
    record, wait_for,
};
use tokio::net::TcpListener;
use tonic::transport::server::TcpIncoming;

const MS: u64 = 1_000_000;

/// A double of a collector: it refuses by these statuses first, and then takes everything.
#[derive(Clone, Default)]
struct Collector {
    refusals: Arc<Mutex<VecDeque<u16>>>,
    taken: Arc<Mutex<Vec<ExportTraceServiceRequest>>>,
    requests: Arc<Mutex<usize>>,
    /// `Retry-After` of its refusals over HTTP; 0 without it.
    retry_after: Option<&'static str>,
}

impl Collector {
    fn refusing(statuses: &[u16]) -> Self {
        let collector = Self::default();
        collector.refusals.lock().extend(statuses);
        collector
    }

    /// The status to refuse with; a request without the token is refused for good.
    fn take(&self, token: Option<&str>, request: ExportTraceServiceRequest) -> Option<u16> {
        *self.requests.lock() += 1;
        if token != Some("Bearer secret") {
            return Some(401);
        }
        let refusal = self.refusals.lock().pop_front();
        if refusal.is_none() {
            self.taken.lock().push(request);
        }
        refusal
    }

    async fn serve_http(&self) -> SocketAddr {
        async fn take(State(collector): State<Collector>, headers: HeaderMap, body: Bytes) -> Response {
            assert_eq!(headers[header::CONTENT_TYPE], "application/x-protobuf");
            let token = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
            let request = ExportTraceServiceRequest::decode(body).expect("a request");
            let retry_after = collector.retry_after.unwrap_or("0");
            match collector.take(token, request) {
                None => ExportTraceServiceResponse::default().encode_to_vec().into_response(),
                Some(status) => {
                    let status = StatusCode::from_u16(status).expect("status");
                    (status, [(header::RETRY_AFTER, retry_after)]).into_response()
                }
            }
        }
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("bound");
        let address = listener.local_addr().expect("address");
        let router = Router::new().route("/otlp/v1/traces", post(take)).with_state(self.clone());
        tokio::spawn(async move { axum::serve(listener, router).await });
        address
    }

    async fn serve_grpc(&self) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("bound");
        let address = listener.local_addr().expect("address");
        let server = tonic::transport::Server::builder().add_service(TraceServiceServer::new(self.clone()));
        tokio::spawn(server.serve_with_incoming(TcpIncoming::from(listener)));
        address
    }

    fn spans(&self) -> Vec<(BTreeMap<String, String>, Span)> {
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
        let (metadata, _, request) = request.into_parts();
        let token = metadata.get("authorization").and_then(|value| value.to_str().ok());
        match self.take(token, request) {
            None => Ok(tonic::Response::new(ExportTraceServiceResponse::default())),
            Some(401) => Err(tonic::Status::unauthenticated("no token")),
            Some(400) => Err(tonic::Status::invalid_argument("not this")),
            Some(_) => Err(tonic::Status::unavailable("not now")),
        }
    }
}

fn texts(attributes: &[KeyValue]) -> BTreeMap<String, String> {
    let text = |attribute: &KeyValue| match attribute.value.clone()?.value? {
        Value::StringValue(text) => Some(text),
        Value::IntValue(number) => Some(number.to_string()),
        _ => None,
    };
    attributes.iter().filter_map(|attribute| Some((attribute.key.clone(), text(attribute)?))).collect()
}

fn destination(protocol: Protocol, endpoint: String, tenants: Option<&[&str]>) -> Otlp {
    Otlp {
        endpoint,
        protocol,
        headers: [("authorization".to_owned(), "Bearer secret".to_owned())].into(),
        tenants: tenants.map(|tenants| tenants.iter().map(|&tenant| tenant.to_owned()).collect()),
        ..Otlp::default()
    }
}

async fn sandbox(host: &Host, tenant: &str, service: &str, address: &str) -> (TestAgent, Companion) {
    let id = format!("{tenant}-{service}");
    let socket = host.socket(&id);
    let agent = TestAgent::start(&socket, 7).await;
    agent.set_clock(0);
    agent.tell(vec![http(1, &id, "/items/{}", "503", 1, 1), http_client(2, &id, "10.0.0.2:80", "503", 1)]);
    let mut record = record(&id, tenant, service, &socket);
    record.addresses = vec![address.parse().expect("an address")];
    (agent, host.companion(&record))
}

/// One call of `shop` to `catalog`, and a request of another tenant's `blog`.
async fn call(host: &Host, exporter: &Exporter) -> Vec<(TestAgent, Companion)> {
    let all = [
        sandbox(host, "acme", "shop", "10.0.0.1").await,
        sandbox(host, "acme", "catalog", "10.0.0.2").await,
        sandbox(host, "rival", "blog", "10.0.0.1").await,
    ];
    for id in ["acme-shop", "acme-catalog", "rival-blog"] {
        exporter.wait_for_sandbox(id, "a batch", |row| row["series"].as_u64() == Some(2)).await;
    }
    let began = unix_ns() - 100 * MS;
    let span = |series_id, local: &str, remote: &str, from: u64, to: u64| agent::Span {
        series_id,
        start_unix_ns: began + from * MS,
        duration_ns: (to - from) * MS,
        reason: SpanReason::SPAN_REASON_ERROR.into(),
        local: local.into(),
        remote: remote.into(),
        trace_id: vec![7; 16],
        parent_span_id: vec![8; 8],
        trace_sampled: true,
        ..Default::default()
    };
    let send = |at: usize, span| all[at].0.send(agent::Batch { spans: vec![span], ..Default::default() });
    send(0, span(2, "10.0.0.1:4000", "10.0.0.2:80", 20, 50));
    send(1, span(1, "10.0.0.2:80", "10.0.0.1:4000", 30, 40));
    send(2, span(1, "10.0.0.1:80", "10.0.0.9:4000", 30, 40));
    all.into()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_trace_is_sent_whole_once_and_to_its_tenants_destinations_alone() {
    let host = Host::new();
    let (over_http, over_grpc) = (Collector::refusing(&[429]), Collector::refusing(&[503]));
    let http = format!("http://{}/otlp", over_http.serve_http().await);
    let grpc = format!("http://{}", over_grpc.serve_grpc().await);
    let otlp =
        vec![destination(Protocol::Http, http, Some(&["acme"])), destination(Protocol::Grpc, grpc, None)];
    let exporter = host.start_with(&config::Exporter { otlp, ..host.config() });
    let _sandboxes = call(&host, &exporter).await;
    wait_for("five spans", async || {
        exporter.metrics().await.sum("porthole_otlp_spans_sent_total", &[]) == 5.0
    })
    .await;
    assert_eq!((over_http.spans().len(), over_grpc.spans().len()), (2, 3), "each once, after a refusal");
    assert_eq!(*over_http.requests.lock(), 2);
    let spans = over_http.spans();
    let of = |service: &str| {
        spans.iter().find(|(resource, _)| resource["service.name"] == service).expect("its span")
    };
    let ((shop, client), (_, server)) = (of("shop"), of("catalog"));
    assert_eq!((&*shop["service.instance.id"], &*shop["porthole.tenant"]), ("acme-shop", "acme"));
    assert_eq!((client.kind, server.kind), (SpanKind::Client as i32, SpanKind::Server as i32));
    assert_eq!((&client.trace_id, &server.trace_id), (&vec![7; 16], &vec![7; 16]), "the propagated one");
    assert_eq!(client.parent_span_id, [8; 8], "the program's own span");
    assert_eq!(server.parent_span_id, client.span_id);
    assert_eq!(server.name, "GET /items/{}");
    assert_eq!(server.end_time_unix_nano - server.start_time_unix_nano, 10 * MS);
    let attributes = texts(&server.attributes);
    for (name, value) in [
        ("http.request.method", "GET"),
        ("http.route", "/items/{}"),
        ("http.response.status_code", "503"),
        ("error.type", "503"),
        ("server.address", "10.0.0.2"),
        ("server.port", "80"),
        ("network.peer.address", "10.0.0.1"),
        ("porthole.parent.certainty", "connection"),
    ] {
        assert_eq!(attributes.get(name).map(String::as_str), Some(value), "{name} in {attributes:?}");
    }
    exporter.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_refused_for_good_or_not_delivered_in_time_is_counted_and_not_sent_again() {
    let host = Host::new();
    let refusing = Collector::refusing(&[400; 9]);
    let http = format!("http://{}/otlp", refusing.serve_http().await);
    let mut absent = destination(Protocol::Grpc, "http://127.0.0.1:1".to_owned(), Some(&["acme"]));
    absent.retry_seconds = 0.001;
    let overloaded =
        Collector { retry_after: Some("18446744073709551615"), ..Collector::refusing(&[503; 9]) };
    let later = format!("http://{}/otlp", overloaded.serve_http().await);
    let of_acme = |http| destination(Protocol::Http, http, Some(&["acme"]));
    let otlp = vec![of_acme(http), absent, of_acme(later)];
    let exporter = host.start_with(&config::Exporter { otlp, ..host.config() });
    let _sandboxes = call(&host, &exporter).await;
    wait_for("refusals", async || {
        let metrics = exporter.metrics().await;
        let of = |name: &str| metrics.sum(&format!("porthole_otlp_spans_{name}_total"), &[]);
        [of("sent"), of("refused"), of("undelivered")] == [0.0, 2.0, 4.0]
    })
    .await;
    assert_eq!((*refusing.requests.lock(), *overloaded.requests.lock()), (1, 1), "not again");
    exporter.stop().await;
}

#[test]
fn a_destination_that_cannot_be_used_stops_the_start() {
    let host = Host::new();
    std::fs::write(host.directory().join("empty.pem"), "").expect("written");
    for (protocol, authorities) in [
        (Protocol::Http, "absent.pem"),
        (Protocol::Http, "empty.pem"),
        (Protocol::Grpc, "absent.pem"),
        (Protocol::Grpc, "empty.pem"),
    ] {
        let mut otlp = destination(protocol, "https://collector".to_owned(), None);
        otlp.tls_ca = Some(host.directory().join(authorities));
        let error = check(&[otlp]).expect_err(authorities).to_string();
        assert!(error.contains("https://collector") && error.contains(authorities), "{protocol:?}: {error}");
    }
    let mut otlp = destination(Protocol::Grpc, "http://collector".to_owned(), None);
    otlp.headers.insert("token-bin".to_owned(), "secret".to_owned());
    let error = check(std::slice::from_ref(&otlp)).expect_err("no text").to_string();
    assert!(error.contains("`token-bin` of `headers`") && !error.contains("secret"), "{error}");
    otlp.protocol = Protocol::Http;
    check(&[otlp]).expect("HTTP has no such names");
}
