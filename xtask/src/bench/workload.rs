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

/// About what one core does, commands a second.
const NATIVE_REDIS_RATE: u64 = 80_000;

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
        let load = Load::new(self.workload, self.port, seconds, NATIVE_REDIS_RATE);
        let (program, arguments) = load.command.split_first().context("a client")?;
        load.read(&output(Command::new(program).args(arguments))?)
    }

    /// Ends it.
    pub fn stop(mut self) -> Result<()> {
        self.daemon.stop().map(drop)
    }
}

/// A client's command line: it loads the server at a port of this machine for about this long.
pub struct Load {
    workload: Workload,
    /// Program and arguments.
    pub command: Vec<String>,
    requests: u64,
}

impl Load {
    /// The usual client of a workload. `redis_rate` is about what the server does a second without pipelining: the
    /// number of requests, not the time, can be chosen there.
    pub fn new(workload: Workload, port: u16, seconds: u32, redis_rate: u64) -> Self {
        let (text, requests) = match workload {
            Workload::Nginx => {
                (format!("wrk -t1 --latency -c {CLIENTS} -d{seconds}s http://127.0.0.1:{port}/"), 0)
            }
            Workload::Redis { pipeline } => {
                let requests = u64::from(seconds) * redis_rate * if pipeline > 1 { 6 } else { 1 };
                let text = format!(
                    "redis-benchmark -h 127.0.0.1 -t get --csv -p {port} -c {CLIENTS} -n {requests} -P {pipeline}"
                );
                (text, requests)
            }
        };
        Self { workload, command: text.split(' ').map(str::to_owned).collect(), requests }
    }

    /// Reads what the client printed.
    pub fn read(&self, text: &str) -> Result<Run> {
        match self.workload {
            Workload::Nginx => Self::read_wrk(text),
            Workload::Redis { .. } => self.read_redis_benchmark(text),
        }
    }

    fn read_wrk(text: &str) -> Result<Run> {
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

    fn read_redis_benchmark(&self, text: &str) -> Result<Run> {
        // "test","rps","avg_latency_ms","min_latency_ms","p50_latency_ms","p95_latency_ms","p99_latency_ms","max_latency_ms"
        let line =
            text.lines().find(|line| line.starts_with("\"GET\"")).context("redis-benchmark's result")?;
        let fields: Vec<&str> = line.split(',').map(|field| field.trim_matches('"')).collect();
        let number = |at: usize| -> Result<f64> {
            fields.get(at).context("redis-benchmark's result")?.parse().context("redis-benchmark's result")
        };
        Ok(Run { throughput: number(1)?, p99_ms: number(6)?, requests: self.requests })
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
