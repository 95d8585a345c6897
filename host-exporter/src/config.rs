//! `[exporter]` of the configuration file.

pub mod kubernetes;
pub mod otlp;

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use hyper::header::{HeaderName, HeaderValue};
use porthole_config::{Location, Section};
use serde::Deserialize;

use self::{kubernetes::Kubernetes, otlp::Otlp};
use crate::{accumulate::budget::Limits, http_url::HttpUrl, sampling::Rule};

/// Least memory of the whole process, MiB: program, database, encodings and the tenants' half.
const MEMORY_MIB_MIN: usize = 64;

/// `[exporter]`. Times are in seconds and may have a fraction.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Exporter {
    /// The file that it was read from.
    #[serde(skip)]
    pub file: Option<Location>,
    /// Address and port of the HTTP server.
    pub listen: SocketAddr,
    /// The server's certificate and those between it and its authority, PEM; with it the server accepts TLS alone.
    pub tls_certificate: Option<PathBuf>,
    /// The server's key, PEM.
    pub tls_key: Option<PathBuf>,
    /// Authorities of client certificates, PEM.
    pub tls_client_ca: Option<PathBuf>,
    /// Tokens and client certificates, and what they admit to.
    pub access_file: PathBuf,
    /// Whether requests without a token are an operator's where only this host's users reach the server.
    pub loopback_without_token: bool,
    /// Host names that requests may use; addresses and `localhost` need not be listed.
    pub hosts: Vec<String>,
    /// Where the ledger is.
    pub state_directory: PathBuf,
    /// Longest time between a change and its place in the ledger.
    pub ledger_interval_seconds: f64,
    /// Memory of the whole process, MiB.
    pub memory_mib: usize,
    /// Memory that one tenant may hold, MiB; what exceeds is added to overflow series, and rejected at last.
    pub memory_mib_per_tenant: usize,
    /// Size of a scrape as text, MiB; what exceeds is added to overflow series.
    pub exposed_mib: usize,
    /// What one tenant may take of it, MiB.
    pub exposed_mib_per_tenant: usize,
    /// Series that one tenant may expose; what exceeds is added to an overflow series.
    pub series_per_tenant: usize,
    /// Bytes that all agents together may send, millions per second; beyond, tenants above an equal share are slowed.
    pub ingest_mb_per_second: f64,
    /// Bytes that the agents of one tenant may send, millions per second; beyond, they are slowed.
    pub ingest_mb_per_second_per_tenant: f64,
    /// CPU time that all agents' batches may take, cores; beyond, tenants above an equal share are slowed.
    pub ingest_cores: f64,
    /// CPU time that the batches of one tenant may take, cores; beyond, its agents are slowed.
    pub ingest_cores_per_tenant: f64,
    /// Memory of the last hour of all applications, MiB; what exceeds leaves with the oldest steps of the tenant that holds
    /// the most.
    pub history_mib: usize,
    /// Memory of the last hour of who calls whom, MiB; what exceeds leaves like that of the applications' last hour.
    pub topology_mib: usize,
    /// Table of names of addresses, TOML.
    pub addresses_file: Option<PathBuf>,
    /// The cluster whose Services and Pods have names.
    pub kubernetes: Option<Kubernetes>,
    /// `http` URL under which a server with Prometheus' HTTP API has `api/v1/query_range`: it answers questions about the past in
    /// place of the last hour in memory.
    pub prometheus_url: Option<String>,
    /// Header that names the tenant, for servers that keep tenants apart.
    pub prometheus_tenant_header: Option<String>,
    /// Its value where the answer is about all tenants.
    pub prometheus_all_tenants: String,
    /// Longest time for an answer of that server.
    pub prometheus_timeout_seconds: f64,
    /// The answers to one question of pages, together, MiB.
    pub prometheus_answer_mib: usize,
    /// Share of the traces in which nothing failed or was slow that are kept and sent.
    pub trace_ratio: f64,
    /// How many of them are kept and sent of each route in a minute in any case.
    pub trace_reservoir_per_minute: f64,
    /// Where traces and metrics are sent by OTLP.
    pub otlp: Vec<Otlp>,
    /// Time between two times that metrics are sent.
    pub otlp_metrics_seconds: f64,
    /// Applications of one tenant; those beyond are counted as `other`.
    pub applications_per_tenant: usize,
    /// How long an application without sandboxes keeps its totals.
    pub application_idle_seconds: f64,
    /// Connections to agents at one time; further sandboxes wait.
    pub agent_connections_max: usize,
    /// Silence after which an agent is probed.
    pub agent_idle_seconds: f64,
    /// First wait before another attempt to reach an agent; it doubles.
    pub reconnect_first_seconds: f64,
    /// Longest wait before another attempt.
    pub reconnect_cap_seconds: f64,
    /// Longest time between two scans of the registry; changes are noticed at once.
    pub rescan_seconds: f64,
    /// How long a record may be without a living companion before the sandbox counts as ended.
    pub orphan_grace_seconds: f64,
    /// Scrapes that must have seen the final values of an ended sandbox before its series go.
    pub ended_scrapes: u32,
    /// Least time that the series of an ended sandbox stay.
    pub ended_keep_at_least_seconds: f64,
    /// Longest time that the series of an ended sandbox stay, scraped or not.
    pub ended_keep_at_most_seconds: f64,
    /// Whether protobuf has classic buckets besides native histograms.
    pub classic_with_native: bool,
    /// HTTP connections at one time; idle and slow ones make room for further ones.
    pub http_connections_max: usize,
    /// HTTP connections of one client.
    pub http_connections_per_client: usize,
    /// Time for a client to send its request's header, and to take each part of a response.
    pub http_timeout_seconds: f64,
}

impl Default for Exporter {
    fn default() -> Self {
        Self {
            file: None,
            listen: SocketAddr::from(([127, 0, 0, 1], 9464)),
            tls_certificate: None,
            tls_key: None,
            tls_client_ca: None,
            access_file: porthole_access::DEFAULT_FILE.into(),
            loopback_without_token: true,
            hosts: Vec::new(),
            state_directory: "/var/lib/porthole/exporter".into(),
            ledger_interval_seconds: 2.0,
            memory_mib: 512,
            memory_mib_per_tenant: 64,
            exposed_mib: 256,
            exposed_mib_per_tenant: 128,
            series_per_tenant: 20_000,
            // Of some ten thousand busy series of a tenant each second.
            ingest_mb_per_second: 32.0,
            ingest_mb_per_second_per_tenant: 8.0,
            ingest_cores: 0.6,
            ingest_cores_per_tenant: 0.25,
            history_mib: 32,
            topology_mib: 16,
            addresses_file: None,
            kubernetes: None,
            prometheus_url: None,
            prometheus_tenant_header: None,
            prometheus_all_tenants: String::new(),
            prometheus_timeout_seconds: 10.0,
            prometheus_answer_mib: 8,
            trace_ratio: 1.0,
            trace_reservoir_per_minute: 10.0,
            otlp: Vec::new(),
            otlp_metrics_seconds: 60.0,
            applications_per_tenant: 200,
            application_idle_seconds: 86_400.0,
            agent_connections_max: 4_096,
            agent_idle_seconds: 15.0,
            reconnect_first_seconds: 0.1,
            reconnect_cap_seconds: 10.0,
            rescan_seconds: 5.0,
            orphan_grace_seconds: 10.0,
            ended_scrapes: 2,
            ended_keep_at_least_seconds: 0.0,
            ended_keep_at_most_seconds: 900.0,
            classic_with_native: false,
            http_connections_max: 128,
            http_connections_per_client: 32,
            http_timeout_seconds: 10.0,
        }
    }
}

impl Section for Exporter {
    const NAME: &'static str = "exporter";
}

/// A value that cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("configuration, section [{section}]: `{key}` {requirement}")]
pub struct InvalidValue {
    section: &'static str,
    key: String,
    requirement: &'static str,
}

impl InvalidValue {
    /// The value of a key that does not meet a requirement.
    pub fn new(section: &'static str, key: impl Into<String>, requirement: &'static str) -> Self {
        Self { section, key: key.into(), requirement }
    }
}

impl Exporter {
    /// Checks what types do not express.
    pub fn validate(&self) -> Result<(), InvalidValue> {
        let refuse = |key: &'static str, requirement| Err(InvalidValue::new(Self::NAME, key, requirement));
        for (key, seconds) in [
            ("ledger_interval_seconds", self.ledger_interval_seconds),
            ("agent_idle_seconds", self.agent_idle_seconds),
            ("reconnect_first_seconds", self.reconnect_first_seconds),
            ("reconnect_cap_seconds", self.reconnect_cap_seconds),
            ("rescan_seconds", self.rescan_seconds),
            ("http_timeout_seconds", self.http_timeout_seconds),
            ("prometheus_timeout_seconds", self.prometheus_timeout_seconds),
        ] {
            if !(0.001..=86_400.0).contains(&seconds) {
                return refuse(key, "must lie between 0.001 and 86400 seconds");
            }
        }
        for (key, seconds) in [
            ("orphan_grace_seconds", self.orphan_grace_seconds),
            ("ended_keep_at_least_seconds", self.ended_keep_at_least_seconds),
            ("ended_keep_at_most_seconds", self.ended_keep_at_most_seconds),
        ] {
            if !(0.0..=86_400.0).contains(&seconds) {
                return refuse(key, "must lie between 0 and 86400 seconds");
            }
        }
        for (key, number) in [
            ("series_per_tenant", self.series_per_tenant),
            ("applications_per_tenant", self.applications_per_tenant),
            ("agent_connections_max", self.agent_connections_max),
            ("http_connections_max", self.http_connections_max),
            ("http_connections_per_client", self.http_connections_per_client),
        ] {
            if !(1..=10_000_000).contains(&number) {
                return refuse(key, "must lie between 1 and 10000000");
            }
        }
        if !(MEMORY_MIB_MIN..=1 << 20).contains(&self.memory_mib) {
            return refuse("memory_mib", "must lie between 64 and 1048576");
        }
        for (key, number) in [
            ("memory_mib_per_tenant", self.memory_mib_per_tenant),
            ("exposed_mib", self.exposed_mib),
            ("history_mib", self.history_mib),
            ("topology_mib", self.topology_mib),
            ("prometheus_answer_mib", self.prometheus_answer_mib),
            ("exposed_mib_per_tenant", self.exposed_mib_per_tenant),
        ] {
            if !(1..=1 << 20).contains(&number) {
                return refuse(key, "must lie between 1 and 1048576");
            }
        }
        for (key, rate) in [
            ("ingest_mb_per_second", self.ingest_mb_per_second),
            ("ingest_mb_per_second_per_tenant", self.ingest_mb_per_second_per_tenant),
            ("ingest_cores", self.ingest_cores),
            ("ingest_cores_per_tenant", self.ingest_cores_per_tenant),
        ] {
            if !(0.001..=100_000.0).contains(&rate) {
                return refuse(key, "must lie between 0.001 and 100000");
            }
        }
        if !(1.0..=31_536_000.0).contains(&self.application_idle_seconds) {
            return refuse("application_idle_seconds", "must lie between 1 and 31536000 seconds");
        }
        if self.reconnect_cap_seconds < self.reconnect_first_seconds {
            return refuse("reconnect_cap_seconds", "must not be below reconnect_first_seconds");
        }
        if self.ended_keep_at_most_seconds < self.ended_keep_at_least_seconds {
            return refuse("ended_keep_at_most_seconds", "must not be below ended_keep_at_least_seconds");
        }
        for (key, path) in [("state_directory", &self.state_directory), ("access_file", &self.access_file)] {
            if !path.is_absolute() {
                return refuse(key, "must be an absolute path");
            }
        }
        for (key, path) in [
            ("addresses_file", &self.addresses_file),
            ("tls_certificate", &self.tls_certificate),
            ("tls_key", &self.tls_key),
            ("tls_client_ca", &self.tls_client_ca),
        ] {
            if path.as_ref().is_some_and(|path| !path.is_absolute()) {
                return refuse(key, "must be an absolute path");
            }
        }
        let is_url = |url: &str| HttpUrl::parse(url).is_some_and(|url| !url.target.contains('?'));
        if self.prometheus_url.as_deref().is_some_and(|url| !is_url(url)) {
            return refuse("prometheus_url", "must be an http URL without user and query");
        }
        let is_name = |name: &String| HeaderName::try_from(name).is_ok();
        if self.prometheus_tenant_header.as_ref().is_some_and(|name| !is_name(name)) {
            return refuse("prometheus_tenant_header", "must be the name of a header");
        }
        if HeaderValue::try_from(&self.prometheus_all_tenants).is_err() {
            return refuse("prometheus_all_tenants", "must be the value of a header");
        }
        match (&self.tls_certificate, &self.tls_key, &self.tls_client_ca) {
            (Some(_), None, _) => refuse("tls_key", "must be set where tls_certificate is"),
            (None, Some(_), _) => refuse("tls_certificate", "must be set where tls_key is"),
            (None, None, Some(_)) => refuse("tls_certificate", "must be set where tls_client_ca is"),
            _ => self.invalid_of_parts().map_or(Ok(()), |(key, what)| refuse(key, what)),
        }
    }
}

impl Exporter {
    /// What the last hour of all applications may hold, bytes: with a low `memory_mib` a sixteenth of it.
    pub fn history_bytes(&self) -> usize {
        (self.history_mib << 20).min((self.memory_mib << 20) / 16)
    }

    /// What the last hour of who calls whom may hold, bytes: with a low `memory_mib` a thirty-second part of it.
    pub fn topology_bytes(&self) -> usize {
        (self.topology_mib << 20).min((self.memory_mib << 20) / 32)
    }

    /// What the answers of the Prometheus server to one question may have together, bytes: with a low `memory_mib` a sixty-fourth part
    /// of it.
    pub fn prometheus_answer_bytes(&self) -> usize {
        (self.prometheus_answer_mib << 20).min((self.memory_mib << 20) / 64)
    }

    /// The limits in bytes.
    pub fn limits(&self) -> Limits {
        let bytes = |mib: usize| mib << 20;
        Limits {
            memory: bytes(self.memory_mib),
            memory_per_tenant: bytes(self.memory_mib_per_tenant),
            exposed: bytes(self.exposed_mib),
            exposed_per_tenant: bytes(self.exposed_mib_per_tenant),
            series_per_tenant: self.series_per_tenant,
            ingest: 1e6 * self.ingest_mb_per_second,
            ingest_per_tenant: 1e6 * self.ingest_mb_per_second_per_tenant,
            cores: self.ingest_cores,
            cores_per_tenant: self.ingest_cores_per_tenant,
        }
    }

    fn invalid_of_parts(&self) -> Option<(&'static str, &'static str)> {
        if !(0.001..=86_400.0).contains(&self.otlp_metrics_seconds) {
            return Some(("otlp_metrics_seconds", "must lie between 0.001 and 86400 seconds"));
        }
        let of_traces = self.sampling().invalid().or_else(|| self.otlp.iter().find_map(Otlp::invalid));
        of_traces.or_else(|| self.kubernetes.as_ref().and_then(Kubernetes::invalid))
    }

    /// Which traces are kept.
    pub fn sampling(&self) -> Rule {
        Rule { ratio: self.trace_ratio, reservoir_per_minute: self.trace_reservoir_per_minute }
    }
}

/// Seconds of the configuration, which were checked, as a duration.
pub fn seconds(seconds: f64) -> Duration {
    Duration::try_from_secs_f64(seconds).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use porthole_config::ConfigFile;

    use super::*;

    fn load(text: &str) -> Result<Exporter, String> {
        let file = tempfile::NamedTempFile::new().expect("file");
        std::fs::write(file.path(), text).expect("written");
        let exporter: Exporter = ConfigFile::load(Some(file.path()))
            .and_then(|file| file.section())
            .map_err(|error| error.to_string())?;
        exporter.validate().map_err(|error| error.to_string())?;
        Ok(exporter)
    }

    #[test]
    fn the_defaults_are_valid() {
        assert_eq!(load("").expect("valid"), Exporter::default());
    }

    #[test]
    fn what_cannot_be_used_is_refused_with_its_key() {
        for (text, key) in [
            ("listen = \"everywhere\"", "listen"),
            ("series_per_tenant = 0", "series_per_tenant"),
            ("series_per_tenant = -1", "series_per_tenant"),
            ("memory_mib = 1", "memory_mib"),
            ("exposed_mib_per_tenant = 0", "exposed_mib_per_tenant"),
            ("ingest_mb_per_second_per_tenant = 0.0", "ingest_mb_per_second_per_tenant"),
            ("ingest_cores = nan", "ingest_cores"),
            ("rescan_seconds = 0.0", "rescan_seconds"),
            ("http_timeout_seconds = nan", "http_timeout_seconds"),
            ("reconnect_cap_seconds = 0.05", "reconnect_cap_seconds"),
            ("state_directory = \"here\"", "state_directory"),
            ("ended_keep_at_least_seconds = 9e3", "ended_keep_at_most_seconds"),
            ("prometheus_url = \"https://prometheus\"", "prometheus_url"),
            ("prometheus_url = \"http://prometheus/?a=b\"", "prometheus_url"),
            ("prometheus_tenant_header = \"X Scope\"", "prometheus_tenant_header"),
            ("prometheus_all_tenants = \"a\\nb\"", "prometheus_all_tenants"),
            ("prometheus_answer_mib = 0", "prometheus_answer_mib"),
            ("[[exporter.otlp]]\nendpoint = \"collector\"", "otlp.endpoint"),
            ("[exporter.kubernetes]\nurl = \"http://10.96.0.1\"", "kubernetes.url"),
            ("[[exporter.otlp]]\nprotocol = \"http/json\"", "protocol"),
            ("otlp_metrics_seconds = 0.0", "otlp_metrics_seconds"),
            ("trace_ratio = 1.5", "trace_ratio"),
            ("trace_reservoir_per_minute = nan", "trace_reservoir_per_minute"),
            ("colour = \"blue\"", "colour"),
        ] {
            let error = load(&format!("[exporter]\n{text}\n")).expect_err(text);
            assert!(error.contains(key) && error.contains("[exporter]"), "{text}: {error}");
        }
    }
}
