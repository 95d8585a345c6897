//! What a sandbox's clients called since the calls were taken last, by protocol and server: what the topology is made of.
//!
//! Differences, not totals, so that nothing of it outlives a step. Bounded: beyond [`CALLS_MAX`] servers, or where the tenant's
//! budget has no room, calls are counted for the server [`OTHER`].

use porthole_histogram::Histogram;

use super::{
    cost,
    golden::Golden,
    series::{Labels, OTHER},
};
use crate::protocol::{ErrorClass, Protocol};

/// Servers that are distinguished in one step; an agent distinguishes 512 at a time.
pub const CALLS_MAX: usize = 1_024;

/// Whom a client called, by what its guest reported.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Call {
    /// The protocol.
    pub protocol: Protocol,
    /// Address, or path of a socket; empty where it is not known.
    pub address: Box<str>,
    /// Port; empty for a path.
    pub port: Box<str>,
}

/// What came.
#[derive(Debug, Default)]
pub struct Calls {
    /// In the order of the calls.
    rows: Vec<(Call, Golden)>,
    /// Bytes of the texts and histograms.
    parts: usize,
}

impl Calls {
    /// Adds requests to a server; `admits` whether so many more bytes may be held.
    pub fn record(
        &mut self,
        protocol: Protocol,
        server: Labels<'_>,
        error: impl Into<Option<ErrorClass>>,
        came: &Histogram,
        admits: impl Fn(usize) -> bool,
    ) {
        let (mut address, mut port) = (server.peer_address, server.peer_port);
        let mut place = self.place(protocol, address, port);
        let new = size_of::<(Call, Golden)>() + texts(address, port) + cost::histogram(came);
        if place.is_err() && (self.rows.len() >= CALLS_MAX || !admits(new)) {
            (address, port) = (OTHER, "");
            place = self.place(protocol, address, port);
        }
        let at = place.unwrap_or_else(|at| {
            self.parts += texts(address, port);
            let call = Call { protocol, address: address.into(), port: port.into() };
            self.rows.insert(at, (call, Golden::default()));
            at
        });
        let golden = &mut self.rows[at].1;
        let before = cost::histogram(&golden.durations);
        golden.count(error.into(), came);
        self.parts = self.parts + cost::histogram(&golden.durations) - before;
    }

    fn place(&self, protocol: Protocol, address: &str, port: &str) -> Result<usize, usize> {
        self.rows.binary_search_by(|(call, _)| {
            (call.protocol, &*call.address, &*call.port).cmp(&(protocol, address, port))
        })
    }

    /// Bytes of memory.
    pub fn bytes(&self) -> usize {
        cost::block(self.rows.capacity() * size_of::<(Call, Golden)>()) + self.parts
    }

    /// Gives out what came.
    pub fn take(&mut self) -> Vec<(Call, Golden)> {
        std::mem::take(self).rows
    }
}

fn texts(address: &str, port: &str) -> usize {
    cost::text(address) + cost::text(port)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(address: &str) -> Labels<'_> {
        Labels { peer_address: address, peer_port: "80", ..Labels::default() }
    }

    fn count(rows: &[(Call, Golden)], address: &str) -> (u64, u64) {
        let rows = rows.iter().filter(|(call, _)| &*call.address == address);
        rows.fold((0, 0), |(requests, errors), (_, golden)| {
            (requests + golden.durations.count(), errors + golden.errors.total())
        })
    }

    #[test]
    fn calls_are_added_by_server_and_given_out_once() {
        let mut durations = Histogram::default();
        durations.record(1_000_000);
        let mut calls = Calls::default();
        for (address, error) in
            [("10.0.0.2", ErrorClass::None), ("10.0.0.1", ErrorClass::None), ("10.0.0.2", ErrorClass::Server)]
        {
            calls.record(Protocol::Http1, labels(address), error, &durations, |_| true);
        }
        let rows = calls.take();
        assert_eq!((rows.len(), count(&rows, "10.0.0.1"), count(&rows, "10.0.0.2")), (2, (1, 0), (2, 1)));
        assert_eq!((calls.take().len(), calls.bytes()), (0, 0));
    }

    #[test]
    fn servers_beyond_the_bounds_are_counted_together() {
        let mut durations = Histogram::default();
        durations.record(1_000_000);
        let mut calls = Calls::default();
        for number in 0..CALLS_MAX + 50 {
            let address = format!("10.0.{}.{}", number / 256, number % 256);
            calls.record(Protocol::Http1, labels(&address), ErrorClass::None, &durations, |_| true);
        }
        calls.record(Protocol::Http1, labels("10.0.0.1"), ErrorClass::None, &durations, |_| false);
        let rows = calls.take();
        assert_eq!((rows.len(), count(&rows, OTHER)), (CALLS_MAX + 1, (50, 0)));
        assert_eq!(count(&rows, "10.0.0.1"), (2, 0), "one that is known takes no more room");
        calls.record(Protocol::Http1, labels("10.0.0.1"), ErrorClass::None, &durations, |_| false);
        assert_eq!(count(&calls.take(), OTHER), (1, 0));
    }
}
