//! Packet mode: for kernels that do not let programs trace system calls.
//!
//! ```text
//! record of a packet ──► PacketSource ──► FlowTable (libs/packet) ──► l7 ──► exchanges ──► series
//! ```
//!
//! - [`source`]: from the programs' records to exchanges. Which container a socket belongs to is in [`crate::cgroups`].
//!
//! What packets do not have is absent: processes, unix-domain sockets, the end of a container. Addresses are taken as one
//! set: connections of two network namespaces between the same addresses and ports at the same time are one.

pub mod source;

/// What packets do not show, one sentence each.
const LIMITATIONS: [&str; 3] = [
    "Connections over unix-domain sockets are not seen: they have no packets.",
    "Packets do not tell which process sent them, nor when a container's last process ends: what it did in its last \
     second may be missing.",
    "Durations are between packets: what a message waits for before it is sent, or after it was received, is not in them.",
];

/// What this mode cannot observe, one sentence each; `why` it was taken.
pub fn limitations(why: Option<&str>) -> Vec<String> {
    let why = why.map(|why| format!("Packets are looked at, because system calls cannot be: {why}."));
    why.into_iter().chain(LIMITATIONS.map(str::to_owned)).collect()
}
