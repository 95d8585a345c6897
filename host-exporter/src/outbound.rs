//! Requests that the exporter sends: one connection each, answers of bounded size.

use std::{
    io,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use axum::body::Body;
use http_body_util::BodyExt as _;
use hyper::{
    Request, StatusCode,
    body::{Bytes, Frame, Incoming},
    header,
    http::request::Builder,
};
use hyper_util::rt::TokioIo;
use rustls::{
    ClientConfig, RootCertStore,
    pki_types::{CertificateDer, ServerName, pem::PemObject as _},
};
use thiserror::Error;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
    task::JoinHandle,
};
use tokio_rustls::TlsConnector;

use crate::http_url::HttpUrl;

/// Why there is no answer.
#[derive(Debug, Error)]
pub enum OutboundError {
    /// No process listens there, or the handshake of TLS failed.
    #[error("it cannot be reached: {0}")]
    Connect(#[from] io::Error),
    /// The exchange broke off, before the answer or within it.
    #[error("the request failed: {0}")]
    Http(#[from] hyper::Error),
    /// The answer is longer than allowed.
    #[error("its answer is longer than {0} bytes")]
    Answer(usize),
}

/// Authorities that cannot be used.
#[derive(Debug, Error)]
#[error("{path}: {reason}")]
pub struct TlsError {
    path: String,
    reason: String,
}

/// How a server's certificate is verified.
#[derive(Clone)]
pub struct Tls {
    connector: TlsConnector,
    name: ServerName<'static>,
}

impl Tls {
    /// For a server of this name, whose certificate is of one of these authorities.
    pub fn new(host: &str, authorities: &Path) -> Result<Self, TlsError> {
        let unusable = |reason: String| TlsError { path: authorities.display().to_string(), reason };
        let mut roots = RootCertStore::empty();
        let certificates = CertificateDer::pem_file_iter(authorities);
        for certificate in certificates.map_err(|error| unusable(error.to_string()))? {
            let certificate = certificate.map_err(|error| unusable(error.to_string()))?;
            roots.add(certificate).map_err(|error| unusable(error.to_string()))?;
        }
        if roots.is_empty() {
            return Err(unusable("it has no certificate".to_owned()));
        }
        let name = ServerName::try_from(host.trim_matches(['[', ']']).to_owned());
        let name = name.map_err(|_| unusable(format!("`{host}` is no name of a server")))?;
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|error| unusable(error.to_string()))?
            .with_root_certificates(roots)
            .with_no_client_auth();
        Ok(Self { connector: TlsConnector::from(Arc::new(config)), name })
    }
}

/// What a server answered.
#[derive(Debug)]
pub struct Answer {
    /// Its status.
    pub status: StatusCode,
    /// Its `Retry-After`.
    pub retry_after: Option<String>,
    /// Its body.
    pub body: Vec<u8>,
}

/// Bytes that several things may have together.
#[derive(Debug)]
pub struct Allowance {
    all: usize,
    left: AtomicUsize,
}

impl Allowance {
    /// So many bytes.
    pub fn of(all: usize) -> Self {
        Self { all, left: AtomicUsize::new(all) }
    }

    /// Takes so many of what is left; whether there were as many.
    pub fn take(&self, bytes: usize) -> bool {
        let take = |left: usize| left.checked_sub(bytes);
        self.left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take).is_ok()
    }

    /// How many are taken.
    pub fn taken(&self) -> usize {
        self.all.saturating_sub(self.left.load(Ordering::Relaxed))
    }

    /// Gives back so many of those that were taken.
    pub fn give_back(&self, bytes: usize) {
        self.left.fetch_add(bytes, Ordering::Relaxed);
    }
}

/// Sends a request; its answer's status and, as far as the allowance goes, its body. Of an answer that is not wanted the body is not read.
pub async fn send(
    url: &HttpUrl,
    request: Builder,
    body: Vec<u8>,
    answer: Option<&Allowance>,
) -> Result<(StatusCode, Vec<u8>), OutboundError> {
    let answer = exchange((&url.host, url.port), None, request, body, answer).await?;
    Ok((answer.status, answer.body))
}

/// The same to a host and port, by TLS where there is one.
pub async fn exchange(
    server: (&str, u16),
    tls: Option<&Tls>,
    request: Builder,
    body: Vec<u8>,
    answer: Option<&Allowance>,
) -> Result<Answer, OutboundError> {
    let stream = connect(server).await?;
    let request = whole(server, request, body)?;
    match tls {
        Some(tls) => {
            let stream = tls.connector.connect(tls.name.clone(), stream).await?;
            exchange_on(stream, request, answer).await
        }
        None => exchange_on(stream, request, answer).await,
    }
}

/// An answer that is read as it comes. The connection ends with it.
#[derive(Debug)]
pub struct Streamed {
    /// Its status.
    pub status: StatusCode,
    body: Incoming,
    _connection: AbortOnDrop,
}

impl Streamed {
    /// The next bytes of its body; none at the end.
    pub async fn next(&mut self) -> Option<Result<Bytes, OutboundError>> {
        loop {
            match self.body.frame().await?.map(Frame::into_data) {
                Ok(Ok(bytes)) => return Some(Ok(bytes)),
                // Trailers.
                Ok(Err(_)) => {}
                Err(error) => return Some(Err(error.into())),
            }
        }
    }
}

/// Ends a task.
#[derive(Debug)]
struct AbortOnDrop(JoinHandle<()>);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Sends a request without a body, by TLS; its answer, of which the body is read as it comes.
pub async fn open(server: (&str, u16), tls: &Tls, request: Builder) -> Result<Streamed, OutboundError> {
    let stream = connect(server).await?;
    let request = whole(server, request, Vec::new())?;
    let stream = tls.connector.connect(tls.name.clone(), stream).await?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    let connection = tokio::spawn(async move {
        // The reader of the body gets the error.
        let _ = connection.await;
    });
    let connection = AbortOnDrop(connection);
    let (parts, body) = sender.send_request(request).await?.into_parts();
    Ok(Streamed { status: parts.status, body, _connection: connection })
}

async fn connect((host, port): (&str, u16)) -> io::Result<TcpStream> {
    TcpStream::connect((host.trim_matches(['[', ']']), port)).await
}

/// The request with what every one has.
fn whole((host, port): (&str, u16), request: Builder, body: Vec<u8>) -> io::Result<Request<Body>> {
    request
        .header(header::HOST, format!("{host}:{port}"))
        .header(header::CONNECTION, "close")
        .header(header::USER_AGENT, concat!("porthole-exporter/", env!("CARGO_PKG_VERSION")))
        .body(Body::from(body))
        .map_err(io::Error::other)
}

async fn exchange_on(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    request: Request<Body>,
    allowance: Option<&Allowance>,
) -> Result<Answer, OutboundError> {
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    let exchange = async move {
        let response = sender.send_request(request).await?;
        let status = response.status();
        let retry_after = response.headers().get(header::RETRY_AFTER);
        let retry_after = retry_after.and_then(|value| value.to_str().ok()).map(str::to_owned);
        let mut body = Vec::new();
        let Some(allowance) = allowance else { return Ok(Answer { status, retry_after, body }) };
        let mut frames = response.into_body();
        while let Some(frame) = frames.frame().await {
            // Else trailers.
            let Ok(data) = frame?.into_data() else { continue };
            if !allowance.take(data.len()) {
                return Err(OutboundError::Answer(allowance.all));
            }
            body.extend_from_slice(&data);
        }
        Ok(Answer { status, retry_after, body })
    };
    // The connection does the reading and writing that the exchange waits for, and ends with it.
    let (answer, _) = tokio::join!(exchange, connection);
    answer
}
