//! Ports for programs that cannot choose one by themselves.

use std::{
    collections::BTreeSet,
    hash::{BuildHasher, RandomState},
    io,
    net::{Ipv4Addr, SocketAddr, TcpListener},
    sync::{Mutex, PoisonError},
};

/// Where the kernel takes no ports from: neither for listeners at port 0 nor for clients, of which tests have many. So a port
/// stays free until the program listens, and also while it restarts.
const PORTS: std::ops::Range<u16> = 20_000..27_000;

/// Attempts until there is an error.
const ATTEMPTS: usize = 100;

/// What this process was given: tests of a program run beside each other.
static GIVEN: Mutex<BTreeSet<u16>> = Mutex::new(BTreeSet::new());

/// An address of the loopback interface on which nothing listens, and which this process was not given before.
pub fn free_address() -> io::Result<SocketAddr> {
    let random = RandomState::new();
    let mut last = None;
    for attempt in 0..ATTEMPTS {
        let count = u64::from(PORTS.end - PORTS.start);
        let port = u16::try_from(random.hash_one(attempt) % count).map_or(PORTS.start, |at| PORTS.start + at);
        if !GIVEN.lock().unwrap_or_else(PoisonError::into_inner).insert(port) {
            continue;
        }
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        match TcpListener::bind(address) {
            Ok(_) => return Ok(address),
            Err(error) => last = Some(error),
        }
    }
    Err(last.unwrap_or_else(|| io::Error::other("all ports were given")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_none_that_the_kernel_gives_to_others() {
        let range = std::fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range").expect("the range");
        let mut bounds = range.split_whitespace().map(|bound| bound.parse::<u16>().expect("a port"));
        let given = bounds.next().expect("a first one")..=bounds.next().expect("a last one");
        let address = free_address().expect("an address");
        // A host may be configured to give any port.
        assert!(given.contains(&PORTS.start) || !given.contains(&address.port()), "{address}");
    }

    #[test]
    fn no_address_is_given_twice() {
        let given: BTreeSet<_> = (0..1000).map(|_| free_address().expect("an address")).collect();
        assert_eq!(given.len(), 1000);
    }
}
