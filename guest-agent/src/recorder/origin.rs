//! Where an exchange was seen.

use porthole_agent_api::agent::ParentCertainty;

use super::{containers::ContainerIndex, peer::Peer};

/// Where an exchange was seen.
#[derive(Clone, Copy, Debug)]
pub struct Origin<'a> {
    /// The process's container.
    pub container: ContainerIndex,
    /// That container's id.
    pub container_id: &'a str,
    /// The other end of the connection; an exchange may have one of its own.
    pub peer: &'a Peer,
    /// What else is known of it.
    pub details: Details<'a>,
}

/// What is known of an exchange and has no part in its series.
#[derive(Clone, Copy, Debug, Default)]
pub struct Details<'a> {
    /// This end of the connection.
    pub local: Option<&'a Peer>,
    /// Process that moved the last bytes, in the outermost pid namespace; 0 when it is not known.
    pub process: u32,
    /// The same of the thread; 0 where only the goroutine is known.
    pub thread: u32,
    /// Number of the goroutine that moved them, of a process of Go.
    pub goroutine: Option<u32>,
    /// The programs in the kernel sampled it as a span.
    pub sampled: bool,
    /// What the thread or goroutine served meanwhile.
    pub serving: Serving,
    /// The same of the whole process.
    pub process_serving: ProcessServing,
}

/// What of a process reads requests and makes calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Worker {
    /// A thread.
    Thread(u32),
    /// A goroutine, which is in one thread after the other.
    Goroutine(u32),
}

impl Details<'_> {
    /// Process and worker that moved the last bytes.
    pub fn worker(&self) -> (u32, Worker) {
        (self.process, self.goroutine.map_or(Worker::Thread(self.thread), Worker::Goroutine))
    }

    /// Whether the programs in the kernel sample it with the request that it is, or that it is made for.
    pub fn is_sampled_with_request(&self) -> bool {
        matches!(self.serving, Serving::One { sampled: true, .. }) || self.process_serving.is_sampled()
    }

    /// Whether its worker or process served one request.
    pub fn serves_one(&self) -> bool {
        self.serving != Serving::Unknown || self.process_serving != ProcessServing::Unknown
    }

    /// How it is known that calls that the worker makes meanwhile are made for this request, if it is.
    pub fn certainty(&self) -> Option<ParentCertainty> {
        match (self.serving, self.goroutine) {
            (Serving::Unknown, _) => None,
            (Serving::One { always: false, .. }, _) => Some(ParentCertainty::PARENT_CERTAINTY_TASK),
            (Serving::One { .. }, None) => Some(ParentCertainty::PARENT_CERTAINTY_THREAD),
            (Serving::One { .. }, Some(_)) => Some(ParentCertainty::PARENT_CERTAINTY_GOROUTINE),
        }
    }
}

/// What the thread or goroutine that moved all of an exchange served meanwhile.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Serving {
    /// Nothing, several requests, or that is not known.
    #[default]
    Unknown,
    /// One request: this server's exchange, or the one that this client's is made for.
    One {
        /// It never serves several.
        always: bool,
        /// The programs in the kernel sample the server's exchange.
        sampled: bool,
    },
}

/// What the process that moved all of an exchange served meanwhile.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ProcessServing {
    /// Nothing, several requests, or that is not known.
    #[default]
    Unknown,
    /// Of a client's exchange: one request, when the exchange ended, or when it was sent.
    One {
        /// The programs in the kernel sample the server's exchange.
        sampled: bool,
    },
    /// Of a client's exchange: one request that the agent follows itself.
    Followed,
    /// Of a server's: that one alone, from the first one of these times until the other one, nanoseconds of the monotonic clock.
    Alone {
        /// The times.
        during: (u64, u64),
        /// The programs in the kernel sample it.
        sampled: bool,
    },
}

impl ProcessServing {
    /// Whether the programs know that it served one request, which is sampled.
    pub fn is_sampled(self) -> bool {
        matches!(self, Self::One { sampled: true } | Self::Alone { sampled: true, .. })
    }

    /// When the process served this server's exchange alone.
    pub fn alone(self) -> Option<(u64, u64)> {
        if let Self::Alone { during, .. } = self { Some(during) } else { None }
    }
}
