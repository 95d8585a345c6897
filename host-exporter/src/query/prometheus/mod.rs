//! Answers of a server with Prometheus' HTTP API (Prometheus documentation, "HTTP API").
//!
//! A question is several expressions, which are evaluated at the same time ([`over_time`], [`nodes`]). Bounded: [`QUESTIONS_AT_ONCE`]
//! questions, one of a tenant, the bytes of a question's answers ([`config::Exporter::prometheus_answer_bytes`]), what they are decoded to,
//! and the time of a question. An answer is decoded by a thread that may block, into the labels and numbers that are wanted and nothing else;
//! the next question has its turn when the page's answer is made of it.

pub mod nodes;
mod over_time;

use std::{borrow::Cow, collections::BTreeMap, fmt::Write as _, sync::Arc, time::Duration};

use hyper::{Request, StatusCode, header};
use parking_lot::Mutex;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde::{Deserialize, Deserializer, de::DeserializeOwned};
use thiserror::Error;
use tokio::sync::{AcquireError, OwnedSemaphorePermit, Semaphore};

use super::Selection;
use crate::{
    config,
    http_url::HttpUrl,
    outbound::{self, Allowance, OutboundError},
};

/// Questions that are put to the server at one time, of at most five expressions.
const QUESTIONS_AT_ONCE: usize = 2;

/// Times as many bytes as the answers may have they may be decoded to, with the points that are made of them. Most matrices and vectors
/// are decoded to three times as many.
const DECODED_FACTOR: usize = 4;

/// Parameters that other servers ignore: times that are not moved for its cache, and samples as soon as they are there.
const OF_VICTORIA_METRICS: [(&str, &str); 2] = [("nocache", "1"), ("latency_offset", "1s")];

/// Bytes of a server's explanation that are shown.
const REASON_BYTES_MAX: usize = 300;

/// Why there is no answer.
#[derive(Debug, Error)]
pub enum QueryError {
    /// The exchange with the server failed.
    #[error("the Prometheus server did not answer: {0}")]
    Exchange(#[from] OutboundError),
    /// It took too long.
    #[error("the Prometheus server did not answer in {} seconds", .0.as_secs_f64())]
    Deadline(Duration),
    /// What it would be decoded to does not fit.
    #[error("the Prometheus server's answer has too many series or points")]
    TooLarge,
    /// Points end at other times than were requested.
    #[error(
        "the Prometheus server's answer is of other times than were requested: what is in front of it must not align them (Thanos: \
         --no-query-range.align-range-with-step)"
    )]
    OtherTimes,
    /// The server refused.
    #[error("the Prometheus server answered {0}: {1}")]
    Status(StatusCode, String),
    /// The answer is something else.
    #[error("the Prometheus server's answer is no result of a query: {0}")]
    Malformed(String),
    /// The tenant's name cannot be sent in a header.
    #[error("the tenant's name cannot be the value of a header")]
    TenantName,
}

impl QueryError {
    /// The status of an answer that there is not for this reason.
    pub fn status(&self) -> StatusCode {
        match self {
            // By the server's own limit of time, or a proxy's.
            Self::Deadline(_)
            | Self::Status(StatusCode::SERVICE_UNAVAILABLE | StatusCode::GATEWAY_TIMEOUT, _) => {
                StatusCode::GATEWAY_TIMEOUT
            }
            // The expressions are valid: one that cannot be evaluated loads more samples than the server allows.
            Self::TooLarge
            | Self::Exchange(OutboundError::Answer(_))
            | Self::Status(StatusCode::UNPROCESSABLE_ENTITY, _) => StatusCode::INSUFFICIENT_STORAGE,
            Self::Exchange(_)
            | Self::Status(..)
            | Self::OtherTimes
            | Self::Malformed(_)
            | Self::TenantName => StatusCode::BAD_GATEWAY,
        }
    }
}

/// A server with Prometheus' HTTP API.
#[derive(Debug)]
pub struct Prometheus {
    url: HttpUrl,
    tenant_header: Option<String>,
    all_tenants: String,
    timeout: Duration,
    answer_bytes: usize,
    questions: Arc<Semaphore>,
    /// The turns of tenants that wait or have theirs; with no name, of questions about all.
    tenants: Mutex<BTreeMap<Option<String>, Arc<Semaphore>>>,
}

/// Its response, as far as it is read.
#[derive(Deserialize)]
struct Response<L> {
    data: Data<L>,
}

#[derive(Deserialize)]
struct Data<L> {
    result: Vec<Element<L>>,
}

/// A series of a matrix, or an element of a vector, with the labels that are wanted.
#[derive(Debug, Deserialize)]
struct Element<L> {
    metric: L,
    /// Of a matrix.
    #[serde(default)]
    values: Vec<Sample>,
    /// Of a vector.
    value: Option<Sample>,
}

/// Seconds since 1970, and the value then.
#[derive(Clone, Copy, Debug, Deserialize)]
struct Sample(f64, #[serde(deserialize_with = "number")] f64);

/// A number in a string, as the API writes values.
fn number<'de, D: Deserializer<'de>>(deserializer: D) -> Result<f64, D::Error> {
    let text = Cow::<'de, str>::deserialize(deserializer)?;
    text.parse().map_err(serde::de::Error::custom)
}

/// The right to put a question, and what its answers may take. It ends when all that is made of them is done.
struct Turn {
    _permits: [OwnedSemaphorePermit; 2],
    answers: Allowance,
    decoded: Allowance,
}

impl Prometheus {
    /// The configured one; none without a URL. The settings were checked.
    pub fn new(settings: &config::Exporter) -> Option<Self> {
        let url = settings.prometheus_url.as_deref().and_then(HttpUrl::parse)?;
        Some(Self {
            url: HttpUrl { target: url.target.trim_end_matches('/').to_owned(), ..url },
            tenant_header: settings.prometheus_tenant_header.clone(),
            all_tenants: settings.prometheus_all_tenants.clone(),
            timeout: config::seconds(settings.prometheus_timeout_seconds),
            answer_bytes: settings.prometheus_answer_bytes(),
            questions: Arc::new(Semaphore::new(QUESTIONS_AT_ONCE)),
            tenants: Mutex::default(),
        })
    }

    /// Puts a question about a tenant, or about all, when it is its turn, until the deadline.
    async fn question<T>(
        &self,
        tenant: Option<&str>,
        put: impl AsyncFnOnce(&Arc<Turn>) -> Result<T, QueryError>,
    ) -> Result<T, QueryError> {
        let put = async {
            // It is never closed; without a turn there is no answer in time.
            let Ok(turn) = self.turn(tenant).await else { return std::future::pending().await };
            put(&Arc::new(turn)).await
        };
        tokio::time::timeout(self.timeout, put).await.map_err(|_| QueryError::Deadline(self.timeout))?
    }

    /// A tenant's turn, and then one of all: the questions of one tenant wait for each other.
    async fn turn(&self, tenant: Option<&str>) -> Result<Turn, AcquireError> {
        let of_tenant = {
            let mut tenants = self.tenants.lock();
            tenants.retain(|_, turn| Arc::strong_count(turn) > 1);
            let turn = tenants.entry(tenant.map(str::to_owned));
            Arc::clone(turn.or_insert_with(|| Arc::new(Semaphore::new(1))))
        };
        let of_tenant = of_tenant.acquire_owned().await?;
        Ok(Turn {
            _permits: [of_tenant, Arc::clone(&self.questions).acquire_owned().await?],
            answers: Allowance::of(self.answer_bytes),
            decoded: Allowance::of(self.answer_bytes.saturating_mul(DECODED_FACTOR)),
        })
    }

    /// The result of one expression of a question: `path` of the API with these parameters.
    async fn evaluate<L: DeserializeOwned + Send + 'static>(
        &self,
        turn: &Arc<Turn>,
        selection: &Selection,
        path: &str,
        parameters: &[(&str, &str)],
    ) -> Result<Vec<Element<L>>, QueryError> {
        let mut request = Request::post(format!("{}/api/v1/{path}", self.url.target))
            .header(header::CONTENT_TYPE, "application/x-www-form-urlencoded");
        if let Some(name) = &self.tenant_header {
            let tenant = selection.tenant.as_deref().unwrap_or(&self.all_tenants);
            let tenant =
                header::HeaderValue::from_bytes(tenant.as_bytes()).map_err(|_| QueryError::TenantName)?;
            request = request.header(name, tenant);
        }
        let body = form(&[parameters, &OF_VICTORIA_METRICS].concat()).into_bytes();
        // On the heap: several are on their way at once.
        let sent = Box::pin(outbound::send(&self.url, request, body, Some(&turn.answers)));
        let (status, body) = sent.await?;
        if !status.is_success() {
            let reason = String::from_utf8_lossy(&body[..body.len().min(REASON_BYTES_MAX)]);
            return Err(QueryError::Status(status, reason.replace(char::is_control, " ")));
        }
        let turn = Arc::clone(turn);
        let decoded = tokio::task::spawn_blocking(move || {
            if !turn.decoded.take(decoded_bytes::<L>(&body)) {
                return Err(QueryError::TooLarge);
            }
            let decoded = serde_json::from_slice::<Response<L>>(&body);
            Ok(decoded.map_err(|error| QueryError::Malformed(error.to_string()))?.data.result)
        });
        decoded.await.unwrap_or_else(|error| Err(QueryError::Malformed(error.to_string())))
    }
}

/// Bytes that an answer is decoded to at most: an element has two braces, a sample a bracket, and no text is longer than before. Vectors
/// grow to twice as many as there are.
fn decoded_bytes<L>(body: &[u8]) -> usize {
    let (mut braces, mut brackets) = (0_usize, 0_usize);
    for byte in body {
        match byte {
            b'{' => braces += 1,
            b'[' => brackets += 1,
            _ => {}
        }
    }
    braces * size_of::<Element<L>>() + brackets * 2 * size_of::<Sample>() + body.len()
}

/// The body of a request.
fn form(parameters: &[(&str, &str)]) -> String {
    let mut form = String::new();
    for (name, value) in parameters {
        let separator = if form.is_empty() { "" } else { "&" };
        // Writing to a string cannot fail.
        let _ = write!(form, "{separator}{name}={}", utf8_percent_encode(value, NON_ALPHANUMERIC));
    }
    form
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;

    use super::*;

    #[derive(Debug, Deserialize)]
    struct Labels {
        le: Option<Box<str>>,
    }

    #[test]
    fn the_questions_of_one_tenant_wait_for_each_other() {
        let url = Some("http://127.0.0.1:1".to_owned());
        let settings = config::Exporter { prometheus_url: url, ..config::Exporter::default() };
        let server = Prometheus::new(&settings).expect("it has a URL");
        let first = server.turn(Some("acme")).now_or_never().expect("free").expect("open");
        let mut second = Box::pin(server.turn(Some("acme")));
        assert!((&mut second).now_or_never().is_none());
        let other = server.turn(Some("rival")).now_or_never().expect("free").expect("open");
        let mut about_all = Box::pin(server.turn(None));
        assert!((&mut about_all).now_or_never().is_none(), "there are two at one time");
        drop(other);
        let about_all = about_all.now_or_never().expect("free");
        drop(first);
        let second = second.now_or_never().expect("free");
        assert_eq!(server.tenants.lock().len(), 3);
        drop((about_all, second));
        let _next = server.turn(None).now_or_never().expect("free");
        assert_eq!(server.tenants.lock().len(), 1, "others are forgotten");
    }

    #[test]
    fn the_answers_to_a_question_have_a_part_of_the_memory_together() {
        let settings = config::Exporter { memory_mib: 64, ..config::Exporter::default() };
        assert_eq!(settings.prometheus_answer_bytes(), 1 << 20);
        let answers = Allowance::of(10);
        assert!(answers.take(6) && !answers.take(5) && answers.take(4) && !answers.take(1));
    }

    #[test]
    fn vectors_and_matrices_are_read_with_the_labels_that_are_wanted() {
        let decoded = |result: &str| {
            let text =
                format!("{{\"status\":\"success\",\"data\":{{\"resultType\":\"x\",\"result\":[{result}]}}}}");
            serde_json::from_str::<Response<Labels>>(&text).map(|response| response.data.result)
        };
        let matrix = decoded(r#"{"metric":{"le":"+Inf","x":"y"},"values":[[15,"3"],[30.5,"1e3"]]}"#)
            .expect("a matrix");
        assert_eq!(matrix[0].metric.le.as_deref(), Some("+Inf"));
        let values = matrix[0].values.iter().map(|Sample(at, value)| (*at, *value));
        assert!(values.eq([(15.0, 3.0), (30.5, 1000.0)]));
        let vector = decoded(r#"{"metric":{},"value":[15,"+Inf"]}"#).expect("a vector");
        assert!(vector[0].value.is_some_and(|Sample(_, value)| value == f64::INFINITY));
        assert!(decoded(r#"{"metric":{},"value":[15,"three"]}"#).is_err());
        let many = br#"{"metric":{}},"#.repeat(100);
        assert!(decoded_bytes::<Labels>(&many) >= 200 * size_of::<Element<Labels>>() + many.len());
    }
}
