//! Lists and watches of Kubernetes' API (Kubernetes documentation, "API concepts": retrieving large results in chunks, efficient
//! detection of changes), with a service account's token.

use std::{
    fs::File,
    io::{self, Read as _},
    path::PathBuf,
    time::Duration,
};

use hyper::{Request, StatusCode, header, http::request::Builder};
use serde::{Deserialize, de::DeserializeOwned};
use thiserror::Error;

use super::objects::{Key, Kind, Object, Wire};
use crate::{
    config::kubernetes::{Address, Kubernetes},
    outbound::{self, OutboundError, Tls, TlsError},
};

/// Objects in one page of a list.
const PAGE: usize = 250;

/// Largest page, bytes: objects of 100 kB each.
const PAGE_BYTES_MAX: usize = 25 << 20;

/// Most pages of a list.
const PAGES_MAX: usize = 1_000;

/// Longest event of a watch, bytes: an object has 1.5 MiB at most.
const EVENT_BYTES_MAX: usize = 2 << 20;

/// Longest time for a page, and for a watch's answer to begin.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);

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
    /// The configured one. The settings were checked.
    pub fn new(config: &Kubernetes) -> Self {
        let address = config.address().unwrap_or_default();
        Self { address, ca: config.ca.clone(), token_file: config.token_file.clone() }
    }

    /// All objects of a kind, and the version of the list.
    pub async fn list(&self, kind: Kind) -> Result<(Vec<Object>, String), ClientError> {
        let (mut objects, mut next) = (Vec::new(), String::new());
        for _ in 0..PAGES_MAX {
            let page: List = self
                .page(&format!("/api/v1/{}?limit={PAGE}&continue={}", kind.plural(), encoded(&next)))
                .await?;
            // Those that the table has room for, and one that shows that there are more.
            let room = (super::table::OBJECTS_MAX + 1).saturating_sub(objects.len());
            objects.extend(page.items.into_iter().filter_map(|wire| wire.object(kind)).take(room));
            next = page.metadata.r#continue;
            if next.is_empty() {
                return Ok((objects, page.metadata.resource_version));
            }
        }
        Err(ClientError::Malformed(format!("a list has more than {PAGES_MAX} pages")))
    }

    async fn page<T: DeserializeOwned + Send + 'static>(&self, target: &str) -> Result<T, ClientError> {
        let (tls, request) = (self.tls()?, self.request(target)?);
        let server = (&*self.address.host, self.address.port);
        let answer = outbound::exchange(server, Some(&tls), request, Vec::new(), Some(PAGE_BYTES_MAX));
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
        let mut line = Vec::new();
        while let Some(bytes) = answer.next().await {
            let mut rest = &*bytes?;
            while let Some(end) = rest.iter().position(|byte| *byte == b'\n') {
                line.extend_from_slice(&rest[..end]);
                rest = &rest[end + 1..];
                if !line.is_empty() {
                    if let Some(change) = event(&line, kind, version)? {
                        report(change);
                    }
                    line.clear();
                }
            }
            line.extend_from_slice(rest);
            if line.len() > EVENT_BYTES_MAX {
                return Err(ClientError::Malformed(format!(
                    "an event has more than {EVENT_BYTES_MAX} bytes"
                )));
            }
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
