//! Servers and the clients that load them.

use std::{
    fs,
    net::{TcpListener, TcpStream},
    path::Path,
    process::Command,
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use porthole_tests::{daemon::Daemon, wait};

use crate::workspace::output;

/// Connections that a client keeps open.
const CLIENTS: u32 = 8;

/// What one run of a client came to.
#[derive(Clone, Copy, Debug)]
pub struct Run {
    /// Requests a second.
    pub throughput: f64,
    /// The 99th percentile of latency, milliseconds.
    pub p99_ms: f64,
    /// Requests that were answered.
    pub requests: u64,
}

/// A server with its load.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Workload {
    /// nginx, one worker, a short static answer, under wrk.
    Nginx,
    /// redis-server under redis-benchmark: `GET`, this many commands in one write.
    Redis {
        /// Commands in one write.
        pipeline: u32,
    },
}

impl Workload {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Nginx, Self::Redis { pipeline: 1 }, Self::Redis { pipeline: 16 }];

    /// Its name in the results.
    pub fn name(self) -> String {
        match self {
            Self::Nginx => "nginx".to_owned(),
            Self::Redis { pipeline: 1 } => "redis GET".to_owned(),
            Self::Redis { pipeline } => format!("redis GET, pipeline {pipeline}"),
        }
    }

    /// Starts the server.
    pub fn serve(self, directory: &Path) -> Result<Server> {
        let port = free_port()?;
        let log = directory.join("server.log");
        let daemon = match self {
            Self::Nginx => {
                let shown = directory.display();
                let text = format!(
                    "worker_processes 1; daemon off; pid {shown}/nginx.pid; error_log {shown}/error.log;\n\
                     events {{ worker_connections 1024; }}\n\
                     http {{ access_log off; keepalive_requests 1000000000; client_body_temp_path {shown};\n\
                     proxy_temp_path {shown}; fastcgi_temp_path {shown}; uwsgi_temp_path {shown}; scgi_temp_path {shown};\n\
                     server {{ listen 127.0.0.1:{port}; location / {{ return 200 \"hello\\n\"; }} }} }}\n"
                );
                let configuration = directory.join("nginx.conf");
                fs::write(&configuration, text).context("write nginx.conf")?;
                let mut command = Command::new("/usr/sbin/nginx");
                command.arg("-e").arg(directory.join("error.log")).arg("-c").arg(&configuration);
                Daemon::spawn("nginx", &mut command, &log)?
            }
            Self::Redis { .. } => {
                let mut command = Command::new("/usr/bin/redis-server");
                command.args([
                    "--port",
                    &port.to_string(),
                    "--bind",
                    "127.0.0.1",
                    "--save",
                    "",
                    "--appendonly",
                    "no",
                ]);
                command.arg("--dir").arg(directory);
                Daemon::spawn("redis-server", &mut command, &log)?
            }
        };
        let mut server = Server { workload: self, daemon, port };
        wait::until("the server listens", Duration::from_secs(10), || {
            server.daemon.check()?;
            Ok(TcpStream::connect(("127.0.0.1", port)).ok())
        })?;
        Ok(server)
    }
}

/// A running server.
pub struct Server {
    workload: Workload,
    daemon: Daemon,
    port: u16,
}

impl Server {
    /// Loads it for about this long.
    pub fn load(&mut self, seconds: u32) -> Result<Run> {
        self.daemon.check()?;
        match self.workload {
            Workload::Nginx => self.wrk(seconds),
            Workload::Redis { pipeline } => self.redis_benchmark(seconds, pipeline),
        }
    }

    fn wrk(&self, seconds: u32) -> Result<Run> {
        let url = format!("http://127.0.0.1:{}/", self.port);
        let text = output(
            Command::new("wrk")
                .args(["-t1", "--latency", "-c"])
                .arg(CLIENTS.to_string())
                .arg(format!("-d{seconds}s"))
                .arg(&url),
        )?;
        ensure!(!text.contains("Non-2xx"), "wrk got errors:\n{text}");
        let word_after = |label: &str| {
            let line = text.lines().find(|line| line.trim_start().starts_with(label));
            line.and_then(|line| line.trim_start().strip_prefix(label))
                .and_then(|rest| rest.split_whitespace().next())
        };
        let throughput = word_after("Requests/sec:").context("wrk's rate")?.parse().context("wrk's rate")?;
        let p99_ms = milliseconds(word_after("99%").context("wrk's p99")?)?;
        let requests = text.lines().find(|line| line.contains(" requests in ")).context("wrk's count")?;
        let requests =
            requests.split_whitespace().next().context("wrk's count")?.parse().context("wrk's count")?;
        Ok(Run { throughput, p99_ms, requests })
    }

    fn redis_benchmark(&self, seconds: u32, pipeline: u32) -> Result<Run> {
        // About what one core does; the number, not the time, can be chosen.
        let requests = u64::from(seconds) * if pipeline > 1 { 500_000 } else { 80_000 };
        let text = output(
            Command::new("redis-benchmark")
                .args(["-h", "127.0.0.1", "-t", "get", "--csv", "-p", &self.port.to_string()])
                .args(["-c", &CLIENTS.to_string(), "-n", &requests.to_string(), "-P", &pipeline.to_string()]),
        )?;
        // "test","rps","avg_latency_ms","min_latency_ms","p50_latency_ms","p95_latency_ms","p99_latency_ms","max_latency_ms"
        let line =
            text.lines().find(|line| line.starts_with("\"GET\"")).context("redis-benchmark's result")?;
        let fields: Vec<&str> = line.split(',').map(|field| field.trim_matches('"')).collect();
        let number = |at: usize| -> Result<f64> {
            fields.get(at).context("redis-benchmark's result")?.parse().context("redis-benchmark's result")
        };
        Ok(Run { throughput: number(1)?, p99_ms: number(6)?, requests })
    }

    /// Ends it.
    pub fn stop(mut self) -> Result<()> {
        self.daemon.stop().map(drop)
    }
}

/// `512.00us`, `1.23ms`, `1.00s`.
fn milliseconds(text: &str) -> Result<f64> {
    let (number, factor) = match text {
        _ if text.ends_with("us") => (&text[..text.len() - 2], 0.001),
        _ if text.ends_with("ms") => (&text[..text.len() - 2], 1.0),
        _ => (text.trim_end_matches('s'), 1000.0),
    };
    Ok(number.parse::<f64>().with_context(|| format!("`{text}` is no duration"))? * factor)
}

fn free_port() -> Result<u16> {
    let listener = TcpListener::bind(("127.0.0.1", 0)).context("find a free port")?;
    Ok(listener.local_addr().context("find a free port")?.port())
}

#[cfg(test)]
mod tests {
    use super::milliseconds;

    #[test]
    fn wrk_durations_are_read() {
        for (text, expected) in [("512.00us", 0.512), ("1.25ms", 1.25), ("2.00s", 2000.0)] {
            assert!((milliseconds(text).unwrap() - expected).abs() < 1e-9);
        }
        assert!(milliseconds("x").is_err());
    }
}
