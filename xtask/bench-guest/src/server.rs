//! The servers of the workloads.

use std::{
    fs::File,
    io::{Read, Write},
    net::{TcpListener, TcpStream},
    path::PathBuf,
    process::{Child, Command, Stdio},
    time::Duration,
};

use anyhow::{Context, Result, bail};
use porthole_bench_guest::Server;

use crate::machine;

/// How often it is tried whether a server listens, every 10 ms.
const TRIES: u32 = 6_000;

/// A server, running or frozen.
pub struct RunningServer {
    group: PathBuf,
    port: u16,
    child: Child,
}

impl RunningServer {
    /// Starts it and waits until it listens. `number` is part of its control group's name.
    pub fn start(number: usize, server: &Server) -> Result<Self> {
        let group = machine::group(&format!("5e{number}"))?;
        let (program, arguments) = server.command.split_first().context("a command")?;
        let path = format!("/run/server-{number}.log");
        let log = File::create(&path).with_context(|| format!("make {path}"))?;
        let child = Command::new(program)
            .args(arguments)
            .envs(machine::ENVIRONMENT)
            .stdin(Stdio::null())
            .stdout(log.try_clone().context("share the log")?)
            .stderr(log)
            .spawn()
            .with_context(|| format!("run {program}"))?;
        machine::enter(&group, child.id())?;
        let mut server = Self { group, port: server.port, child };
        for _ in 0..TRIES {
            if TcpStream::connect(("127.0.0.1", server.port)).is_ok() {
                return Ok(server);
            }
            if let Some(status) = server.child.try_wait().context("look at a server")? {
                bail!("{program} ended: {status}: {}", log_tail(&path));
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        bail!("{program} does not listen: {}", log_tail(&path))
    }

    /// Where it listens.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Lets it run.
    pub fn thaw(&mut self) -> Result<()> {
        machine::freeze(&self.group, false)
    }

    /// Stops its processes, timers included.
    pub fn freeze(&mut self) -> Result<()> {
        machine::freeze(&self.group, true)
    }
}

/// The last lines of a program's output.
pub fn log_tail(path: &str) -> String {
    let text = std::fs::read(path).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(10)..].join(" | ")
}

/// Sends back what it receives, one connection after the other.
pub fn echo(port: &str) -> Result<()> {
    let port: u16 = port.parse().context("a port")?;
    let listener = TcpListener::bind(("127.0.0.1", port)).context("listen")?;
    let mut buffer = [0; 4096];
    for stream in listener.incoming() {
        let mut stream = stream.context("accept")?;
        stream.set_nodelay(true).context("set TCP_NODELAY")?;
        while let Ok(length @ 1..) = stream.read(&mut buffer) {
            if buffer.get(..length).is_none_or(|bytes| stream.write_all(bytes).is_err()) {
                break;
            }
        }
    }
    Ok(())
}
