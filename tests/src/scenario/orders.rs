//! A third tenant: `orders`, which calls a cache, two databases and a name server, each in a guest of its own, and a
//! payment service that is down.

use std::{sync::Arc, time::Duration};

use anyhow::Result;

use super::{
    services::{Service, Services},
    table::{HTTP, Line, Table, line},
};
use crate::{environment::Environment, http::Connection, image, prometheus::Prometheus, wait};

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

/// The tenant's services, running.
#[derive(Debug)]
pub struct Orders(Services);

const DB_CLIENT: &str = "db_client_operation_duration_seconds";
const DB_SERVER: &str = "db_server_operation_duration_seconds";

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
        let mut services = Services::of(environment, NAMESPACE, image::STORES);
        for service in SERVICES {
            services.start(service, &[], progress)?;
        }
        let (name, host) = PAYMENTS;
        services.add_address(name, host)?;
        let address = services.at(ORDERS, PORT)?;
        wait::until("orders has reached its dependencies", START, || {
            environment.from_hub(|| Connection::open(address).map(drop)).map(Some)
        })?;
        services.wait_watched()?;
        Ok(Self(services))
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
        self.0.request(self.0.at(ORDERS, PORT)?, method, target, status).map(drop)
    }

    /// Waits until the exporter's own hour shows that `orders` misses its objective of availability: one of six requests
    /// fails. The share that failed in the last five minutes.
    pub fn wait_objective_missed(&self) -> Result<f64> {
        wait::until("orders misses its objective", wait::SOON, || {
            let applications = self.0.environment.exporter()?.applications()?;
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

    /// What both ends of each call have counted, once it equals what was sent.
    pub fn counted(&self, prometheus: &Prometheus) -> Result<Table> {
        Table::settle(NAMESPACE, LINES.to_vec(), prometheus)
    }

    /// The id of the trace with most spans in which `orders` served a request, if there is one.
    pub fn largest_trace(&self) -> Result<Option<String>> {
        let query = format!("tenant={NAMESPACE}&service_name={}&side=server&spans_min=2", ORDERS.name);
        let traces = self.0.environment.exporter()?.traces(&query)?;
        let largest = traces.iter().max_by_key(|trace| trace["spans"].as_u64());
        Ok(largest.and_then(|trace| trace["trace_id"].as_str()).map(str::to_owned))
    }
}
