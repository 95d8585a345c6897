//! The workloads that are measured against the clock.

use anyhow::{Result, ensure};
use clap::ValueEnum;

use crate::setup::Need;

/// A server with its load.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Workload {
    /// nginx, one worker, a short static answer, under wrk.
    Nginx,
    /// A server of Go's net/http under wrk.
    Go,
    /// A server of Node.js' http under wrk.
    Node,
    /// redis-server under redis-benchmark: `GET`, one at a time on each connection.
    Redis,
    /// The same with 16 commands in one write.
    RedisPipelined,
    /// mariadbd under sysbench: selects of one row by primary key, as text.
    MariadbText,
    /// The same by prepared statements.
    MariadbPrepared,
}

impl Workload {
    /// Those whose servers and clients the guests' image has.
    pub const IN_GUEST: [Self; 3] = [Self::Nginx, Self::Redis, Self::RedisPipelined];

    /// The chosen ones; all that can be chosen if none is named.
    pub fn chosen(only: &[Self], all: &[Self]) -> Result<Vec<Self>> {
        let strange = only.iter().find(|workload| !all.contains(workload));
        ensure!(strange.is_none(), "`{}` is not among what runs here", strange.map_or("", |one| one.name()));
        let wanted = |workload: &&Self| only.is_empty() || only.contains(workload);
        Ok(all.iter().filter(wanted).copied().collect())
    }

    /// Its name on the command line and in the results.
    pub fn name(self) -> &'static str {
        match self {
            Self::Nginx => "nginx",
            Self::Go => "go",
            Self::Node => "node",
            Self::Redis => "redis",
            Self::RedisPipelined => "redis-pipelined",
            Self::MariadbText => "mariadb-text",
            Self::MariadbPrepared => "mariadb-prepared",
        }
    }

    /// The packages with its server and client.
    pub fn needs(self) -> &'static [Need] {
        match self {
            Self::Nginx => Need::BENCH_NGINX,
            Self::Go => Need::BENCH_GO,
            Self::Node => Need::BENCH_NODE,
            Self::Redis | Self::RedisPipelined => Need::BENCH_REDIS,
            Self::MariadbText | Self::MariadbPrepared => Need::BENCH_MARIADB,
        }
    }

    /// Requests that one call of the client's may carry.
    pub fn depth(self) -> u64 {
        if self == Self::RedisPipelined { 16 } else { 1 }
    }

    /// The path of HTTP requests.
    pub fn path(self) -> &'static str {
        match self {
            Self::Go => "/go-ok",
            Self::Node => "/node-ok",
            _ => "/",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn workloads_are_called_on_the_command_line_as_in_the_results() {
        for workload in Workload::value_variants() {
            assert_eq!(Workload::from_str(workload.name(), false), Ok(*workload));
        }
    }

    #[test]
    fn a_choice_is_a_part_of_all_or_an_error() {
        let all = Workload::IN_GUEST;
        assert_eq!(Workload::chosen(&[], &all).unwrap(), all);
        assert_eq!(Workload::chosen(&[Workload::Redis], &all).unwrap(), [Workload::Redis]);
        assert!(Workload::chosen(&[Workload::Go], &all).unwrap_err().to_string().contains("`go`"));
    }
}
