//! Lists and watches of Kubernetes' API (Kubernetes documentation, "API concepts": retrieving large results in chunks, efficient
//! detection of changes), with a service account's token.

use std::{
    fs::File,
    io::{self, Read as _},
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use hyper::{Request, StatusCode, header, http::request::Builder};
use serde::{Deserialize, de::DeserializeOwned};
use thiserror::Error;
use tokio::sync::Semaphore;

use super::objects::{Key, Kind, Object, Wire};
use crate::{
    config::kubernetes::{Address, Kubernetes},
    outbound::{self, Allowance, OutboundError, Tls, TlsError},
};

/// Objects in one page of a list.
const PAGE: usize = 250;

/// Largest page, bytes: objects of 100 kB each. One of larger objects is requested again with fewer of them: tenants fill annotations. One
/// object has room: of it etcd takes 1.5 MiB, which escapes make 9 MiB of JSON at most.
const PAGE_BYTES_MAX: usize = 25 << 20;

/// Most requests for a list.
const REQUESTS_MAX: usize = 4_000;

/// Longest event of a watch, bytes: an object has 1.5 MiB at most, without escapes. A longer one is left out.
const EVENT_BYTES_MAX: usize = 2 << 20;

/// Longest time for a page, and for a watch's answer to begin.
pub(super) const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);

/// When the server ends a watch.
const WATCH_SECONDS: u64 = 290;

/// A watch that has not ended by then is broken.
const WATCH_TIMEOUT: Duration = Duration::from_secs(WATCH_SECONDS + 30);

/// Largest token, bytes.
const TOKEN_BYTES_MAX: u64 = 16 << 10;

/// Why the API cannot be followed.
#[derive(Debug, Error)]
pub enum ClientError {
    /// The token cannot be used.
    #[error("{path}: {source}")]
    Token {
        /// Its file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// The authorities cannot be used.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// The exchange with the server failed.
    #[error(transparent)]
    Exchange(#[from] OutboundError),
    /// It took too long.
    #[error("there was no answer in time")]
    Deadline,
    /// The server refused.
    #[error("the server answered {0}")]
    Status(StatusCode),
    /// The answer is something else, or larger than it may be.
    #[error("the answer cannot be used: {0}")]
    Malformed(String),
    /// The server has forgotten what was seen last: list again.
    #[error("the watch has expired")]
    Expired,
}

/// What a watch reports.
#[derive(Debug)]
pub enum Change {
    /// An object is there, new or changed.
    Is(Object),
    /// An object is gone.
    Gone(Key),
}

/// The cluster's API.
#[derive(Debug)]
pub struct Server {
    address: Address,
    ca: PathBuf,
    token_file: PathBuf,
    /// Kinds are listed one after the other: the pages of one are in memory.
    lists: Arc<Semaphore>,
}

#[derive(Deserialize)]
struct List {
    #[serde(default)]
    metadata: ListMetadata,
    items: Vec<Wire>,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct ListMetadata {
    resource_version: String,
    r#continue: String,
}

/// What an event is; its object is read when that is known.
#[derive(Deserialize)]
struct EventKind {
    r#type: String,
}

#[derive(Deserialize)]
struct Event<O> {
    object: O,
}

/// The object of an event that is an error.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Failure {
    code: u16,
    message: String,
}

impl Server {
    /// The configured one. The settings were checked. A list waits for its turn.
    pub fn new(config: &Kubernetes, lists: Arc<Semaphore>) -> Self {
        let address = config.address().unwrap_or_default();
        Self { address, ca: config.ca.clone(), token_file: config.token_file.clone(), lists }
    }

    /// All objects of a kind, and the version of the list.
    pub async fn list(&self, kind: Kind) -> Result<(Vec<Object>, String), ClientError> {
        // It is never closed.
        let _turn = self.lists.acquire().await;
        let (mut objects, mut next, mut limit) = (Vec::new(), String::new(), PAGE);
        for _ in 0..REQUESTS_MAX {
            let target = format!("/api/v1/{}?limit={limit}&continue={}", kind.plural(), encoded(&next));
            let page: List = match self.page(&target).await {
                Err(ClientError::Exchange(OutboundError::Answer(_))) if limit > 1 => {
                    limit /= 2;
                    continue;
                }
                page => page?,
            };
            limit = (limit * 2).min(PAGE);
            // Those that the table has room for, and one that shows that there are more.
            let room = (super::table::OBJECTS_MAX + 1).saturating_sub(objects.len());
            objects.extend(page.items.into_iter().filter_map(|wire| wire.object(kind)).take(room));
            next = page.metadata.r#continue;
            if next.is_empty() {
                return Ok((objects, page.metadata.resource_version));
            }
        }
        Err(ClientError::Malformed(format!("a list takes more than {REQUESTS_MAX} requests")))
    }

    async fn page<T: DeserializeOwned + Send + 'static>(&self, target: &str) -> Result<T, ClientError> {
        let (tls, request) = (self.tls()?, self.request(target)?);
        let server = (&*self.address.host, self.address.port);
        let most = Allowance::of(PAGE_BYTES_MAX);
        let answer = outbound::exchange(server, Some(&tls), request, Vec::new(), Some(&most));
        let answer =
            tokio::time::timeout(ANSWER_TIMEOUT, answer).await.map_err(|_| ClientError::Deadline)??;
        if answer.status == StatusCode::GONE {
            return Err(ClientError::Expired);
        }
        if !answer.status.is_success() {
            return Err(ClientError::Status(answer.status));
        }
        let decoded = tokio::task::spawn_blocking(move || serde_json::from_slice(&answer.body));
        let malformed = |error: String| ClientError::Malformed(error);
        decoded
            .await
            .map_err(|error| malformed(error.to_string()))?
            .map_err(|error| malformed(error.to_string()))
    }

    /// Reports changes after a version, which becomes that of the last one, until the server ends the watch.
    pub async fn watch(
        &self,
        kind: Kind,
        version: &mut String,
        report: impl FnMut(Change),
    ) -> Result<(), ClientError> {
        let target = format!(
            "/api/v1/{}?watch=1&allowWatchBookmarks=true&timeoutSeconds={WATCH_SECONDS}&resourceVersion={}",
            kind.plural(),
            encoded(version)
        );
        let watch = Box::pin(self.changes(&target, kind, version, report));
        tokio::time::timeout(WATCH_TIMEOUT, watch).await.map_err(|_| ClientError::Deadline)?
    }

    async fn changes(
        &self,
        target: &str,
        kind: Kind,
        version: &mut String,
        mut report: impl FnMut(Change),
    ) -> Result<(), ClientError> {
        let (tls, request) = (self.tls()?, self.request(target)?);
        let server = (&*self.address.host, self.address.port);
        let opened = outbound::open(server, &tls, request);
        let mut answer =
            tokio::time::timeout(ANSWER_TIMEOUT, opened).await.map_err(|_| ClientError::Deadline)??;
        match answer.status {
            StatusCode::GONE => return Err(ClientError::Expired),
            status if !status.is_success() => return Err(ClientError::Status(status)),
            _ => {}
        }
        let mut lines = Lines::default();
        while let Some(bytes) = answer.next().await {
            lines.take(&bytes?, |line| {
                if let Some(change) = event(line, kind, version)? {
                    report(change);
                }
                Ok(())
            })?;
        }
        Ok(())
    }

    /// The authorities, which the cluster may replace.
    fn tls(&self) -> Result<Tls, ClientError> {
        Ok(Tls::new(&self.address.host, &self.ca)?)
    }

    /// A request with the token, which the cluster replaces every hour.
    fn request(&self, target: &str) -> Result<Builder, ClientError> {
        let unusable = |source| ClientError::Token { path: self.token_file.clone(), source };
        let mut token = String::new();
        File::open(&self.token_file)
            .and_then(|file| file.take(TOKEN_BYTES_MAX).read_to_string(&mut token))
            .map_err(unusable)?;
        let mut token = header::HeaderValue::try_from(format!("Bearer {}", token.trim()))
            .map_err(|_| unusable(io::Error::from(io::ErrorKind::InvalidData)))?;
        token.set_sensitive(true);
        Ok(Request::get(target)
            .header(header::AUTHORIZATION, token)
            .header(header::ACCEPT, "application/json"))
    }
}

/// Lines of bytes that come in pieces. Those that are too long are left out.
#[derive(Debug, Default)]
struct Lines {
    begun: Vec<u8>,
    is_too_long: bool,
}

impl Lines {
    fn take(
        &mut self,
        mut bytes: &[u8],
        mut each: impl FnMut(&[u8]) -> Result<(), ClientError>,
    ) -> Result<(), ClientError> {
        while let Some(end) = bytes.iter().position(|byte| *byte == b'\n') {
            self.add(&bytes[..end]);
            bytes = &bytes[end + 1..];
            let Self { begun, is_too_long } = std::mem::take(self);
            if is_too_long {
                tracing::warn!(
                    bytes_max = EVENT_BYTES_MAX,
                    "the change of an object of the cluster is left out: it is too long"
                );
            } else if !begun.is_empty() {
                each(&begun)?;
            }
        }
        self.add(bytes);
        Ok(())
    }

    fn add(&mut self, bytes: &[u8]) {
        self.is_too_long |= self.begun.len() + bytes.len() > EVENT_BYTES_MAX;
        if self.is_too_long {
            self.begun = Vec::new();
        } else {
            self.begun.extend_from_slice(bytes);
        }
    }
}

fn encoded(text: &str) -> percent_encoding::PercentEncode<'_> {
    percent_encoding::utf8_percent_encode(text, percent_encoding::NON_ALPHANUMERIC)
}

/// What an event reports; the version becomes its object's.
fn event(line: &[u8], kind: Kind, version: &mut String) -> Result<Option<Change>, ClientError> {
    let malformed = |error: serde_json::Error| ClientError::Malformed(error.to_string());
    let EventKind { r#type } = serde_json::from_slice(line).map_err(malformed)?;
    if r#type == "ERROR" {
        let Event { object: Failure { code, message } } = serde_json::from_slice(line).map_err(malformed)?;
        let message = message.replace(char::is_control, " ");
        return Err(if code == 410 { ClientError::Expired } else { ClientError::Malformed(message) });
    }
    let Event::<Wire> { object } = serde_json::from_slice(line).map_err(malformed)?;
    *version = object.metadata.resource_version.to_string();
    Ok(match &*r#type {
        "ADDED" | "MODIFIED" => object.object(kind).map(Change::Is),
        "DELETED" => object.object(kind).map(|object| Change::Gone(object.key)),
        // A bookmark has a version alone.
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_that_is_too_long_is_left_out_and_the_next_is_read() {
        let (mut lines, mut read) = (Lines::default(), Vec::new());
        let long = vec![b'x'; EVENT_BYTES_MAX / 2 + 1];
        let most = vec![b'y'; EVENT_BYTES_MAX];
        for piece in
            [&b"a\n\nb"[..], b"c\n", &long, &long, &long, b"\nd\n", &most, b"\n", &most, b"z", b"\ne"]
        {
            lines
                .take(piece, |line| {
                    read.push((line[0], line.len()));
                    Ok(())
                })
                .expect("read");
            assert!(lines.begun.len() <= EVENT_BYTES_MAX);
        }
        assert_eq!(read, [(b'a', 1), (b'b', 2), (b'd', 1), (b'y', EVENT_BYTES_MAX)]);
        assert_eq!(lines.begun, b"e");
        assert!(lines.take(b"\n", |_| Err(ClientError::Expired)).is_err());
    }

    #[test]
    fn events_change_objects_and_the_version() {
        let mut version = "1".to_owned();
        let mut read = |line: &str| {
            let change = event(line.as_bytes(), Kind::Services, &mut version);
            (change.map(|change| format!("{change:?}")).map_err(|error| error.to_string()), version.clone())
        };
        let service = |kind: &str, version: u32| {
            format!(
                "{{\"type\":\"{kind}\",\"object\":{{\"metadata\":{{\"name\":\"db\",\"namespace\":\"shop\",\"resourceVersion\":\"{version}\"}},\
                 \"spec\":{{\"clusterIPs\":[\"10.96.0.7\"]}}}}}}"
            )
        };
        let (change, at) = read(&service("ADDED", 5));
        assert!(change.is_ok_and(|change| change.contains("10.96.0.7")) && at == "5");
        let (change, at) = read(&service("DELETED", 6));
        assert!(change.is_ok_and(|change| change.contains("Gone")) && at == "6");
        let (change, at) = read(r#"{"type":"BOOKMARK","object":{"metadata":{"resourceVersion":"9"}}}"#);
        assert_eq!((change.as_deref(), &*at), (Ok("None"), "9"));
        let (change, _) = read(r#"{"type":"ERROR","object":{"code":410,"message":"too old"}}"#);
        assert_eq!(change, Err(ClientError::Expired.to_string()));
        for line in ["", "{}", r#"{"type":"ADDED","object":3}"#, r#"{"type":"ERROR","object":{"code":500}}"#]
        {
            assert!(read(line).0.is_err(), "{line}");
        }
    }
}
