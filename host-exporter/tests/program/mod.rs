//! The real program as a process of its own.

#![allow(dead_code, reason = "each test program uses a part")]

use std::{
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use porthole_trials::ports::free_address;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use crate::support::{Host, exposition::Exposition};

/// The real program, with a configuration of its own.
pub struct Program {
    configuration: PathBuf,
    pub address: SocketAddr,
}

impl Program {
    /// With further keys of `[exporter]`.
    pub fn new(host: &Host, keys: &str) -> Self {
        let address = free_address().expect("an address");
        let configuration = host.socket("porthole.toml");
        let path = |path: &Path| path.display().to_string();
        let text = format!(
            "[registry]\ndirectory = {:?}\n[exporter]\nlisten = \"{address}\"\nstate_directory = {:?}\n{keys}",
            path(&host.registry()),
            path(&host.state())
        );
        fs::write(&configuration, text).expect("written");
        Self { configuration, address }
    }

    pub fn start(&self) -> Process {
        self.start_by(&[])
    }

    /// Starts it by another program, which these arguments name and prepare.
    pub fn start_by(&self, by: &[String]) -> Process {
        let program = env!("CARGO_BIN_EXE_porthole-exporter").to_owned();
        let mut arguments = by.iter().chain([&program]);
        let mut command = Command::new(arguments.next().expect("at least the program"));
        command.args(arguments).arg("--config").arg(&self.configuration);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        Process(command.spawn().expect("started"))
    }
}

/// A running exporter; it is killed when it is dropped.
pub struct Process(Child);

impl Process {
    pub fn id(&self) -> u32 {
        self.0.id()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.0.kill().and_then(|()| self.0.wait()).expect("killed");
    }
}

/// One whole exposition; none while the port is closed, or when the connection breaks.
pub async fn scrape(address: SocketAddr) -> Option<Exposition> {
    let mut stream = TcpStream::connect(address).await.ok()?;
    stream.write_all(b"GET /metrics HTTP/1.0\r\nHost: localhost\r\n\r\n").await.ok()?;
    let mut response = String::new();
    stream.read_to_string(&mut response).await.ok()?;
    let (head, body) = response.split_once("\r\n\r\n")?;
    (head.split(' ').nth(1) == Some("200") && body.ends_with("# EOF\n")).then(|| Exposition::parse(body))
}
