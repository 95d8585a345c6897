//! Network namespaces of the environment's own: a hub with a bridge, and one namespace a sandbox.
//!
//! Nothing is made in the machine's own namespace, so addresses cannot clash and a removed namespace takes its
//! interfaces along.

use std::{
    fs::File,
    io,
    net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
};

use anyhow::{Context, Result, anyhow};
use nix::sched::{CloneFlags, setns};

use crate::{command, wait};

/// Where `ip netns` keeps its names.
pub const NETNS_DIRECTORY: &str = "/run/netns";

/// The hub's address on the bridge; clients in the hub have it as their source.
pub const HUB: Ipv4Addr = Ipv4Addr::new(10, 231, 0, 1);

/// The hub namespace with its bridge, from which sandboxes are reached.
#[derive(Debug)]
pub struct Network {
    tag: String,
}

/// A sandbox's namespace: `eth0` with an address, joined to the hub's bridge.
#[derive(Debug)]
pub struct Endpoint {
    name: String,
    hub: String,
    interface: String,
    /// The sandbox's address.
    pub address: Ipv4Addr,
}

fn ip(arguments: &str) -> Result<()> {
    command::succeed(Command::new("ip").args(arguments.split_whitespace()), wait::SOON).map(drop)
}

impl Network {
    /// Makes the hub `<tag>-hub`.
    pub fn create(tag: &str) -> Result<Self> {
        let network = Self { tag: tag.to_owned() };
        let hub = network.hub();
        ip(&format!("netns add {hub}"))?;
        ip(&format!("-n {hub} link set lo up"))?;
        ip(&format!("-n {hub} link add br0 type bridge forward_delay 0"))?;
        ip(&format!("-n {hub} addr add {HUB}/16 dev br0"))?;
        ip(&format!("-n {hub} link set br0 up"))?;
        Ok(network)
    }

    fn hub(&self) -> String {
        format!("{}-hub", self.tag)
    }

    /// Makes a namespace for one sandbox, with `10.231.0.<host>`.
    pub fn endpoint(&self, name: &str, host: u8) -> Result<Endpoint> {
        let endpoint = Endpoint {
            name: format!("{}-{name}", self.tag),
            hub: self.hub(),
            interface: format!("v{host}"),
            address: Ipv4Addr::new(10, 231, 0, host),
        };
        let Endpoint { name: namespace, hub, interface, address } = &endpoint;
        ip(&format!("netns add {namespace}"))?;
        // A hub that still knows the one that had the address before reaches this one too.
        let mac = format!("02:00:0a:e7:00:{host:02x}");
        ip(&format!(
            "-n {hub} link add {interface} type veth peer name eth0 address {mac} netns {namespace}"
        ))?;
        ip(&format!("-n {hub} link set {interface} master br0 up"))?;
        ip(&format!("-n {namespace} link set lo up"))?;
        ip(&format!("-n {namespace} addr add {address}/16 dev eth0"))?;
        ip(&format!("-n {namespace} link set eth0 up"))?;
        ip(&format!("-n {namespace} route add default via {HUB}"))?;
        Ok(endpoint)
    }

    /// Runs `work` on a thread inside the hub, where sandboxes can be reached.
    pub fn inside<T: Send>(&self, work: impl FnOnce() -> T + Send) -> Result<T> {
        let path = Path::new(NETNS_DIRECTORY).join(self.hub());
        thread::scope(|scope| {
            let thread = scope.spawn(|| enter(&path).map(|()| work()));
            thread.join().map_err(|_| anyhow!("the work in the hub panicked"))?
        })
    }

    /// Makes a sandbox's port reachable on the machine's loopback until the forward is dropped.
    pub fn forward(&self, to: SocketAddr) -> Result<Forward> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("listen on loopback")?;
        let address = listener.local_addr().context("address of a listener")?;
        let stop = Arc::new(AtomicBool::new(false));
        let path = Path::new(NETNS_DIRECTORY).join(self.hub());
        let stopping = Arc::clone(&stop);
        thread::spawn(move || {
            for inbound in listener.incoming() {
                if stopping.load(Ordering::Relaxed) {
                    return;
                }
                let path = path.clone();
                thread::spawn(move || {
                    inbound.map_err(Into::into).and_then(|stream| relay(&stream, &path, to))
                });
            }
        });
        Ok(Forward { address, stop })
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        remove(&self.hub());
    }
}

impl Endpoint {
    /// The namespace's path, for `ctr run --with-ns network:…`.
    pub fn path(&self) -> PathBuf {
        Path::new(NETNS_DIRECTORY).join(&self.name)
    }

    /// A port of the sandbox.
    pub fn at(&self, port: u16) -> SocketAddr {
        SocketAddr::new(IpAddr::V4(self.address), port)
    }

    /// The interfaces in the namespace, one line each.
    pub fn interfaces(&self) -> Result<Vec<String>> {
        let mut command = Command::new("ip");
        command.args(["-n", &self.name, "-brief", "link"]);
        Ok(command::succeed(&mut command, wait::SOON)?.text().lines().map(str::to_owned).collect())
    }

    /// The traffic control rules on `eth0`, which a runtime must take away again.
    pub fn traffic_rules(&self) -> Result<String> {
        let mut command = Command::new("tc");
        command.args(["-n", &self.name, "qdisc", "show", "dev", "eth0"]);
        Ok(command::succeed(&mut command, wait::SOON)?.text())
    }
}

impl Drop for Endpoint {
    fn drop(&mut self) {
        // Taken away first, so that the name is free at once: the namespace itself may live until its last process ends.
        let hub_side = format!("-n {} link delete {}", self.hub, self.interface);
        let _ = command::try_quietly(Command::new("ip").args(hub_side.split_whitespace()), wait::SOON);
        remove(&self.name);
    }
}

/// Removes a namespace's name; already gone is fine.
pub(crate) fn remove(name: &str) {
    if Path::new(NETNS_DIRECTORY).join(name).exists() {
        match command::try_quietly(Command::new("ip").args(["netns", "delete", name]), wait::SOON) {
            Ok(finished) if finished.status.success() => {}
            Ok(finished) => eprintln!("remove network namespace {name}: {finished}"),
            Err(error) => eprintln!("remove network namespace {name}: {error:#}"),
        }
    }
}

/// Moves the calling thread into a network namespace for the rest of its life.
fn enter(path: &Path) -> Result<()> {
    let file = File::open(path).with_context(|| format!("open {}", path.display()))?;
    setns(file, CloneFlags::CLONE_NEWNET).with_context(|| format!("enter {}", path.display()))
}

/// A port on loopback that leads to a sandbox.
#[derive(Debug)]
pub struct Forward {
    /// Where it listens.
    pub address: SocketAddr,
    stop: Arc<AtomicBool>,
}

impl Drop for Forward {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        // Wakes the accept; if even that fails, the listener dies with the process.
        let _ = TcpStream::connect(self.address);
    }
}

fn relay(inbound: &TcpStream, namespace: &Path, to: SocketAddr) -> Result<()> {
    // Sockets belong to the namespace of the thread that made them: this thread makes only the outbound one.
    enter(namespace)?;
    let outbound = TcpStream::connect_timeout(&to, wait::SOON).context("connect to the sandbox")?;
    thread::scope(|scope| {
        scope.spawn(|| pump(inbound, &outbound));
        pump(&outbound, inbound);
    });
    Ok(())
}

fn pump(mut from: &TcpStream, mut to: &TcpStream) {
    // Either end closing is the normal end of a forwarded connection.
    let _ = io::copy(&mut from, &mut to);
    let _ = to.shutdown(std::net::Shutdown::Write);
}
