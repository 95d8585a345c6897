//! `[exporter]` of the configuration file.

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use porthole_config::Section;
use serde::Deserialize;

/// `[exporter]`. Times are in seconds and may have a fraction.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Exporter {
    /// Address and port of the HTTP server.
    pub listen: SocketAddr,
    /// Names under which the server is asked; addresses and `localhost` need not be listed.
    pub hosts: Vec<String>,
    /// Where the ledger is.
    pub state_directory: PathBuf,
    /// Longest time between a change and its place in the ledger.
    pub ledger_interval_seconds: f64,
    /// Series that one tenant may expose; what exceeds folds into `other`.
    pub series_per_tenant: usize,
    /// Applications of one tenant; those beyond are counted as `other`.
    pub applications_per_tenant: usize,
    /// How long an application without sandboxes keeps its totals.
    pub application_idle_seconds: f64,
    /// Connections to agents at one time; further sandboxes wait.
    pub agent_connections_max: usize,
    /// Silence after which an agent is asked whether it lives.
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
    /// HTTP connections at one time; further clients wait.
    pub http_connections_max: usize,
    /// Time for a client to send its request's header, and to take each part of a response.
    pub http_timeout_seconds: f64,
}

impl Default for Exporter {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from(([127, 0, 0, 1], 9464)),
            hosts: Vec::new(),
            state_directory: "/var/lib/porthole/exporter".into(),
            ledger_interval_seconds: 2.0,
            series_per_tenant: 20_000,
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
            http_connections_max: 128,
            http_timeout_seconds: 10.0,
        }
    }
}

impl Section for Exporter {
    const NAME: &'static str = "exporter";
}

/// A value that cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("configuration, section [exporter]: `{key}` {requirement}")]
pub struct InvalidValue {
    key: &'static str,
    requirement: &'static str,
}

impl Exporter {
    /// Checks what types cannot say.
    pub fn validate(&self) -> Result<(), InvalidValue> {
        let refuse = |key, requirement| Err(InvalidValue { key, requirement });
        for (key, seconds) in [
            ("ledger_interval_seconds", self.ledger_interval_seconds),
            ("agent_idle_seconds", self.agent_idle_seconds),
            ("reconnect_first_seconds", self.reconnect_first_seconds),
            ("reconnect_cap_seconds", self.reconnect_cap_seconds),
            ("rescan_seconds", self.rescan_seconds),
            ("http_timeout_seconds", self.http_timeout_seconds),
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
        ] {
            if !(1..=10_000_000).contains(&number) {
                return refuse(key, "must lie between 1 and 10000000");
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
        if !self.state_directory.is_absolute() {
            return refuse("state_directory", "must be an absolute path");
        }
        Ok(())
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
            ("rescan_seconds = 0.0", "rescan_seconds"),
            ("http_timeout_seconds = nan", "http_timeout_seconds"),
            ("reconnect_cap_seconds = 0.05", "reconnect_cap_seconds"),
            ("state_directory = \"here\"", "state_directory"),
            ("ended_keep_at_least_seconds = 9e3", "ended_keep_at_most_seconds"),
            ("colour = \"blue\"", "colour"),
        ] {
            let error = load(&format!("[exporter]\n{text}\n")).expect_err(text);
            assert!(error.contains(key) && error.contains("[exporter]"), "{text}: {error}");
        }
    }
}
