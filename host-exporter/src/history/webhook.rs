//! The webhook of alerts: an HTTP/1.1 POST in the form of Alertmanager's webhooks (Prometheus documentation, "Alerting",
//! "Configuration", `webhook_config`, version 4).

use std::time::Duration;

use hyper::{Request, StatusCode, header};
use serde::Serialize;
use thiserror::Error;

use super::alert::Alert;
use crate::{
    http_url::HttpUrl,
    identity::Application,
    outbound::{self, OutboundError},
};

/// How long one request may take.
const DEADLINE: Duration = Duration::from_secs(10);

/// The name of the alert in the rules for Prometheus.
pub(super) const ALERT: &str = "PortholeErrorBudgetBurnsFast";

/// Where alerts are posted.
#[derive(Clone, Debug)]
pub struct Webhook(pub HttpUrl);

/// Why an alert was not posted.
#[derive(Debug, Error)]
pub(super) enum PostError {
    #[error("the webhook did not take it: {0}")]
    Exchange(#[from] OutboundError),
    #[error("the webhook answered {0}")]
    Status(StatusCode),
    #[error("the webhook did not answer in {} seconds", DEADLINE.as_secs())]
    Deadline,
}

impl Webhook {
    /// Posts one alert.
    pub(super) async fn post(&self, alert: &Alert) -> Result<(), PostError> {
        let message = Message::of(alert);
        // Texts and numbers only.
        let body = serde_json::to_vec(&message).unwrap_or_default();
        match tokio::time::timeout(DEADLINE, self.send(body)).await {
            Ok(Ok(status)) if status.is_success() => Ok(()),
            Ok(Ok(status)) => Err(PostError::Status(status)),
            Ok(Err(error)) => Err(error),
            Err(_) => Err(PostError::Deadline),
        }
    }

    async fn send(&self, body: Vec<u8>) -> Result<StatusCode, PostError> {
        let request = Request::post(&self.0.target).header(header::CONTENT_TYPE, "application/json");
        // The body of the answer is of no interest.
        let (status, _) = outbound::send(&self.0, request, body, None).await?;
        Ok(status)
    }
}

/// A message of Alertmanager's, with one alert.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Message<'a> {
    version: &'static str,
    group_key: String,
    truncated_alerts: u32,
    status: &'static str,
    receiver: &'static str,
    group_labels: Labels<'a>,
    common_labels: Labels<'a>,
    common_annotations: Annotations,
    #[serde(rename = "externalURL")]
    external_url: &'static str,
    alerts: [One<'a>; 1],
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct One<'a> {
    status: &'static str,
    labels: Labels<'a>,
    annotations: Annotations,
    starts_at: String,
    ends_at: String,
    #[serde(rename = "generatorURL")]
    generator_url: &'static str,
    fingerprint: String,
}

#[derive(Clone, Serialize)]
struct Labels<'a> {
    alertname: &'static str,
    objective: &'static str,
    service_name: &'a str,
    severity: &'static str,
    tenant: &'a str,
}

#[derive(Clone, Serialize)]
struct Annotations {
    summary: String,
    description: &'static str,
}

impl<'a> Message<'a> {
    fn of(alert: &'a Alert) -> Self {
        let Application { tenant, service_name } = &alert.burning.application;
        let burn = &alert.burning.burn;
        let status = if alert.ends_unix_ms.is_none() { "firing" } else { "resolved" };
        let objective = burn.objective;
        let labels = Labels { alertname: ALERT, objective, service_name, severity: "critical", tenant };
        let missed = burn.missed_1h.unwrap_or(0.0) * 100.0;
        let annotations = Annotations {
            summary: format!(
                "{service_name} of {tenant} misses its objective of {objective} for {missed:.1}% of its requests"
            ),
            description: "At this rate the error budget of 30 days is used up within days.",
        };
        let group = format!("{ALERT}/{tenant:?}/{service_name:?}/{objective}");
        let one = One {
            status,
            labels: labels.clone(),
            annotations: annotations.clone(),
            starts_at: time(alert.starts_unix_ms),
            ends_at: alert.ends_unix_ms.map_or_else(|| "0001-01-01T00:00:00Z".to_owned(), time),
            generator_url: "",
            fingerprint: fingerprint(&group),
        };
        Self {
            version: "4",
            group_key: group,
            truncated_alerts: 0,
            status,
            receiver: "porthole",
            group_labels: labels.clone(),
            common_labels: labels,
            common_annotations: annotations,
            external_url: "",
            alerts: [one],
        }
    }
}

/// RFC 3339, milliseconds.
fn time(unix_ms: u64) -> String {
    let time = std::time::UNIX_EPOCH + Duration::from_millis(unix_ms);
    humantime::format_rfc3339_millis(time).to_string()
}

/// The same for the same labels, sixteen hexadecimal digits as Alertmanager's.
fn fingerprint(group: &str) -> String {
    use std::hash::{DefaultHasher, Hash as _, Hasher as _};
    let mut hasher = DefaultHasher::new();
    group.hash(&mut hasher);
    format!("{:016x}", hasher.finish())
}
