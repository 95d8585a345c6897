//! Kernel keys: what the exchanges of one series have in common, as the programs know it, and the slots into which they
//! are aggregated.
//!
//! The agent assigns a [`KernelKey`] to each [`RequestKey`] that recurs, and in it a [`Slot`] to each status. Exchanges
//! without a slot go to the agent as [`Completed`].

/// What the exchanges of one kernel key have in common, except for the status.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[repr(C)]
pub struct RequestKey {
    /// The process's control group.
    pub cgroup: u64,
    /// Of a client: hash of the remote address. 0 for servers, because their clients' ports are many and short-lived.
    pub remote: u64,
    /// HTTP: hash of method and path as [`crate::path::PathHash`] makes it. Redis: [`crate::redis::RedisCommand::id`].
    /// MySQL and PostgreSQL: the statement's hash as [`crate::sql::SqlHash`] makes it; for a MySQL command without a
    /// statement the command's number, below [`COMMANDS_MAX`].
    pub request: u64,
    /// One of [`crate::offload::protocol`].
    pub protocol: u32,
    /// One of [`crate::offload::side`].
    pub side: u32,
}

/// Numbers of MySQL's commands are lower than this.
pub const COMMANDS_MAX: u64 = 0x100;

/// Statuses for which one kernel key has slots.
pub const STATUSES_MAX: usize = 8;

/// The entry of a kernel key.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct KernelKey {
    /// Changes when the entry is reused for another key.
    pub generation: u32,
    /// Slots in use.
    pub used: u32,
    /// Their statuses: HTTP's; for other protocols 0, which is success.
    pub statuses: [u32; STATUSES_MAX],
    /// Their indexes.
    pub slots: [u32; STATUSES_MAX],
}

/// Most kernel keys.
pub const KERNEL_KEYS_MAX: u32 = 768;

/// Most pairs of a kernel key and a status.
pub const SLOTS_MAX: u32 = 768;

/// Most copies of the slots: CPUs share them when there are more.
pub const STRIPES_MAX: u32 = 8;

/// Which exchanges that have a slot are sampled as spans instead; all in nanoseconds, [`u64::MAX`] for never.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct SpanSampling {
    /// From this duration on an exchange is slow.
    pub slow: u64,
    /// Least time between two samples of a slot for failed and slow exchanges.
    pub failures_interval: u64,
    /// The same for any other exchange.
    pub interval: u64,
}

/// What the CPUs of one stripe aggregated in one slot, cumulative; all of it wraps.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct Slot {
    /// Sum of durations, nanoseconds.
    pub duration_ns: u64,
    /// Sum of the requests' sizes, bytes.
    pub request_bytes: u64,
    /// Sum of the responses' sizes, bytes.
    pub response_bytes: u64,
    /// When the newest one ended, nanoseconds of `CLOCK_MONOTONIC`.
    pub last: u64,
    /// When the newest one that was sampled as a span ended; that one is not counted here.
    pub sampled: u64,
    /// Exchanges by bucket: index 0 is [`porthole_histogram::INDEX_MIN`].
    pub buckets: [u32; porthole_histogram::BUCKETS],
    /// Zero.
    pub reserved: u32,
}

/// Bytes of an outcome's text that go to user space.
pub const TEXT_MAX: usize = 48;

/// Bytes of an HTTP request's head that go to user space, from the first line on that names its trace: enough for each of
/// the forms that are known, also of B3's four lines.
pub const CONTEXT_MAX: usize = 136;

/// An exchange whose key or status has no slot, or that is sampled as a span.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Completed {
    /// [`crate::record::kind::COMPLETED`] or [`crate::record::kind::SAMPLED`].
    pub kind: u32,
    /// HTTP: the status. Otherwise 0, or 1 for an error.
    pub status: u32,
    /// The connection.
    pub connection: u64,
    /// Counts the connection's records.
    pub sequence: u64,
    /// When the request's first byte moved, nanoseconds of `CLOCK_MONOTONIC`.
    pub start: u64,
    /// When the response's last byte moved.
    pub end: u64,
    /// The request's size, bytes.
    pub request_bytes: u64,
    /// The response's size, bytes.
    pub response_bytes: u64,
    /// Process that moved the last bytes, in the outermost namespace.
    pub tgid: u32,
    /// The same of the thread.
    pub tid: u32,
    /// One of [`crate::thread::serving`]: of the thread or goroutine that moved all of request and response.
    pub serving: u32,
    /// Where [`Self::serving`] is a goroutine's: the lower half of [`crate::thread::goroutine::key`]. A [`crate::record::Chunk`] has it in
    /// place of the thread, as it has no room for both.
    pub goroutine: u32,
    /// Of a server: where [`Self::serving`] has [`crate::thread::serving::PROCESS`], from when until when the process served this request
    /// alone.
    pub alone: [u64; 2],
    /// Its key.
    pub key: RequestKey,
    /// Redis: the beginning of an error's text. MySQL: an error's packet, from its number on. PostgreSQL: an error's
    /// fields, or the command's tag. Each of these [`TEXT_MAX`] bytes long. HTTP: the request's lines with a trace context, and
    /// what follows them; the first byte is zero where there is none.
    pub text: [u64; CONTEXT_MAX / 8],
}
