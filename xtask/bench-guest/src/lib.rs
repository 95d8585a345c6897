//! What the host and the guest of `cargo xtask bench instructions` agree on: the plan that the guest reads from its
//! initrd, and the rows that it writes to its console.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// Path of the plan in the initrd.
pub const PLAN: &str = "/plan.json";

/// Path of the agent in the initrd.
pub const AGENT: &str = "/porthole-agent";

/// Argument with which this program is an echo server on the port that follows.
pub const ECHO: &str = "echo";

/// Lines of the console that begin with this carry a [`Line`]; all others are messages for people.
pub const MARK: &str = "@bench ";

/// Begins the lines that the stand-in of Kata's agent prints; the last one is `done`, or `failed: ` and the reason.
pub const STAND_IN_MARK: &str = "@stand-in ";

/// The stand-in's path where it is to load the guest's vsock and become the first process of Porthole's agent.
pub const STAND_IN_WITH_VSOCK: &str = "/stand-in-with-vsock";

/// What is measured.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Plan {
    /// Arguments of the agent.
    pub agent: Vec<String>,
    /// Whether the agent logs the steps of its start, which takes time of it.
    pub log: bool,
    /// The workloads, measured one after the other.
    pub workloads: Vec<Workload>,
    /// Whether to measure once more with the kernel's accounting of eBPF programs.
    pub programs: bool,
}

/// A server with its load.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Workload {
    /// Name in the results.
    pub name: String,
    /// The server, unless the load needs none.
    pub server: Option<Server>,
    /// Its client.
    pub load: Load,
    /// Requests before those that are measured.
    pub warm_up: u64,
    /// Requests that are measured.
    pub requests: u64,
    /// Exchanges that the agent has to count for each request: one at each end, none of an unknown protocol.
    pub exchanges: u64,
}

/// A program that listens on a port of the loopback interface.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Server {
    /// Program and arguments.
    pub command: Vec<String>,
    /// The port.
    pub port: u16,
}

/// What makes requests.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum Load {
    /// Requests of one shape, whose responses all have one length, on one connection.
    Stream {
        /// What is exchanged before the first request.
        greeting: Greeting,
        /// The request. A run of [`DIGIT`] is replaced by a number of as many digits, another one in each request.
        request: Vec<u8>,
        /// Requests in one write.
        depth: u64,
        /// Part of every response.
        expected: String,
    },
    /// A client that reads numbers of requests from its standard input, a line each, makes as many, and answers each
    /// line with `done`.
    Program(Vec<String>),
    /// System calls on something that is no socket.
    Calls(Calls),
}

/// Stands for a digit in a request of [`Load::Stream`].
pub const DIGIT: u8 = b'#';

/// A client's first request and response.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Greeting {
    /// Nothing.
    None,
    /// The login of MySQL's protocol, as `root` without a password, into the database `bench`.
    Mysql,
}

/// System calls on something that is no socket; each write and each read is one request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Calls {
    /// Writes of one byte to `/dev/null`.
    Null,
    /// Writes and reads of one byte through a pipe.
    Pipe,
    /// Writes of one byte to the end of a file in memory.
    File,
}

/// When a figure was taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Phase {
    /// Before the agent was started.
    Without,
    /// With the agent.
    With,
    /// With the agent and the accounting of programs.
    Accounted,
}

/// What was measured of one workload in one phase.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Row {
    /// The workload's name.
    pub workload: String,
    /// When.
    pub phase: Phase,
    /// Requests made.
    pub requests: u64,
    /// Guest nanoseconds from the first request to the last response.
    pub elapsed_ns: u64,
    /// Of those, the agent's process.
    pub agent_ns: u64,
    /// Exchanges that the agent counted.
    pub counted: u64,
    /// What each eBPF program took, in [`Phase::Accounted`].
    pub programs: BTreeMap<String, Program>,
}

/// The kernel's accounting of one eBPF program.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Program {
    /// How often it ran.
    pub runs: u64,
    /// How long, guest nanoseconds.
    pub ns: u64,
}

/// What the guest writes to its console behind [`MARK`].
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum Line {
    /// The machine that measures.
    Guest {
        /// As `uname -r` prints it.
        release: String,
    },
    /// The agent's programs run.
    Loaded {
        /// From the agent's start to its programs being attached, guest nanoseconds.
        ns: u64,
    },
    /// The agent's log of its start.
    Log(String),
    /// A measurement.
    Row(Row),
    /// The measurement ended too early.
    Failed(String),
    /// Everything was measured.
    Done,
}
