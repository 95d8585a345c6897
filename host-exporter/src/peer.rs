//! The other end of a connection, as agents report it: `address:port`, `[address]:port`, or a socket's path.

use std::{fmt, net::IpAddr};

/// An end, read once.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Peer {
    /// An address, and its port where the guest knows it.
    Address(IpAddr, Option<u16>),
    /// A socket's path, or its abstract name with `@`: within the sandbox.
    Path(Box<str>),
    /// What is neither, with what stands for its port: `other`, or a name that a guest reports.
    Name(Box<str>, Box<str>),
}

impl Peer {
    /// An end by the labels of its address and its port ([`split`]). An IPv4 address that is written as an IPv6 one is the IPv4 one.
    pub fn of(address: &str, port: &str) -> Self {
        let number = if port.is_empty() { Some(None) } else { port.parse().ok().map(Some) };
        match (address.parse::<IpAddr>(), number) {
            (Ok(address), Some(number)) => Self::Address(address.to_canonical(), number),
            _ if address.starts_with(['/', '@']) => Self::Path(address.into()),
            _ => Self::Name(address.into(), port.into()),
        }
    }

    /// Its address or name, as a label.
    pub fn address(&self) -> String {
        match self {
            Self::Address(address, _) => address.to_string(),
            Self::Path(name) | Self::Name(name, _) => name.to_string(),
        }
    }

    /// Its port as a label; empty without one.
    pub fn port(&self) -> String {
        match self {
            Self::Address(_, port) => port.map_or_else(String::new, |port| port.to_string()),
            Self::Path(_) => String::new(),
            Self::Name(_, port) => port.to_string(),
        }
    }

    /// Texts that it has in memory of their own.
    pub fn texts(&self) -> [&str; 2] {
        match self {
            Self::Address(..) => ["", ""],
            Self::Path(name) => [name, ""],
            Self::Name(name, port) => [name, port],
        }
    }
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address(address, None) => address.fmt(f),
            Self::Address(address, Some(port)) => std::net::SocketAddr::new(*address, *port).fmt(f),
            Self::Path(path) => f.write_str(path),
            Self::Name(name, port) => f.write_str(&joined(name, port)),
        }
    }
}

/// `address:port`, with brackets where an address has colons of its own.
pub fn joined(address: &str, port: &str) -> String {
    match port {
        "" => address.to_owned(),
        _ if address.contains(':') => format!("[{address}]:{port}"),
        _ => format!("{address}:{port}"),
    }
}

/// Address and port of `address:port`, `[address]:port`, or a socket's path, which has no port.
pub fn split(peer: &str) -> (&str, &str) {
    let whole = (peer, "");
    let Some((address, port)) = peer.rsplit_once(':') else { return whole };
    if peer.starts_with('/') || port.is_empty() || !port.bytes().all(|byte| byte.is_ascii_digit()) {
        return whole;
    }
    let bare = address.strip_prefix('[').and_then(|address| address.strip_suffix(']'));
    match bare {
        Some(bare) => (bare, port),
        // An IPv6 address without brackets has no port of its own that could be distinguished from its last group.
        None if address.contains(':') => whole,
        None => (address, port),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn address_and_port_are_separated() {
        assert_eq!(split("10.0.0.1:80"), ("10.0.0.1", "80"));
        assert_eq!(split("catalog:80"), ("catalog", "80"));
        assert_eq!(split("[::1]:80"), ("::1", "80"));
        assert_eq!(split("::1:80"), ("::1:80", ""));
        assert_eq!(split("/run/mysqld.sock"), ("/run/mysqld.sock", ""));
        assert_eq!(split("/run/a:80"), ("/run/a:80", ""));
        assert_eq!(split(""), ("", ""));
    }

    #[test]
    fn an_end_is_written_as_it_was_read() {
        for (peer, shown) in [
            ("10.0.0.1:80", "10.0.0.1:80"),
            ("[fd00::1]:80", "[fd00::1]:80"),
            ("[::ffff:10.0.0.1]:80", "10.0.0.1:80"),
            ("fd00::1", "fd00::1"),
            ("/run/a:80", "/run/a:80"),
            ("@mysql", "@mysql"),
            ("catalog:80", "catalog:80"),
            ("10.0.0.1:99999", "10.0.0.1:99999"),
            ("other", "other"),
            ("", ""),
        ] {
            let (address, port) = split(peer);
            let peer = Peer::of(address, port);
            assert_eq!(peer.to_string(), shown);
            assert_eq!(joined(&peer.address(), &peer.port()), shown);
        }
    }
}
