//! One request to a destination, and what its answer means: taken, refused for good, or to be sent again (OTLP Specification, "OTLP/gRPC
//! Response", "OTLP/HTTP Response").

use std::{error::Error as _, panic::AssertUnwindSafe, path::Path, time::Duration};

use axum::http::{HeaderMap, Request, StatusCode, Uri, header};
use bytes::Bytes;
use futures_util::FutureExt as _;
use opentelemetry_proto::tonic::collector::{
    metrics::v1::{
        ExportMetricsServiceRequest, ExportMetricsServiceResponse,
        metrics_service_client::MetricsServiceClient,
    },
    trace::v1::{
        ExportTraceServiceRequest, ExportTraceServiceResponse, trace_service_client::TraceServiceClient,
    },
};
use prost::Message as _;
use thiserror::Error;
use tonic::{
    Code,
    metadata::MetadataMap,
    transport::{Certificate, Channel, ClientTlsConfig, Endpoint},
};
use tonic_types::StatusExt as _;

use super::signal::Signal;
use crate::{
    config::{
        otlp::{Otlp, Protocol},
        seconds,
    },
    outbound::{self, Allowance, Tls, TlsError},
};

/// Largest answer that is read.
const ANSWER_BYTES_MAX: usize = 64 << 10;

/// What tonic's statuses begin with that stand for an answer without one: it ended before. They have no source.
const CUT_OFF: [&str; 2] = ["protocol error: missing grpc-status trailer", "Unexpected EOF decoding stream"];

/// A destination that cannot be used.
#[derive(Debug, Error)]
pub enum TransportError {
    /// Its authorities cannot be read.
    #[error("{endpoint}: {source}")]
    Tls {
        /// The destination.
        endpoint: String,
        /// Why.
        source: TlsError,
    },
    /// Its URL, its headers or its TLS cannot be used.
    #[error("{endpoint}: {reason}")]
    Unusable {
        /// The destination.
        endpoint: String,
        /// Why.
        reason: String,
    },
}

/// What became of a request.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// It was taken, but for so many spans or points.
    Taken {
        /// Those that were refused.
        refused: u64,
    },
    /// It was refused for good.
    Refused(String),
    /// It may be sent again, when so long is over: zero where the answer has no time.
    Later(Duration, String),
}

/// How requests get to a destination.
#[derive(Clone)]
pub(super) enum Transport {
    Grpc(Box<Grpc>),
    Http(Box<Http>),
}

#[derive(Clone)]
pub(super) struct Grpc {
    channel: Channel,
    metadata: MetadataMap,
}

#[derive(Clone)]
pub(super) struct Http {
    uri: Uri,
    headers: HeaderMap,
    tls: Option<Tls>,
}

impl Transport {
    /// The way to a destination, of which nothing is tried yet; within a runtime.
    pub fn new(otlp: &Otlp) -> Result<Self, TransportError> {
        Ok(match otlp.protocol {
            Protocol::Grpc => {
                let (endpoint, metadata) = grpc(otlp)?;
                Self::Grpc(Box::new(Grpc { channel: endpoint.connect_lazy(), metadata }))
            }
            Protocol::Http => Self::Http(Box::new(http(otlp)?)),
        })
    }

    /// Sends a request once.
    pub async fn send(&self, signal: Signal, request: &Bytes, timeout: Duration) -> Outcome {
        let sent = async {
            match self {
                Self::Grpc(grpc) => grpc.send(signal, request).await,
                Self::Http(http) => http.send(signal, request).await,
            }
        };
        let late = || Outcome::Later(Duration::ZERO, format!("no answer in {timeout:?}"));
        tokio::time::timeout(timeout, sent).await.unwrap_or_else(|_| late())
    }
}

/// Reads what a destination needs, and connects to nothing.
pub(super) fn check(otlp: &Otlp) -> Result<(), TransportError> {
    match otlp.protocol {
        Protocol::Grpc => grpc(otlp).map(drop),
        Protocol::Http => http(otlp).map(drop),
    }
}

fn grpc(otlp: &Otlp) -> Result<(Endpoint, MetadataMap), TransportError> {
    let metadata = otlp.grpc_metadata().map_err(|name| no_header(otlp, name, "metadata of gRPC"))?;
    let uri = uri(otlp)?;
    // tonic takes authorities without a certificate.
    tls(otlp, &uri)?;
    let timeout = seconds(otlp.timeout_seconds);
    let endpoint = Endpoint::from(uri).timeout(timeout).connect_timeout(timeout);
    let Some(ca) = &otlp.tls_ca else { return Ok((endpoint, metadata)) };
    let pem = std::fs::read(ca).map_err(|error| unusable(otlp, format!("{}: {error}", ca.display())))?;
    let tls = ClientTlsConfig::new().ca_certificate(Certificate::from_pem(pem));
    let endpoint = endpoint.tls_config(tls).map_err(|error| unusable(otlp, error.to_string()))?;
    Ok((endpoint, metadata))
}

fn http(otlp: &Otlp) -> Result<Http, TransportError> {
    let headers = otlp.http_headers().map_err(|name| no_header(otlp, name, "header of HTTP"))?;
    let uri = uri(otlp)?;
    let tls = tls(otlp, &uri)?;
    Ok(Http { uri, headers, tls })
}

fn uri(otlp: &Otlp) -> Result<Uri, TransportError> {
    otlp.uri().ok_or_else(|| unusable(otlp, "it is no http or https URL".into()))
}

fn tls(otlp: &Otlp, uri: &Uri) -> Result<Option<Tls>, TransportError> {
    let source = |source| TransportError::Tls { endpoint: otlp.endpoint.clone(), source };
    let host = uri.host().unwrap_or_default();
    otlp.tls_ca.as_deref().map(|ca: &Path| Tls::new(host, ca)).transpose().map_err(source)
}

/// The value may be a secret.
fn no_header(otlp: &Otlp, name: &str, what: &str) -> TransportError {
    unusable(otlp, format!("`{name}` of `headers` is no {what}, or its value is none"))
}

fn unusable(otlp: &Otlp, reason: String) -> TransportError {
    TransportError::Unusable { endpoint: otlp.endpoint.clone(), reason }
}

impl Grpc {
    async fn send(&self, signal: Signal, request: &Bytes) -> Outcome {
        let channel = self.channel.clone();
        let request = request.clone();
        let sent = async {
            match signal {
                Signal::Traces => {
                    let request = ExportTraceServiceRequest::decode(request);
                    let request = self.with_metadata(request.expect("encoded by this program"));
                    let answer = TraceServiceClient::new(channel).export(request).await?;
                    Ok(rejected_spans(answer.get_ref()))
                }
                Signal::Metrics => {
                    let request = ExportMetricsServiceRequest::decode(request);
                    let request = self.with_metadata(request.expect("encoded by this program"));
                    let answer = MetricsServiceClient::new(channel).export(request).await?;
                    Ok(rejected_points(answer.get_ref()))
                }
            }
        };
        // tonic panics at a status whose details are not base64.
        match AssertUnwindSafe(sent).catch_unwind().await {
            Ok(Ok(refused)) => Outcome::Taken { refused },
            Ok(Err(status)) => of_status(&status),
            Err(_) => Outcome::Refused("its status is malformed".into()),
        }
    }

    fn with_metadata<T>(&self, request: T) -> tonic::Request<T> {
        let mut request = tonic::Request::new(request);
        *request.metadata_mut() = self.metadata.clone();
        request
    }
}

fn of_status(status: &tonic::Status) -> Outcome {
    let why = format!("{:?}: {}", status.code(), status.message());
    let given = status.get_details_retry_info().map(|info| info.retry_delay.unwrap_or_default());
    let delay = given.unwrap_or_default();
    // A status with a source is this side's: the server sent none, as its connection broke, or ended by GOAWAY.
    let mut source = status.source();
    if source.is_some() {
        let mut whole = why;
        // What it is about, such as a certificate, is at the end.
        while let Some(error) = source {
            whole = format!("{whole}: {error}");
            source = error.source();
        }
        return Outcome::Later(delay, whole);
    }
    if CUT_OFF.iter().any(|begin| status.message().starts_with(begin)) {
        return Outcome::Later(delay, why);
    }
    match status.code() {
        Code::Cancelled
        | Code::DeadlineExceeded
        | Code::Aborted
        | Code::OutOfRange
        | Code::Unavailable
        | Code::DataLoss => Outcome::Later(delay, why),
        // Only where the server expects to recover.
        Code::ResourceExhausted if given.is_some() => Outcome::Later(delay, why),
        _ => Outcome::Refused(why),
    }
}

fn rejected_spans(response: &ExportTraceServiceResponse) -> u64 {
    let refused = response.partial_success.as_ref().map_or(0, |partial| partial.rejected_spans);
    u64::try_from(refused).unwrap_or_default()
}

fn rejected_points(response: &ExportMetricsServiceResponse) -> u64 {
    let refused = response.partial_success.as_ref().map_or(0, |partial| partial.rejected_data_points);
    u64::try_from(refused).unwrap_or_default()
}

impl Http {
    async fn send(&self, signal: Signal, request: &Bytes) -> Outcome {
        let path = format!("{}/{}", self.uri.path().trim_end_matches('/'), signal.path());
        let mut post = Request::post(path).header(header::CONTENT_TYPE, "application/x-protobuf");
        for (name, value) in &self.headers {
            post = post.header(name, value);
        }
        let has_tls = self.tls.is_some();
        let usual = if has_tls { 443 } else { 80 };
        let server = (self.uri.host().unwrap_or_default(), self.uri.port_u16().unwrap_or(usual));
        let body = request.to_vec();
        match outbound::exchange(
            server,
            self.tls.as_ref(),
            post,
            body,
            Some(&Allowance::of(ANSWER_BYTES_MAX)),
        )
        .await
        {
            Ok(answer) => of_answer(signal, answer.status, answer.retry_after.as_deref(), &answer.body),
            Err(error) => Outcome::Later(Duration::ZERO, error.to_string()),
        }
    }
}

fn of_answer(signal: Signal, status: StatusCode, retry_after: Option<&str>, body: &[u8]) -> Outcome {
    if status.is_success() {
        // What cannot be read has no refusal that could be counted.
        let refused = match signal {
            Signal::Traces => rejected_spans(&ExportTraceServiceResponse::decode(body).unwrap_or_default()),
            Signal::Metrics => {
                rejected_points(&ExportMetricsServiceResponse::decode(body).unwrap_or_default())
            }
        };
        return Outcome::Taken { refused };
    }
    match status.as_u16() {
        429 | 502 | 503 | 504 => {
            Outcome::Later(retry_after.and_then(delay).unwrap_or_default(), status.to_string())
        }
        _ => Outcome::Refused(status.to_string()),
    }
}

/// The time of `Retry-After` (RFC 9110 section 10.2.3): seconds, or a date.
fn delay(retry_after: &str) -> Option<Duration> {
    let seconds = retry_after.trim().parse().map(Duration::from_secs).ok();
    seconds.or_else(|| {
        let date = httpdate::parse_http_date(retry_after).ok()?;
        Some(date.duration_since(std::time::SystemTime::now()).unwrap_or_default())
    })
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use opentelemetry_proto::tonic::collector::{
        metrics::v1::ExportMetricsPartialSuccess, trace::v1::ExportTracePartialSuccess,
    };
    use rcgen::{CertificateParams, DnType, KeyPair};
    use rustls::{ServerConfig, crypto::ring, pki_types::PrivateKeyDer};
    use tokio::{
        io::{AsyncReadExt as _, AsyncWriteExt as _, copy, sink},
        net::TcpListener,
    };
    use tokio_rustls::TlsAcceptor;
    use tonic_types::ErrorDetails;

    use super::*;

    #[test]
    fn answers_of_http_are_read_as_otlp_has_them() {
        let of = |status: u16, retry_after| {
            of_answer(Signal::Traces, StatusCode::from_u16(status).expect("status"), retry_after, b"")
        };
        let longest = u64::MAX.to_string();
        for (status, after, delay) in [
            (429, Some("7"), Duration::from_secs(7)),
            (503, Some(&*longest), Duration::from_secs(u64::MAX)),
            (503, Some("Sun, 06 Nov 1994 08:49:37 GMT"), Duration::ZERO),
            (502, Some("soon"), Duration::ZERO),
            (504, None, Duration::ZERO),
        ] {
            assert!(matches!(of(status, after), Outcome::Later(found, _) if found == delay), "{status}");
        }
        assert_eq!(of(200, None), Outcome::Taken { refused: 0 });
        for status in [400, 401, 404, 413, 500, 501] {
            assert!(matches!(of(status, Some("7")), Outcome::Refused(_)), "{status}");
        }
        let partial = ExportTracePartialSuccess { rejected_spans: 3, error_message: "no".into() };
        let body = ExportTraceServiceResponse { partial_success: Some(partial) }.encode_to_vec();
        assert_eq!(of_answer(Signal::Traces, StatusCode::OK, None, &body), Outcome::Taken { refused: 3 });
        let partial = ExportMetricsPartialSuccess { rejected_data_points: 4, error_message: "no".into() };
        let body = ExportMetricsServiceResponse { partial_success: Some(partial) }.encode_to_vec();
        assert_eq!(of_answer(Signal::Metrics, StatusCode::OK, None, &body), Outcome::Taken { refused: 4 });
    }

    #[test]
    fn codes_of_grpc_are_read_as_otlp_has_them() {
        let is_later = |status: &tonic::Status, after| matches!(of_status(status), Outcome::Later(delay, _) if delay == after);
        for code in [Code::Unavailable, Code::Aborted, Code::DataLoss, Code::OutOfRange] {
            assert!(is_later(&tonic::Status::new(code, ""), Duration::ZERO), "{code}");
        }
        for code in [
            Code::InvalidArgument,
            Code::Unauthenticated,
            Code::ResourceExhausted,
            Code::Internal,
            Code::Unknown,
        ] {
            let outcome = of_status(&tonic::Status::new(code, ""));
            assert!(matches!(outcome, Outcome::Refused(_)), "{outcome:?}");
        }
        for (given, after) in [(Some(Duration::from_secs(3)), Duration::from_secs(3)), (None, Duration::ZERO)]
        {
            let details = ErrorDetails::with_retry_info(given);
            let full = tonic::Status::with_error_details(Code::ResourceExhausted, "full", details);
            assert!(is_later(&full, after), "{given:?}");
        }
        // As it is where tonic has no server: code and cause are not known.
        let broken = tonic::Status::from_error(Box::new(std::io::Error::other("reset")));
        assert!(broken.code() == Code::Unknown && is_later(&broken, Duration::ZERO), "{broken:?}");
    }

    /// What becomes of a request to a server that answers by these bytes (after the request, over HTTP/2), and closes the connection.
    async fn answered(protocol: Protocol, bytes: Vec<u8>) -> Outcome {
        const DATA: u8 = 0;
        const END_STREAM: u8 = 1;
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("bound");
        let endpoint = format!("http://{}", listener.local_addr().expect("address"));
        let server = async move {
            let (mut stream, _) = listener.accept().await.expect("connected");
            let mut is_whole = false;
            if protocol == Protocol::Grpc {
                stream.read_exact(&mut [0; 24]).await.expect("the preface");
                stream.write_all(&frame(4, 0, 0, &[])).await.expect("settings");
            } else {
                stream.read_u8().await.expect("a request");
                is_whole = true;
            }
            while !is_whole {
                let mut head = [0; 9];
                stream.read_exact(&mut head).await.expect("a frame");
                let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
                stream.read_exact(&mut vec![0; length as usize]).await.expect("its payload");
                is_whole = head[3] == DATA && head[4] & END_STREAM != 0;
            }
            stream.write_all(&bytes).await.expect("written");
            stream.shutdown().await.expect("closed");
            // What is not read would reset the connection. The other end may have closed it before.
            let _ = copy(&mut stream, &mut sink()).await;
        };
        let client = async {
            let otlp = Otlp { endpoint, protocol, ..Otlp::default() };
            let transport = Transport::new(&otlp).expect("a destination");
            let request = Bytes::from(ExportTraceServiceRequest::default().encode_to_vec());
            transport.send(Signal::Traces, &request, Duration::from_mins(1)).await
        };
        tokio::spawn(server);
        client.await
    }

    /// A frame of HTTP/2 (RFC 9113 section 4.1).
    fn frame(kind: u8, flags: u8, stream: u8, payload: &[u8]) -> Vec<u8> {
        let length = u8::try_from(payload.len()).expect("short");
        [[0, 0, length, kind, flags, 0, 0, 0, stream].as_slice(), payload].concat()
    }

    #[tokio::test]
    async fn a_connection_that_ends_before_the_status_is_no_refusal() {
        let status_200 = frame(1, 4, 1, &[0x88]);
        let reset = |reason| frame(3, 0, 1, &[0, 0, 0, reason]);
        for (what, bytes) in [
            ("nothing", Vec::new()),
            ("GOAWAY NO_ERROR", frame(7, 0, 0, &[0; 8])),
            ("GOAWAY INTERNAL_ERROR", frame(7, 0, 0, &[0, 0, 0, 0, 0, 0, 0, 2])),
            ("RST_STREAM NO_ERROR", reset(0)),
            ("RST_STREAM INTERNAL_ERROR", reset(2)),
            ("a header", status_200.clone()),
            ("a header, RST_STREAM NO_ERROR", [status_200.clone(), reset(0)].concat()),
            (
                "a header, a part of a message, RST_STREAM NO_ERROR",
                [status_200.clone(), frame(0, 0, 1, &[0, 0, 0, 0, 9, 1]), reset(0)].concat(),
            ),
        ] {
            let outcome = answered(Protocol::Grpc, bytes).await;
            assert!(matches!(outcome, Outcome::Later(Duration::ZERO, _)), "{what}: {outcome:?}");
        }
        for bytes in ["", "HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\n"] {
            let outcome = answered(Protocol::Http, bytes.into()).await;
            assert!(matches!(outcome, Outcome::Later(Duration::ZERO, _)), "{bytes}: {outcome:?}");
        }
    }

    #[tokio::test]
    async fn a_certificate_of_another_authority_is_named_as_the_reason() {
        let issue = |name| {
            let mut parameters = CertificateParams::new(["127.0.0.1".to_owned()]).expect("a name");
            parameters.distinguished_name.push(DnType::CommonName, name);
            let key = KeyPair::generate().expect("a key");
            (parameters.self_signed(&key).expect("issued"), key)
        };
        let ((own, key), (other, _)) = (issue("own"), issue("other"));
        let directory = tempfile::tempdir().expect("directory");
        let ca = directory.path().join("ca.pem");
        std::fs::write(&ca, other.pem()).expect("written");
        let key = PrivateKeyDer::try_from(key.serialize_der()).expect("a key");
        let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .expect("versions")
            .with_no_client_auth()
            .with_single_cert(vec![own.der().clone()], key)
            .expect("a pair");
        let acceptor = TlsAcceptor::from(Arc::new(config));
        for protocol in [Protocol::Grpc, Protocol::Http] {
            let listener = TcpListener::bind("127.0.0.1:0").await.expect("bound");
            let endpoint = format!("https://{}", listener.local_addr().expect("address"));
            let acceptor = acceptor.clone();
            tokio::spawn(async move {
                let (stream, _) = listener.accept().await.expect("connected");
                acceptor.accept(stream).await.expect_err("refused by the client");
            });
            let otlp = Otlp { endpoint, protocol, tls_ca: Some(ca.clone()), ..Otlp::default() };
            let transport = Transport::new(&otlp).expect("a destination");
            let request = Bytes::from(ExportTraceServiceRequest::default().encode_to_vec());
            let outcome = transport.send(Signal::Traces, &request, Duration::from_mins(1)).await;
            let Outcome::Later(_, why) = outcome else { panic!("{outcome:?}") };
            assert!(why.contains("invalid peer certificate: UnknownIssuer"), "{protocol:?}: {why}");
        }
    }

    #[tokio::test]
    async fn a_status_with_malformed_details_is_a_refusal() {
        let field = |name: &str, value: &str| {
            let length = |text: &str| u8::try_from(text.len()).expect("short");
            let text = |text: &str| [[length(text)].as_slice(), text.as_bytes()].concat();
            [vec![0], text(name), text(value)].concat()
        };
        let fields = [vec![0x88], field("grpc-status", "14"), field("grpc-status-details-bin", "!")].concat();
        let outcome = answered(Protocol::Grpc, frame(1, 5, 1, &fields)).await;
        assert!(matches!(outcome, Outcome::Refused(_)), "{outcome:?}");
    }
}
