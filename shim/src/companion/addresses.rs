//! The sandbox's own addresses, as its network namespace on the host has them: put there by a network plugin before the sandbox
//! or between its creation and its start. The guest has no part in it.
//!
//! The namespace is entered by a thread that ends, before the companion is confined; what is left are two open files, which
//! go when they were read, because they keep the namespace.

use std::{
    fs::File,
    io::{self, Read as _, Seek as _},
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    os::unix::fs::MetadataExt as _,
    path::Path,
};

use nix::sched::{CloneFlags, setns};

use crate::bundle;

/// Addresses of a sandbox that are taken.
const ADDRESSES_MAX: usize = 16;

/// Bytes of a file that are read; routes of a sandbox are few.
const FILE_BYTES_MAX: u64 = 256 << 10;

/// Flag of an address that was set and not found by itself (`IFA_F_PERMANENT` of `linux/if_addr.h`).
const PERMANENT: u32 = 0x80;

/// The tables of a sandbox's network namespace.
#[derive(Debug)]
pub struct SandboxNetwork {
    /// `/proc/net/fib_trie`.
    ipv4: File,
    /// `/proc/net/if_inet6`, where the kernel has IPv6.
    ipv6: Option<File>,
}

impl SandboxNetwork {
    /// Opens those of the sandbox with this bundle; nothing where it has no network of its own. Called before the companion is
    /// confined, and has no other thread.
    pub fn open(bundle: &Path) -> Option<Self> {
        let namespace = bundle::network_namespace(bundle)?;
        let opened = std::thread::spawn(move || Self::enter(&namespace)).join().ok()?;
        opened
            .inspect_err(|error| tracing::debug!(%error, "the sandbox's addresses cannot be read"))
            .ok()
            .flatten()
    }

    fn enter(namespace: &Path) -> io::Result<Option<Self>> {
        let namespace = File::open(namespace)?;
        let of = |file: std::fs::Metadata| (file.dev(), file.ino());
        if of(namespace.metadata()?) == of(std::fs::metadata("/proc/thread-self/ns/net")?) {
            // The host's: its addresses are not the sandbox's.
            return Ok(None);
        }
        setns(namespace, CloneFlags::CLONE_NEWNET)?;
        let table = |name| File::open(Path::new("/proc/thread-self/net").join(name));
        Ok(Some(Self { ipv4: table("fib_trie")?, ipv6: table("if_inet6").ok() }))
    }

    /// The addresses that there are now, but for those of the loopback interface and of single links.
    pub fn addresses(&mut self) -> Vec<IpAddr> {
        let mut addresses = Vec::new();
        addresses.extend(text(&mut self.ipv4).iter().flat_map(|text| ipv4(text)).map(IpAddr::V4));
        if let Some(table) = &mut self.ipv6 {
            addresses.extend(text(table).iter().flat_map(|text| ipv6(text)).map(IpAddr::V6));
        }
        addresses.sort_unstable();
        addresses.dedup();
        addresses.truncate(ADDRESSES_MAX);
        addresses
    }
}

fn text(file: &mut File) -> Option<String> {
    let mut text = String::new();
    file.rewind().ok()?;
    file.take(FILE_BYTES_MAX).read_to_string(&mut text).ok()?;
    Some(text)
}

/// Local addresses of `/proc/net/fib_trie`: a leaf `|-- 10.0.0.2`, and a line `/32 host LOCAL` below it.
fn ipv4(table: &str) -> Vec<Ipv4Addr> {
    let mut leaf = None;
    let mut addresses = Vec::new();
    for line in table.lines().map(str::trim) {
        if let Some(address) = line.strip_prefix("|-- ") {
            leaf = address.parse::<Ipv4Addr>().ok();
        } else if line == "/32 host LOCAL" {
            addresses.extend(leaf.filter(|address| !address.is_loopback()));
        }
    }
    addresses
}

/// Addresses of `/proc/net/if_inet6`: 32 hexadecimal digits, index of the interface, length of the prefix, scope, flags, name.
/// Those that were set, of the widest scope.
fn ipv6(table: &str) -> Vec<Ipv6Addr> {
    let address = |line: &str| {
        let mut fields = line.split_ascii_whitespace();
        let address = fields.next().filter(|digits| digits.len() == 32)?;
        let number = |field: Option<&str>| u32::from_str_radix(field?, 16).ok();
        let scope = number(fields.nth(2))?;
        let flags = number(fields.next())?;
        let address = Ipv6Addr::from(u128::from_str_radix(address, 16).ok()?);
        (scope == 0 && flags & PERMANENT != 0).then_some(address)
    };
    table.lines().filter_map(address).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn local_addresses_are_found_in_the_kernels_tables() {
        let fib_trie = "Main:
  +-- 0.0.0.0/0 3 0 5
     |-- 0.0.0.0
        /0 universe UNICAST
     +-- 10.231.0.0/16 2 0 2
        |-- 10.231.0.0
           /16 link UNICAST
        |-- 10.231.0.7
           /32 host LOCAL
        |-- 10.231.255.255
           /32 link BROADCAST
Local:
  +-- 127.0.0.0/8 2 0 2
        |-- 127.0.0.0
           /8 host LOCAL
        |-- 127.0.0.1
           /32 host LOCAL
";
        assert_eq!(ipv4(fib_trie), [Ipv4Addr::new(10, 231, 0, 7)]);
        let if_inet6 = "fd00000000000000000000000000002a 02 40 00 80     eth0
00000000000000000000000000000001 01 80 10 80       lo
fe80000000000000000000fffe0000ff 02 40 20 80     eth0
2001000000000000000000000000002a 02 40 00 00     eth0
garbage
";
        assert_eq!(ipv6(if_inet6), ["fd00::2a".parse::<Ipv6Addr>().expect("address")]);
        assert!(ipv4("|-- 999.0.0.1\n/32 host LOCAL\n").is_empty());
    }

    #[test]
    fn the_hosts_own_network_is_no_sandboxs() {
        let own = Path::new("/proc/thread-self/ns/net");
        assert!(SandboxNetwork::enter(own).expect("opened").is_none());
        let directory = tempfile::tempdir().expect("directory");
        for spec in
            ["{}", r#"{"linux":{"namespaces":[{"type":"network"},{"type":"pid","path":"/proc/1/ns/pid"}]}}"#]
        {
            std::fs::write(directory.path().join("config.json"), spec).expect("written");
            assert!(SandboxNetwork::open(directory.path()).is_none(), "{spec}");
        }
    }
}
