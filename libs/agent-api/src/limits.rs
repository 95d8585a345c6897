//! Bounds on what crosses between guest and host. Both sides keep to them; the host enforces them.

use std::time::Duration;

/// The contract version that this build supports.
pub const CONTRACT_VERSION: u32 = 1;

/// Guest vsock port on which the agent listens. Below 1024, so that it takes `CAP_NET_BIND_SERVICE` to listen there
/// (`net/vmw_vsock/af_vsock.c`, `LAST_RESERVED_PORT`). Kata uses 1024 to 1027 and 10240.
pub const AGENT_VSOCK_PORT: u32 = 1000;

/// Context id of the host (vsock(7), `VMADDR_CID_HOST`): the only peer that the agent accepts.
pub const HOST_CID: u32 = 2;

/// Largest number of series in one batch; a full state is sent as several batches.
pub const BATCH_SERIES_MAX: usize = 512;

/// Largest number of spans in one batch.
pub const BATCH_SPANS_MAX: usize = 256;

/// Largest number of containers, the guest itself included, whose resources are in one batch. All of a sandbox are in one.
pub const BATCH_RESOURCES_MAX: usize = 65;

/// Largest number of addresses whose connections are in one batch.
pub const BATCH_DEPENDENCIES_MAX: usize = 64;

/// Largest batch on the wire, bytes: one that would be larger is sent as several.
pub const BATCH_BYTES_MAX: usize = 240 << 10;

/// Largest length of any string in a series key or a span, in bytes.
pub const KEY_STRING_MAX: usize = 256;

/// Largest length of an operation and of a status, in bytes.
pub const KEY_WORD_MAX: usize = 64;

/// Largest number of series that the host keeps for one sandbox, whatever the guest sends.
pub const SANDBOX_SERIES_MAX: usize = 4_096;

/// Deadline of one unary call.
pub const CALL_DEADLINE: Duration = Duration::from_secs(5);

/// Default least time between two batches of one `Watch`: with the tenth of a second that the agent may take to look, what
/// it reports is less than a second old.
pub const WATCH_INTERVAL: Duration = Duration::from_millis(800);
