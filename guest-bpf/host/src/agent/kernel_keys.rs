//! What requests are called of which the programs know a hash or a number.

use std::collections::HashMap;

use porthole_bpf_types::kernel_key::RequestKey;
use porthole_l7::sql::{Dialect, name::statement_name};
use porthole_protocol::Offload;

use super::request_numbers::{is_numbered, numbered_name};

/// The names, by hash; the agent's is bounded besides, and knows which keys the programs aggregate.
#[derive(Debug, Default)]
pub struct KernelKeys(HashMap<u64, Vec<u8>>);

impl KernelKeys {
    /// Takes the request of a hash, from its first byte.
    pub fn learn(&mut self, protocol: u64, hash: u64, request: &[u8]) {
        let dialect = match u16::try_from(protocol).ok().and_then(Offload::from_number) {
            Some(Offload::Mysql) => Some(Dialect::Mysql),
            Some(Offload::Postgresql) => Some(Dialect::Postgresql),
            Some(Offload::Http1 | Offload::Redis) | None => None,
        };
        let name = match dialect {
            Some(dialect) => statement_name(dialect, request.strip_suffix(&[0]).unwrap_or(request)).into(),
            None => request.split_inclusive(|&byte| byte == b'\n').next().unwrap_or_default().to_vec(),
        };
        self.0.entry(hash).or_insert(name);
    }

    /// Takes the name of a prepared statement's executions.
    pub fn learn_prepared(&mut self, hash: u64, name: &[u8]) {
        self.0.entry(hash).or_insert_with(|| name.to_vec());
    }

    /// A request's name; empty when it is not known.
    pub fn name(&self, key: &RequestKey) -> &[u8] {
        if is_numbered(key) {
            return numbered_name(key);
        }
        self.0.get(&key.request).map_or(&[], Vec::as_slice)
    }
}
