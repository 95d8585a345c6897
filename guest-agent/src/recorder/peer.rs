//! The ends of a connection, as text.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use porthole_bpf_types::record::{Open, UNIX_PATH_MAX};
use porthole_l7::ClientId;

const AF_UNIX: u16 = 1;
const AF_INET: u16 = 2;
const AF_INET6: u16 = 10;

/// Who is at the other end of a connection.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Peer {
    /// Not known: an unconnected datagram socket, an unnamed unix socket.
    Unknown,
    /// An address and port.
    Internet(SocketAddr),
    /// The path of a unix socket, or `@` and its abstract name.
    Unix(Box<str>),
}

impl Peer {
    /// The remote end of a connection that was announced.
    pub fn of(open: &Open) -> Self {
        if open.family == AF_UNIX {
            Self::unix(open)
        } else {
            Self::internet(open.family, open.remote, open.remote_port)
        }
    }

    /// The peer as a client, whose ports do not matter.
    pub fn client(&self) -> ClientId {
        match self {
            Self::Unknown => ClientId::default(),
            Self::Internet(address) => ClientId::of(address.ip()),
            Self::Unix(path) => ClientId::of(path),
        }
    }

    /// The local end of a connection that was announced; unix sockets have one name for both.
    pub fn local_of(open: &Open) -> Self {
        Self::internet(open.family, open.local, open.local_port)
    }

    /// An address of a family, and its port.
    pub fn internet(family: u16, address: [u8; 16], port: u16) -> Self {
        let ip = match family {
            AF_INET => {
                let [a, b, c, d, ..] = address;
                IpAddr::V4(Ipv4Addr::new(a, b, c, d))
            }
            // A mapped address is the IPv4 one that the other end sees.
            AF_INET6 => Ipv6Addr::from(address).to_canonical(),
            _ => return Self::Unknown,
        };
        if port == 0 { Self::Unknown } else { Self::Internet(SocketAddr::new(ip, port)) }
    }

    fn unix(open: &Open) -> Self {
        let name = open.path.get(..(open.path_len as usize).min(UNIX_PATH_MAX)).unwrap_or_default();
        match name {
            [] => Self::Unknown,
            // Abstract names have no end but their length.
            [0, rest @ ..] => Self::Unix(format!("@{}", String::from_utf8_lossy(rest)).into()),
            _ => {
                let len = name.iter().position(|&byte| byte == 0).unwrap_or(name.len());
                Self::Unix(String::from_utf8_lossy(&name[..len]).into())
            }
        }
    }
}

impl std::fmt::Display for Peer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Unknown => Ok(()),
            Self::Internet(address) => address.fmt(f),
            Self::Unix(path) => f.write_str(path),
        }
    }
}

#[cfg(test)]
#[allow(clippy::cast_possible_truncation)]
pub(crate) mod tests {
    use porthole_bpf_types::{connection::transport, record::kind};

    use super::*;

    /// A TCP connection over IPv4 loopback to port 80.
    pub(crate) fn open(connection: u64) -> Open {
        let mut loopback = [0; 16];
        loopback[..4].copy_from_slice(&[127, 0, 0, 1]);
        Open {
            kind: kind::OPEN,
            tgid: 1,
            connection,
            sequence: 0,
            socket: connection + 0x1000,
            cgroup: 1,
            timestamp: 0,
            family: AF_INET,
            local_port: 40_000,
            remote_port: 80,
            transport: transport::TCP,
            role: 0,
            local: loopback,
            remote: loopback,
            path_len: 0,
            path: [0; UNIX_PATH_MAX],
        }
    }

    #[test]
    fn addresses_are_written_with_their_port() {
        assert_eq!(Peer::of(&open(1)).to_string(), "127.0.0.1:80");
        let mut v6 = Open { family: AF_INET6, remote: [0; 16], ..open(1) };
        v6.remote[15] = 1;
        assert_eq!(Peer::of(&v6).to_string(), "[::1]:80");
        v6.remote = Ipv4Addr::new(10, 0, 0, 2).to_ipv6_mapped().octets();
        assert_eq!(Peer::of(&v6).to_string(), "10.0.0.2:80");
    }

    #[test]
    fn unix_sockets_have_their_path() {
        let named = |name: &[u8]| {
            let mut open = Open { family: AF_UNIX, path_len: name.len() as u32, ..open(1) };
            open.path[..name.len()].copy_from_slice(name);
            Peer::of(&open).to_string()
        };
        assert_eq!(named(b"/run/db.sock\0"), "/run/db.sock");
        assert_eq!(named(b"\0abstract"), "@abstract");
        assert_eq!(named(b""), "");
    }

    #[test]
    fn an_unconnected_socket_has_none() {
        assert_eq!(Peer::of(&Open { remote_port: 0, ..open(1) }), Peer::Unknown);
    }
}
