//! Clients that load a server: their command lines, and what they print.

use std::{process::Command, time::Duration};

use anyhow::{Context, Result, ensure};
use porthole_testbed::command;

use crate::bench::workload::Workload;

/// Connections that a client keeps open.
pub const CLIENTS: u32 = 8;

/// Rows of the table of which single ones are selected.
pub const ROWS: u32 = 10_000;

/// How long a client may take beyond the time that it was given.
const GRACE: Duration = Duration::from_mins(1);

/// What one run of a client came to.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Run {
    /// Requests a second.
    pub throughput: f64,
    /// The 99th percentile of latency, milliseconds.
    pub p99_ms: f64,
    /// Requests that were answered, by the client's count.
    pub requests: u64,
}

/// A client's command line: it loads the server at a port of this machine for about this long.
pub struct Load {
    workload: Workload,
    seconds: u32,
    /// Program and arguments.
    pub command: Vec<String>,
    requests: u64,
}

impl Load {
    /// The usual client of a workload. `redis_rate` is about what the server does a second without pipelining: the
    /// number of requests, not the time, can be chosen there.
    pub fn new(workload: Workload, port: u16, seconds: u32, redis_rate: u64) -> Self {
        let (text, requests) = match workload {
            Workload::Nginx | Workload::Go | Workload::Node => {
                let path = workload.path();
                (format!("wrk -t1 --latency -c {CLIENTS} -d{seconds}s http://127.0.0.1:{port}{path}"), 0)
            }
            Workload::Redis | Workload::RedisPipelined => {
                let (depth, factor) = if workload == Workload::RedisPipelined { (16, 6) } else { (1, 1) };
                let requests = u64::from(seconds) * redis_rate * factor;
                let text = format!(
                    "redis-benchmark -h 127.0.0.1 -t get --csv -p {port} -c {CLIENTS} -n {requests} -P {depth}"
                );
                (text, requests)
            }
            Workload::MariadbText | Workload::MariadbPrepared => {
                let prepared = if workload == Workload::MariadbPrepared { "auto" } else { "disable" };
                let text = format!(
                    "{} --threads={CLIENTS} --time={seconds} --percentile=99 --db-ps-mode={prepared} run",
                    sysbench(port)
                );
                (text, 0)
            }
        };
        Self { workload, seconds, command: text.split(' ').map(str::to_owned).collect(), requests }
    }

    /// Runs it on this machine.
    pub fn run(&self) -> Result<Run> {
        let (program, arguments) = self.command.split_first().context("a client")?;
        let deadline = GRACE + Duration::from_secs(self.seconds.into());
        self.read(&command::succeed(Command::new(program).args(arguments), deadline)?.text())
    }

    /// Reads what the client printed.
    pub fn read(&self, text: &str) -> Result<Run> {
        match self.workload {
            Workload::Nginx | Workload::Go | Workload::Node => read_wrk(text),
            Workload::Redis | Workload::RedisPipelined => read_redis_benchmark(text, self.requests),
            Workload::MariadbText | Workload::MariadbPrepared => read_sysbench(text),
        }
    }
}

/// sysbench's point selects by primary key, without what is to be done.
pub fn sysbench(port: u16) -> String {
    format!(
        "sysbench oltp_point_select --db-driver=mysql --mysql-host=127.0.0.1 --mysql-port={port} --mysql-user=root \
         --mysql-db=bench --tables=1 --table-size={ROWS}"
    )
}

/// The rest of the line that begins with this.
fn after<'a>(text: &'a str, label: &str) -> Option<&'a str> {
    text.lines().find_map(|line| line.trim_start().strip_prefix(label)).map(str::trim)
}

fn first_number<T: std::str::FromStr>(text: Option<&str>, what: &'static str) -> Result<T> {
    let word = text.and_then(|text| text.split_whitespace().next()).context(what)?;
    word.trim_start_matches('(').parse().ok().context(what)
}

fn read_wrk(text: &str) -> Result<Run> {
    ensure!(!text.contains("Non-2xx"), "wrk got errors:\n{text}");
    let p99 = after(text, "99%").context("wrk's p99")?;
    let counted = text.lines().find(|line| line.contains(" requests in "));
    Ok(Run {
        throughput: first_number(after(text, "Requests/sec:"), "wrk's rate")?,
        p99_ms: milliseconds(p99)?,
        requests: first_number(counted, "wrk's count")?,
    })
}

/// Its columns: test, rps, and latencies in milliseconds: avg, min, p50, p95, p99, max.
fn read_redis_benchmark(text: &str, requests: u64) -> Result<Run> {
    let line = text.lines().find(|line| line.starts_with("\"GET\"")).context("redis-benchmark's result")?;
    let fields: Vec<&str> = line.split(',').map(|field| field.trim_matches('"')).collect();
    let number = |at: usize| first_number(fields.get(at).copied(), "redis-benchmark's result");
    Ok(Run { throughput: number(1)?, p99_ms: number(6)?, requests })
}

fn read_sysbench(text: &str) -> Result<Run> {
    let errors: u64 = first_number(after(text, "ignored errors:"), "sysbench's errors")?;
    let reconnects: u64 = first_number(after(text, "reconnects:"), "sysbench's reconnects")?;
    ensure!(errors == 0 && reconnects == 0, "sysbench got errors:\n{text}");
    let queries = after(text, "queries:");
    let rate = queries.and_then(|queries| queries.split_whitespace().nth(1));
    Ok(Run {
        throughput: first_number(rate, "sysbench's rate")?,
        p99_ms: first_number(after(text, "99th percentile:"), "sysbench's p99")?,
        requests: first_number(queries, "sysbench's count")?,
    })
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wrk_durations_are_read() {
        for (text, expected) in [("512.00us", 0.512), ("1.25ms", 1.25), ("2.00s", 2000.0)] {
            assert!((milliseconds(text).unwrap() - expected).abs() < 1e-9);
        }
        assert!(milliseconds("x").is_err());
    }

    const WRK: &str = "\
Running 1s test @ http://127.0.0.1:38080/
  1 threads and 2 connections
  Thread Stats   Avg      Stdev     Max   +/- Stdev
    Latency     1.41ms    2.33ms  20.55ms   88.80%
    Req/Sec     2.28k   681.74     2.91k    80.00%
  Latency Distribution
     50%  488.00us
     75%    1.15ms
     90%    4.11ms
     99%   11.59ms
  2275 requests in 1.00s, 759.81KB read
";

    #[test]
    fn what_wrk_prints_is_read() {
        let end = "Requests/sec:   2267.76\nTransfer/sec:    757.40KB\n";
        let run = read_wrk(&format!("{WRK}{end}")).unwrap();
        assert_eq!(run, Run { throughput: 2267.76, p99_ms: 11.59, requests: 2275 });
        let errors = format!("{WRK}  Non-2xx or 3xx responses: 1711\n{end}");
        assert!(read_wrk(&errors).is_err(), "answers that are errors are no measurement");
    }

    #[test]
    fn what_redis_benchmark_prints_is_read() {
        let text = "\"test\",\"rps\",\"avg_latency_ms\",\"min_latency_ms\",\"p50_latency_ms\",\"p95_latency_ms\",\
                    \"p99_latency_ms\",\"max_latency_ms\"\n\
                    \"GET\",\"666666.69\",\"0.099\",\"0.032\",\"0.103\",\"0.151\",\"0.231\",\"0.919\"\n";
        let run = read_redis_benchmark(text, 8000).unwrap();
        assert_eq!(run, Run { throughput: 666_666.69, p99_ms: 0.231, requests: 8000 });
        assert!(read_redis_benchmark("", 1).is_err());
    }

    const SYSBENCH: &str = "\
SQL statistics:
    queries performed:
        read:                            106542
        write:                           0
        other:                           0
        total:                           106542
    transactions:                        106542 (53158.85 per sec.)
    queries:                             106542 (53158.85 per sec.)
    ignored errors:                      0      (0.00 per sec.)
    reconnects:                          0      (0.00 per sec.)

General statistics:
    total time:                          2.0034s
    total number of events:              106542

Latency (ms):
         min:                                    0.02
         avg:                                    0.15
         max:                                   56.59
         99th percentile:                        0.65
         sum:                                15975.73
";

    #[test]
    fn what_sysbench_prints_is_read() {
        let run = read_sysbench(SYSBENCH).unwrap();
        assert_eq!(run, Run { throughput: 53_158.85, p99_ms: 0.65, requests: 106_542 });
        let reconnected = SYSBENCH.replace("reconnects:                          0", "reconnects:   3");
        assert!(read_sysbench(&reconnected).is_err(), "a connection that was lost is no measurement");
    }
}
