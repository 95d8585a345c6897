//! Requests that the programs know by a number, and not by a hash.

use porthole_bpf_types::kernel_key::{COMMANDS_MAX, RequestKey};
use porthole_protocol::Offload;

/// Every byte, at its place.
static BYTES: [u8; 256] = {
    let mut bytes = [0; 256];
    let mut byte = u8::MAX;
    while byte > 0 {
        bytes[byte as usize] = byte;
        byte -= 1;
    }
    bytes
};

/// Whether a request is known by a number: a Redis command, or a MySQL command without a statement.
pub fn is_numbered(key: &RequestKey) -> bool {
    match u16::try_from(key.protocol).ok().and_then(Offload::from_number) {
        Some(Offload::Redis) => true,
        Some(Offload::Mysql) => key.request < COMMANDS_MAX,
        Some(Offload::Http1 | Offload::Postgresql) | None => false,
    }
}

/// What a numbered request is called: the byte of a MySQL command; empty for Redis, whose numbers `l7` knows.
pub fn numbered_name(key: &RequestKey) -> &'static [u8] {
    let number = usize::try_from(key.request).unwrap_or(usize::MAX);
    let of_mysql = |_: &&[u8]| key.protocol == u32::from(Offload::Mysql.number());
    BYTES.get(number..=number).filter(of_mysql).unwrap_or_default()
}
