//! The bootstrap address: what a delegate's `start` prints, where its shim listens, and its API.
//!
//! A plain `unix://…` (containerd 1.6 and before; Kata), or, when containerd or the shim is newer, the JSON of
//! `BootstrapParams` (containerd: `core/runtime/v2/shim.go`): `{"version":3,"address":"unix://…","protocol":"ttrpc"}`.

use std::{
    fmt,
    os::{fd::AsRawFd, unix::ffi::OsStrExt},
    path::PathBuf,
    str::FromStr,
};

use nix::sys::socket::{AddressFamily, SockFlag, SockType, UnixAddr, connect, socket};
use serde::Deserialize;

use crate::message::brief;

/// Largest output of `start` that is looked at, in bytes. The longest unix address has 108.
pub const BOOTSTRAP_BYTES_MAX: usize = 16 * 1024;

/// Version of containerd's task service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TaskApi {
    /// `containerd.task.v2.Task`
    V2,
    /// `containerd.task.v3.Task`: the same messages under another name.
    V3,
}

impl TaskApi {
    /// The service's name in ttrpc requests.
    pub fn service(self) -> &'static str {
        match self {
            Self::V2 => "containerd.task.v2.Task",
            Self::V3 => "containerd.task.v3.Task",
        }
    }
}

/// Where the delegate's shim listens, and by which protocol.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BootstrapAddress {
    /// `unix:///path` or `unix://@abstract`.
    pub address: String,
    /// The task service it offers.
    pub api: TaskApi,
}

/// An output that names no shim that a companion could talk to.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BootstrapError {
    /// Neither an address nor bootstrap parameters.
    #[error("the delegate's `start` printed no address: `{0}`")]
    NotAnAddress(String),
    /// Bootstrap parameters for something else than task v2 or v3 over ttrpc.
    #[error("the delegate's shim serves task version {version} over {protocol}, not 2 or 3 over ttrpc")]
    Unsupported {
        /// Task API version.
        version: u32,
        /// `ttrpc` or `grpc`.
        protocol: String,
    },
}

#[derive(Deserialize)]
struct BootstrapParams {
    #[serde(default)]
    version: u32,
    address: String,
    #[serde(default)]
    protocol: String,
}

impl BootstrapAddress {
    /// Reads what the delegate printed.
    pub fn parse(stdout: &[u8]) -> Result<Self, BootstrapError> {
        let shown = || BootstrapError::NotAnAddress(brief(&String::from_utf8_lossy(stdout)));
        let text = std::str::from_utf8(stdout).map_err(|_| shown())?.trim();
        let params = if text.starts_with('{') {
            serde_json::from_str(text).map_err(|_| shown())?
        } else {
            BootstrapParams { version: 2, address: text.to_owned(), protocol: String::new() }
        };
        let unsupported =
            || BootstrapError::Unsupported { version: params.version, protocol: params.protocol.clone() };
        if !matches!(params.protocol.as_str(), "" | "ttrpc") {
            return Err(unsupported());
        }
        let api = match params.version {
            0 | 2 => TaskApi::V2,
            3 => TaskApi::V3,
            _ => return Err(unsupported()),
        };
        let path = params.address.strip_prefix("unix://").ok_or_else(shown)?;
        if path.len() < 2 || !path.starts_with(['/', '@']) || path.contains('\0') {
            return Err(shown());
        }
        Ok(Self { address: params.address, api })
    }
}

impl BootstrapAddress {
    /// The socket, as tokio takes it: an abstract name begins with a NUL.
    pub fn socket(&self) -> PathBuf {
        let path = self.address.trim_start_matches("unix://");
        path.strip_prefix('@').map_or_else(|| path.into(), |name| format!("\0{name}").into())
    }

    /// Whether a process accepts connections there. Does not block, even when its backlog is full.
    pub fn listens(&self) -> bool {
        let path = self.socket();
        let address = match path.as_os_str().as_bytes() {
            [0, name @ ..] => UnixAddr::new_abstract(name),
            _ => UnixAddr::new(&path),
        };
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        let attempt = socket(AddressFamily::Unix, SockType::Stream, flags, None)
            .and_then(|socket| connect(socket.as_raw_fd(), &address?));
        matches!(attempt, Ok(()) | Err(nix::errno::Errno::EAGAIN))
    }
}

/// The form on the companion's command line and in its state: `<api version>:<address>`.
impl fmt::Display for BootstrapAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", if self.api == TaskApi::V2 { 2 } else { 3 }, self.address)
    }
}

impl FromStr for BootstrapAddress {
    type Err = BootstrapError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (api, address) =
            text.split_once(':').ok_or_else(|| BootstrapError::NotAnAddress(text.to_owned()))?;
        let mut parsed = Self::parse(address.as_bytes())?;
        if api == "3" {
            parsed.api = TaskApi::V3;
        }
        Ok(parsed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_addresses_and_bootstrap_parameters_are_understood() {
        let plain = BootstrapAddress::parse(b"unix:///run/containerd/s/abc").expect("plain");
        assert_eq!((plain.address.as_str(), plain.api), ("unix:///run/containerd/s/abc", TaskApi::V2));
        let json = br#"{"version":3,"address":"unix:///run/containerd/s/abc","protocol":"ttrpc"}"#;
        assert_eq!(BootstrapAddress::parse(json).expect("json").api, TaskApi::V3);
        assert_eq!(
            BootstrapAddress::parse(b"unix://@abstract\n").expect("abstract").address,
            "unix://@abstract"
        );
    }

    #[test]
    fn other_protocols_and_nonsense_are_refused() {
        let grpc = br#"{"version":3,"address":"unix:///x","protocol":"grpc"}"#;
        assert!(matches!(BootstrapAddress::parse(grpc), Err(BootstrapError::Unsupported { version: 3, .. })));
        for text in ["", "tcp://1.2.3.4:5", "unix://", "unix://relative", "{", "\u{0}"] {
            assert!(BootstrapAddress::parse(text.as_bytes()).is_err(), "{text:?}");
        }
        assert!(BootstrapAddress::parse(&[0xff, 0xfe]).is_err());
    }

    #[test]
    fn a_listener_and_its_left_over_socket_are_distinguished() {
        let dir = tempfile::tempdir().expect("directory");
        let path = dir.path().join("s");
        let address = BootstrapAddress { address: format!("unix://{}", path.display()), api: TaskApi::V2 };
        assert!(!address.listens());
        let listener = std::os::unix::net::UnixListener::bind(&path).expect("bound");
        assert!(address.listens());
        drop(listener);
        assert!(!address.listens());
    }

    #[test]
    fn the_form_for_the_companion_survives_a_round_trip() {
        for api in [TaskApi::V2, TaskApi::V3] {
            let address = BootstrapAddress { address: "unix:///run/s/a:b".into(), api };
            assert_eq!(address.to_string().parse::<BootstrapAddress>().expect("parsed"), address);
        }
    }
}
