//! Two tenants, three applications, and requests whose outcomes are known: what the demo shows and the tests count.
//!
//! Tenant `acme` has `shop`, an nginx that proxies to `catalog`, a Python HTTP service; tenant `globex` has `blog`,
//! another nginx. The requests come in two rounds: in the second, `catalog` has been stopped.

pub mod chain;
pub mod comments;
pub mod counted;
pub mod orders;
mod services;
pub mod table;

use std::{
    collections::BTreeMap,
    net::{SocketAddr, TcpStream},
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use porthole_registry as registry;
use porthole_registry::{Reason, SandboxRecord, SandboxState};

use crate::{
    container::{Container, Launch, PORTHOLE},
    environment::Environment,
    http::Connection,
    network::Endpoint,
    wait,
};

/// An application in a sandbox of its own.
#[derive(Clone, Copy, Debug)]
pub struct Application {
    /// containerd's namespace, which is the tenant's name.
    pub tenant: &'static str,
    /// Its name.
    pub service: &'static str,
    /// Last byte of its address.
    pub host: u8,
    /// The port that it listens on.
    pub port: u16,
    /// Its program.
    pub command: &'static [&'static str],
}

/// The proxying nginx.
pub const SHOP: Application = Application {
    tenant: "acme",
    service: "shop",
    host: 11,
    port: 80,
    command: &["/usr/sbin/nginx", "-c", "/srv/shop.conf"],
};

/// The Python service behind it, whose address stands in `applications/shop.conf`.
pub const CATALOG: Application = Application {
    tenant: "acme",
    service: "catalog",
    host: 12,
    port: 8000,
    command: &["/usr/bin/python3", "/srv/catalog.py"],
};

/// The other tenant's nginx.
pub const BLOG: Application = Application {
    tenant: "globex",
    service: "blog",
    host: 13,
    port: 80,
    command: &["/usr/sbin/nginx", "-c", "/srv/blog.conf"],
};

/// All of them; `catalog` first, because `shop` depends on it.
pub const APPLICATIONS: [Application; 3] = [CATALOG, SHOP, BLOG];

/// The tenants' containerd namespaces.
pub const NAMESPACES: [&str; 2] = ["acme", "globex"];

/// Which end of a request an agent sees.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Side {
    /// It received the request.
    Server,
    /// It sent the request.
    Client,
}

impl Side {
    /// As it stands in metric names.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Server => "server",
            Self::Client => "client",
        }
    }
}

/// A request that is sent several times, and who sees it.
#[derive(Clone, Copy, Debug)]
struct Request {
    to: Application,
    method: &'static str,
    target: &'static str,
    route: &'static str,
    status: u16,
    times: usize,
    /// Whether it goes through `shop` to `catalog`.
    proxied: bool,
}

const fn plain(
    to: Application,
    method: &'static str,
    target: &'static str,
    route: &'static str,
    status: u16,
    times: usize,
) -> Request {
    Request { to, method, target, route, status, times, proxied: false }
}

const fn proxied(target: &'static str, status: u16, times: usize) -> Request {
    Request { to: SHOP, method: "GET", target, route: "/items/{}", status, times, proxied: true }
}

/// Sent while everything runs.
const FIRST_ROUND: [Request; 11] = [
    plain(SHOP, "GET", "/", "/", 200, 40),
    plain(SHOP, "HEAD", "/", "/", 200, 4),
    plain(SHOP, "GET", "/old", "/old", 301, 10),
    proxied("/items/7", 200, 35),
    proxied("/items/12?colour=red", 200, 25),
    proxied("/items/4711", 404, 15),
    plain(BLOG, "GET", "/", "/", 200, 30),
    plain(BLOG, "GET", "/posts/2024-05-01", "/posts/{}", 200, 12),
    plain(BLOG, "GET", "/feed", "/feed", 301, 6),
    plain(BLOG, "GET", "/healthz", "/healthz", 204, 9),
    plain(BLOG, "GET", "/nothing", "/nothing", 404, 7),
];

/// Sent after `catalog` was stopped: nginx answers for it, and no client side exists.
const SECOND_ROUND: [Request; 2] =
    [plain(SHOP, "GET", "/items/7", "/items/{}", 502, 5), plain(SHOP, "GET", "/", "/", 200, 3)];

/// Goes through both applications of `acme`, and the client's end of it fails.
const MISSING: Request = proxied("/items/4711", 404, 1);

/// Sent again and again while the demo stays up.
const A_FEW: [Request; 5] = [
    plain(SHOP, "GET", "/", "/", 200, 2),
    proxied("/items/7", 200, 3),
    MISSING,
    plain(BLOG, "GET", "/", "/", 200, 2),
    plain(BLOG, "GET", "/posts/2024-05-01", "/posts/{}", 200, 1),
];

/// What distinguishes one count from another.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key {
    /// Whose.
    pub tenant: String,
    /// The application.
    pub service: String,
    /// The sandbox.
    pub instance: String,
    /// From which end.
    pub side: Side,
    /// Request method.
    pub method: String,
    /// Templated route.
    pub route: String,
    /// Status code.
    pub status: String,
}

/// How many requests were sent, by what must distinguish them in the metrics.
pub type Sent = BTreeMap<Key, u64>;

/// The applications, running.
#[derive(Debug)]
pub struct Running {
    environment: Arc<Environment>,
    /// Their containers by service name; one that was stopped is gone. Dropped before the endpoints.
    pub containers: BTreeMap<&'static str, Container>,
    endpoints: BTreeMap<&'static str, Endpoint>,
    instances: BTreeMap<&'static str, String>,
    sent: Sent,
}

impl Running {
    /// Starts all applications and waits until they listen and are watched. `progress` gets a line about each start.
    pub fn start(environment: &Arc<Environment>, runtime: &str, progress: &dyn Fn(&str)) -> Result<Self> {
        let mut running = Self {
            environment: Arc::clone(environment),
            containers: BTreeMap::new(),
            endpoints: BTreeMap::new(),
            instances: BTreeMap::new(),
            sent: Sent::new(),
        };
        for application in APPLICATIONS {
            running.start_one(application, runtime, &environment.unique(application.service), progress)?;
        }
        Ok(running)
    }

    fn start_one(
        &mut self,
        application: Application,
        runtime: &str,
        id: &str,
        progress: &dyn Fn(&str),
    ) -> Result<()> {
        let Application { tenant, service, host, command, .. } = application;
        if !self.endpoints.contains_key(service) {
            self.endpoints.insert(service, self.environment.endpoint(service, host)?);
        }
        let endpoint = self.endpoints.get(service).context("an endpoint")?;
        let begin = Instant::now();
        let annotations = [("io.porthole.service", service)];
        let launch = Launch::new(tenant, id, runtime, command).on(endpoint).annotated(&annotations);
        let container =
            launch.start(&self.environment.containerd).with_context(|| format!("start {service}"))?;
        progress(&format!("{tenant}/{service}: first process after {:.1} s", container.start.as_secs_f64()));
        self.containers.insert(service, container);
        self.instances.insert(service, id.to_owned());
        self.wait_listening(application)?;
        if runtime == PORTHOLE {
            wait_watched(&self.environment, id)?;
            let gap = unattached(&self.environment, id)?;
            progress(&format!(
                "{tenant}/{service}: watched after {:.1} s; its first process ran {} ms before the agent was attached",
                begin.elapsed().as_secs_f64(),
                gap.as_millis()
            ));
            ensure!(gap.is_zero(), "{service}: the agent came {gap:?} late");
        }
        Ok(())
    }

    /// Where an application listens, for a thread in the hub.
    pub fn at(&self, application: Application) -> Result<SocketAddr> {
        let endpoint = self.endpoints.get(application.service).context("the application was not started")?;
        Ok(endpoint.at(application.port))
    }

    /// Everything that was sent to the applications so far, as both ends of each request must count it.
    pub fn sent(&self) -> &Sent {
        &self.sent
    }

    /// What was sent to an application so far, whatever instance of it answered.
    pub fn sent_to(&self, application: Application) -> u64 {
        let of = |key: &Key| key.service == application.service && key.side == Side::Server;
        self.sent.iter().filter(|(key, _)| of(key)).map(|(_, times)| times).sum()
    }

    /// What was sent to an application's instance, or by it, by method and route.
    pub fn sent_by_route(&self, application: Application, side: Side) -> BTreeMap<(String, String), u64> {
        let mut sums = BTreeMap::new();
        for (key, times) in self.sent.iter().filter(|(key, _)| {
            key.side == side
                && key.instance == self.instance(application)
                && key.service == application.service
        }) {
            *sums.entry((key.method.clone(), key.route.clone())).or_default() += times;
        }
        sums
    }

    /// The sandbox of an application; empty before it was started.
    pub fn instance(&self, application: Application) -> &str {
        self.instances.get(application.service).map_or("", String::as_str)
    }

    /// Sends both rounds and stops `catalog` between them, which is started first if it does not run. Every response
    /// must be the expected one.
    pub fn send_everything(&mut self, progress: &dyn Fn(&str)) -> Result<()> {
        self.need_catalog(progress)?;
        self.send_first_round()?;
        self.stop_catalog()?;
        self.send(&SECOND_ROUND)
    }

    /// Sends the round that needs everything to run.
    pub fn send_first_round(&mut self) -> Result<()> {
        self.send(&FIRST_ROUND)
    }

    /// Sends requests for `blog`'s first page.
    pub fn send_to_blog(&mut self, times: usize) -> Result<()> {
        self.send(&[plain(BLOG, "GET", "/", "/", 200, times)])
    }

    /// Sends a few requests to everything that runs.
    pub fn send_a_few(&mut self) -> Result<()> {
        self.send(&A_FEW)
    }

    /// Stops the upstream, as an operator would.
    pub fn stop_catalog(&mut self) -> Result<()> {
        self.containers.remove(CATALOG.service).context("catalog runs")?.remove()
    }

    /// Sends a request for an item that does not exist, through `shop` to `catalog`, which has to run.
    pub fn send_for_missing(&mut self) -> Result<()> {
        self.send(&[MISSING])
    }

    /// Starts the upstream again if it was stopped.
    pub fn need_catalog(&mut self, progress: &dyn Fn(&str)) -> Result<()> {
        if self.containers.contains_key(CATALOG.service) { Ok(()) } else { self.restart_catalog(progress) }
    }

    /// Starts the upstream again, as a new instance.
    pub fn restart_catalog(&mut self, progress: &dyn Fn(&str)) -> Result<()> {
        let id = self.environment.unique("catalog-again");
        self.start_one(CATALOG, PORTHOLE, &id, progress)
    }

    fn send(&mut self, requests: &[Request]) -> Result<()> {
        let mut addresses = Vec::new();
        for request in requests {
            addresses.push((request, self.at(request.to)?));
        }
        self.environment.from_hub(|| {
            for (request, address) in addresses {
                send_one_kind(request, address)?;
            }
            Ok(())
        })?;
        for request in requests {
            let seen: &[(Application, Side)] = if request.proxied {
                &[(SHOP, Side::Server), (SHOP, Side::Client), (CATALOG, Side::Server)]
            } else {
                &[(request.to, Side::Server)]
            };
            for (application, side) in seen {
                let key = self.key(request, *application, *side)?;
                *self.sent.entry(key).or_default() += request.times as u64;
            }
        }
        Ok(())
    }

    fn key(&self, request: &Request, seen_by: Application, side: Side) -> Result<Key> {
        Ok(Key {
            tenant: seen_by.tenant.to_owned(),
            service: seen_by.service.to_owned(),
            instance: self.instances.get(seen_by.service).context("an application that was started")?.clone(),
            side,
            method: request.method.to_owned(),
            route: request.route.to_owned(),
            status: request.status.to_string(),
        })
    }

    /// Waits until the application accepts connections. Connecting sends no byte, so it is counted nowhere.
    fn wait_listening(&self, application: Application) -> Result<()> {
        let address = self.at(application)?;
        let network = &self.environment.network;
        wait::until(&format!("{} listens", application.service), wait::SOON, || {
            network.inside(|| TcpStream::connect_timeout(&address, Duration::from_secs(1)))??;
            Ok(Some(()))
        })
    }
}

fn send_one_kind(request: &Request, address: SocketAddr) -> Result<()> {
    let Request { method, target, status, times, .. } = *request;
    // Half on one connection that stays open, half each on its own.
    let mut connection = Connection::open(address)?;
    for number in 0..times {
        crate::interrupt::check()?;
        if number >= times / 2 {
            connection = Connection::open(address)?;
        }
        let response = connection.request(method, target)?;
        ensure!(response.status == status, "{method} {target}: expected {status}, got {}", response.status);
    }
    Ok(())
}

/// The companion's record of a sandbox, in whichever namespace it is: the tests' ids are unique.
pub fn record(environment: &Environment, id: &str) -> Result<SandboxRecord> {
    let directory = environment.registry();
    let names = std::fs::read_dir(&directory).context("read the registry")?;
    let keys = names.filter_map(|entry| {
        let path = entry.ok()?.path();
        path.extension().filter(|extension| *extension == "json")?;
        path.file_stem()?.to_str()?.parse::<registry::SandboxKey>().ok()
    });
    let key = keys.into_iter().find(|key| key.id.as_str() == id).context("no record")?;
    Ok(SandboxRecord::read(&registry::record_path(&directory, &key))?)
}

/// Waits until the companion has put the agent into the sandbox and the exporter is connected: from then on every
/// request is seen.
pub fn wait_watched(environment: &Environment, id: &str) -> Result<()> {
    wait::until(&format!("{id} is watched"), wait::SOON, || {
        let record = record(environment, id)?;
        ensure!(record.state != SandboxState::Unmonitored, "unmonitored: {:?}", record.reason);
        let sandbox = environment.exporter()?.sandbox(id)?;
        let connection = sandbox.as_ref().map(|sandbox| &sandbox["connection"]);
        ensure!(
            connection.is_some_and(|connection| connection["state"] == "connected"),
            "record {}, the exporter's connection: {connection:?}",
            record.state.as_str()
        );
        Ok(Some(()))
    })
}

/// For how long containers of a sandbox ran before its agent was attached, as the exporter lists it.
pub fn unattached(environment: &Environment, id: &str) -> Result<Duration> {
    wait::until("the agent's counters are listed", wait::SOON, || {
        let sandbox = environment.exporter()?.sandbox(id)?.context("the exporter does not know it")?;
        let ns = sandbox["counters"]["unattached_start_ns"].as_u64().context("no such count")?;
        Ok(Some(Duration::from_nanos(ns)))
    })
}

/// Waits until the companion has given up on a sandbox; returns why.
pub fn wait_unmonitored(environment: &Environment, id: &str) -> Result<Reason> {
    wait::until(&format!("{id} is unmonitored"), wait::SOON, || {
        let record = record(environment, id)?;
        ensure!(record.state == SandboxState::Unmonitored, "its state is {}", record.state.as_str());
        record.reason.context("no reason").map(Some)
    })
}
