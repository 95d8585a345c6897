//! A third tenant: `orders`, which calls a cache, two databases and a name server, each in a guest of its own, and a
//! payment service that is down.

use std::{
    fmt::{self, Write as _},
    sync::Arc,
    time::Duration,
};

use anyhow::{Context, Result, ensure};

use super::{counted::WINDOW, wait_watched};
use crate::{
    container::{Container, Launch, PORTHOLE},
    environment::Environment,
    http::Connection,
    image,
    network::Endpoint,
    prometheus::Prometheus,
    wait,
};

/// The tenant, which is containerd's namespace.
pub const NAMESPACE: &str = "initech";

/// What calls the others.
const ORDERS: Service =
    Service { name: "orders", host: 21, command: &["/usr/bin/python3", "/srv/orders.py"] };

/// All of them; `orders` last, because it needs the others. Their addresses stand in `applications/orders.py`.
const SERVICES: [Service; 5] = [
    Service {
        name: "cache",
        host: 22,
        command: &["/usr/bin/redis-server", "--save", "", "--protected-mode", "no", "--dir", "/run"],
    },
    Service { name: "ledger", host: 23, command: &["/bin/sh", "/srv/mariadb.sh"] },
    Service {
        name: "customers",
        host: 24,
        // As a user without privileges, which `ctr run` has no option for.
        command: &[
            "/usr/bin/python3",
            "-c",
            "import os; os.setgid(65534); os.setuid(65534); os.execv('/bin/sh', ['sh', '/srv/postgresql.sh'])",
        ],
    },
    Service {
        name: "names",
        host: 25,
        command: &[
            "/usr/sbin/dnsmasq",
            "--keep-in-foreground",
            "--conf-file=/dev/null",
            "--no-resolv",
            "--no-hosts",
            "--user=root",
            "--pid-file=",
            "--address=/payments.initech.internal/10.231.0.26",
        ],
    },
    ORDERS,
];

/// Where the payment service would be: the address exists, and nothing listens there.
const PAYMENTS: (&str, u8) = ("payments", 26);

const PORT: u16 = 8000;

/// How many orders are read, each twice: the first time from the databases, then from the cache.
const READ: u64 = 30;

/// How many payments are attempted.
const PAID: u64 = 12;

/// How long the servers may take until `orders` listens, in emulated guests.
const START: Duration = Duration::from_mins(5);

#[derive(Clone, Copy, Debug)]
struct Service {
    name: &'static str,
    host: u8,
    command: &'static [&'static str],
}

/// The tenant's services, running. Containers are dropped before the endpoints.
#[derive(Debug)]
pub struct Orders {
    environment: Arc<Environment>,
    containers: Vec<Container>,
    endpoints: Vec<Endpoint>,
}

/// One line of what was sent beside what was counted.
#[derive(Clone, Debug)]
pub struct Line {
    service: &'static str,
    /// The metric without `_count`, and the labels that choose what was sent.
    family: &'static str,
    labels: &'static [(&'static str, &'static str)],
    sent: u64,
    counted: Option<u64>,
}

/// All lines.
#[derive(Clone, Debug)]
pub struct Table(Vec<Line>);

const HTTP: &str = "http_server_request_duration_seconds";
const DB_CLIENT: &str = "db_client_operation_duration_seconds";
const DB_SERVER: &str = "db_server_operation_duration_seconds";

const fn line(
    service: &'static str,
    family: &'static str,
    labels: &'static [(&'static str, &'static str)],
    sent: u64,
) -> Line {
    Line { service, family, labels, sent, counted: None }
}

const READING: &[(&str, &str)] =
    &[("http_request_method", "GET"), ("http_route", "/orders/{}"), ("http_response_status_code", "200")];
const PAYING: &[(&str, &str)] =
    &[("http_request_method", "POST"), ("http_route", "/payments"), ("http_response_status_code", "502")];
const GET: &[(&str, &str)] = &[("db_system_name", "redis"), ("db_operation_name", "GET")];
const SET: &[(&str, &str)] = &[("db_system_name", "redis"), ("db_operation_name", "SET")];
const MARIADB: &[(&str, &str)] = &[("db_system_name", "mysql"), ("db_operation_name", "SELECT")];
const POSTGRESQL: &[(&str, &str)] = &[("db_system_name", "postgresql"), ("db_operation_name", "SELECT")];
const LOOKUP: &[(&str, &str)] = &[("dns_question_type", "A")];

/// What both ends of each call must count.
const LINES: [Line; 12] = [
    line("orders", HTTP, READING, 2 * READ),
    line("orders", HTTP, PAYING, PAID),
    line("orders", DB_CLIENT, GET, 2 * READ),
    line("cache", DB_SERVER, GET, 2 * READ),
    line("orders", DB_CLIENT, SET, READ),
    line("cache", DB_SERVER, SET, READ),
    line("orders", DB_CLIENT, MARIADB, READ),
    line("ledger", DB_SERVER, MARIADB, READ),
    line("orders", DB_CLIENT, POSTGRESQL, READ),
    line("customers", DB_SERVER, POSTGRESQL, READ),
    line("orders", "dns_lookup_duration_seconds", LOOKUP, PAID),
    line("names", "dns_server_lookup_duration_seconds", LOOKUP, PAID),
];

impl Orders {
    /// Starts all services and waits until `orders` has reached the others and all are watched. `progress` gets a line
    /// about each start.
    pub fn start(environment: &Arc<Environment>, progress: &dyn Fn(&str)) -> Result<Self> {
        let mut running =
            Self { environment: Arc::clone(environment), containers: Vec::new(), endpoints: Vec::new() };
        for service in SERVICES {
            running.start_one(service, progress)?;
        }
        let (name, host) = PAYMENTS;
        running.endpoints.push(environment.endpoint(name, host)?);
        let address = running.at_orders()?;
        wait::until("orders has reached its dependencies", START, || {
            environment.from_hub(|| Connection::open(address).map(drop)).map(Some)
        })?;
        for container in &running.containers {
            wait_watched(environment, &container.id)?;
        }
        Ok(running)
    }

    fn start_one(&mut self, service: Service, progress: &dyn Fn(&str)) -> Result<()> {
        let endpoint = self.environment.endpoint(service.name, service.host)?;
        let id = self.environment.unique(service.name);
        let annotations = [("io.porthole.service", service.name)];
        let launch = Launch::new(NAMESPACE, &id, PORTHOLE, service.command)
            .from_image(image::STORES)
            .on(&endpoint)
            .annotated(&annotations);
        let container =
            launch.start(&self.environment.containerd).with_context(|| format!("start {}", service.name))?;
        progress(&format!(
            "{NAMESPACE}/{}: first process after {:.1} s",
            service.name,
            container.start.as_secs_f64()
        ));
        self.containers.push(container);
        self.endpoints.push(endpoint);
        Ok(())
    }

    /// Where `orders` listens, for a thread in the hub.
    pub fn at_orders(&self) -> Result<std::net::SocketAddr> {
        let endpoint = self.endpoints.iter().find(|endpoint| endpoint.address.octets()[3] == ORDERS.host);
        Ok(endpoint.context("orders was not started")?.at(PORT))
    }

    /// Reads every order twice, and has some paid, which fails.
    pub fn send(&self) -> Result<()> {
        (1..=READ).chain(1..=READ).try_for_each(|number| self.read(number))?;
        (0..PAID).try_for_each(|_| self.request("POST", "/payments", 502))
    }

    /// Reads one order and attempts one payment.
    pub fn send_one(&self, number: u64) -> Result<()> {
        self.read(number % READ + 1)?;
        self.request("POST", "/payments", 502)
    }

    fn read(&self, number: u64) -> Result<()> {
        self.request("GET", &format!("/orders/{number}"), 200)
    }

    fn request(&self, method: &str, target: &str, status: u16) -> Result<()> {
        let address = self.at_orders()?;
        let response = self.environment.from_hub(|| Connection::open(address)?.request(method, target))?;
        ensure!(response.status == status, "{method} {target}: {} {}", response.status, response.text());
        Ok(())
    }

    /// Waits until the exporter's own hour shows that `orders` misses its objective of availability: one of six requests
    /// fails. The share that failed in the last five minutes.
    pub fn wait_objective_missed(&self) -> Result<f64> {
        wait::until("orders misses its objective", wait::SOON, || {
            let applications = self.environment.exporter()?.applications()?;
            let of_orders = applications.iter().find(|application| {
                application["tenant"] == NAMESPACE && application["service_name"] == ORDERS.name
            });
            let objectives = of_orders.and_then(|application| application["objectives"].as_array());
            let mut burning = objectives.into_iter().flatten().filter(|objective| {
                objective["objective"] == "availability" && objective["burns_fast"] == true
            });
            Ok(burning.next().and_then(|objective| objective["missed_5m"].as_f64()))
        })
    }
}

impl Table {
    /// Waits until every count equals what was sent; without agreement in time it returns the last look.
    pub fn settle(prometheus: &Prometheus) -> Result<Self> {
        let mut table = Self(LINES.to_vec());
        let arrived = wait::until("every count of initech arrives", wait::SOON, || {
            table.look(prometheus)?;
            Ok((table.differences() == 0).then_some(()))
        });
        crate::interrupt::check()?;
        if arrived.is_ok() {
            prometheus.next_scrape()?;
            table.look(prometheus)?;
        }
        Ok(table)
    }

    fn look(&mut self, prometheus: &Prometheus) -> Result<()> {
        for line in &mut self.0 {
            let mut selector = format!(r#"tenant="{NAMESPACE}",service_name="{}""#, line.service);
            for (name, value) in line.labels {
                write!(selector, r#",{name}="{value}""#).context("write a selector")?;
            }
            // Over a while: a scrape that failed leaves no value of now.
            let counts = format!("max_over_time({}_count{{{selector}}}[{WINDOW}])", line.family);
            let found = prometheus.query(&format!("sum({counts})"))?;
            line.counted = found.first().map(|element| super::counted::whole(element.value));
        }
        Ok(())
    }

    /// How many lines do not equal what was sent.
    pub fn differences(&self) -> usize {
        self.0.iter().filter(|line| line.counted != Some(line.sent)).count()
    }

    /// Requests and calls that were sent, each once for every end that sees it.
    pub fn sent(&self) -> u64 {
        self.0.iter().map(|line| line.sent).sum()
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{:8}{:11}{:40}{:>6}{:>9}", "tenant", "service", "what", "sent", "counted")?;
        for line in &self.0 {
            let end = line.family.split('_').take(2).collect::<Vec<_>>().join(" ");
            let values: Vec<_> = line.labels.iter().map(|(_, value)| *value).collect();
            let what = format!("{end}: {}", values.join(" "));
            let counted = line.counted.map_or_else(|| "none".to_owned(), |counted| counted.to_string());
            writeln!(f, "{NAMESPACE:8}{:11}{what:40}{:>6}{counted:>9}", line.service, line.sent)?;
        }
        Ok(())
    }
}
