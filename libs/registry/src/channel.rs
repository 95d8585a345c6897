//! How the host reaches the agent of a sandbox.

use std::{fmt, path::PathBuf, str::FromStr};

/// Address of an agent, written as in Kata's `/agent-url` answer.
#[derive(Clone, Debug, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Channel {
    /// `vsock://<cid>:<port>`: the host kernel's vsock.
    Vsock {
        /// Context id of the guest.
        cid: u32,
        /// Port in the guest.
        port: u32,
    },
    /// `hvsock://<path>:<port>`: a unix socket that takes `CONNECT <port>\n` and answers `OK <port>\n`
    /// (Firecracker, Cloud Hypervisor, vhost-device-vsock).
    Hybrid {
        /// The unix socket on the host.
        path: PathBuf,
        /// Port in the guest.
        port: u32,
    },
    /// `unix://<path>`: an agent outside a guest.
    Unix {
        /// The agent's socket.
        path: PathBuf,
    },
}

/// A text that is no channel address.
#[derive(Debug, thiserror::Error)]
#[error("`{0}` is no agent address: expected vsock://CID:PORT, hvsock://PATH:PORT or unix://PATH")]
pub struct ChannelParseError(String);

impl Channel {
    /// The same sandbox, another guest port. A unix channel has no port and stays as it is.
    #[must_use]
    pub fn with_port(self, port: u32) -> Self {
        match self {
            Self::Vsock { cid, .. } => Self::Vsock { cid, port },
            Self::Hybrid { path, .. } => Self::Hybrid { path, port },
            unix @ Self::Unix { .. } => unix,
        }
    }
}

impl FromStr for Channel {
    type Err = ChannelParseError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let bad = || ChannelParseError(text.to_owned());
        let (scheme, rest) = text.trim_end().split_once("://").ok_or_else(bad)?;
        let absolute = |path: &str| if path.starts_with('/') { Ok(PathBuf::from(path)) } else { Err(bad()) };
        match scheme {
            "unix" => Ok(Self::Unix { path: absolute(rest)? }),
            "vsock" | "hvsock" => {
                let (host, port) = rest.rsplit_once(':').ok_or_else(bad)?;
                let port = port.parse().map_err(|_| bad())?;
                if scheme == "vsock" {
                    Ok(Self::Vsock { cid: host.parse().map_err(|_| bad())?, port })
                } else {
                    Ok(Self::Hybrid { path: absolute(host)?, port })
                }
            }
            _ => Err(bad()),
        }
    }
}

impl fmt::Display for Channel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Vsock { cid, port } => write!(f, "vsock://{cid}:{port}"),
            Self::Hybrid { path, port } => write!(f, "hvsock://{}:{port}", path.display()),
            Self::Unix { path } => write!(f, "unix://{}", path.display()),
        }
    }
}

impl TryFrom<String> for Channel {
    type Error = ChannelParseError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<Channel> for String {
    fn from(channel: Channel) -> Self {
        channel.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_survive_a_round_trip() {
        for text in ["vsock://3:1024", "hvsock:///run/a:b/vm.vsock:1024", "unix:///run/agent.sock"] {
            assert_eq!(text.parse::<Channel>().expect(text).to_string(), text);
        }
    }

    #[test]
    fn a_trailing_newline_is_accepted_and_another_port_taken() {
        let channel: Channel = "hvsock:///x:1024\n".parse().expect("address");
        assert_eq!(channel.with_port(7).to_string(), "hvsock:///x:7");
    }

    #[test]
    fn nonsense_is_refused() {
        for text in ["", "vsock://", "vsock://3", "vsock://x:1", "hvsock://rel:1", "tcp://1:2", "unix://rel"]
        {
            assert!(text.parse::<Channel>().is_err(), "{text}");
        }
    }
}
