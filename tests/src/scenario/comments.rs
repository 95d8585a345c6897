//! A broker of Kafka, and `comments`, which publishes records there and reads them back, each in a guest of its own: what the demo
//! has beside the rest with `--full`.

use std::{path::Path, sync::Arc, time::Duration};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::{
    services::{Service, Services},
    table::{HTTP, Table, line},
};
use crate::{environment::Environment, image, prometheus::Prometheus};

/// The tenant, which is containerd's namespace.
pub const NAMESPACE: &str = "globex";

/// The broker, whose address stands in `applications/broker.sh` and `applications/comments.py`.
const BROKER: Service = Service { name: "broker", host: 31, command: &["/bin/sh", "/srv/broker.sh"] };

/// What produces and consumes.
const COMMENTS: Service =
    Service { name: "comments", host: 32, command: &["/usr/bin/python3", "/srv/comments.py"] };

const PORT: u16 = 8000;

const BROKER_PORT: u16 = 9092;

/// Memory of the broker's guest, MiB. Java's heap has 192 of it, Java itself nearly as much, and the broker's files are there too.
const BROKER_MEMORY_MIB: u32 = 768;

/// Where the broker's script expects the jars.
const JARS: &str = "/srv/kafka";

/// How many comments are published, and how often all are read.
const PUBLISHED: u64 = 30;
const READ: u64 = 6;

/// How long the broker may take until it accepts connections, and then `comments`, in an emulated guest.
const START: Duration = Duration::from_mins(10);

const CLIENT: &str = "messaging_client_operation_duration_seconds";
const SERVER: &str = "messaging_server_operation_duration_seconds";

const PUBLISHING: &[(&str, &str)] =
    &[("http_request_method", "POST"), ("http_route", "/comments"), ("http_response_status_code", "201")];
const READING: &[(&str, &str)] =
    &[("http_request_method", "GET"), ("http_route", "/comments"), ("http_response_status_code", "200")];
const PRODUCE: &[(&str, &str)] =
    &[("messaging_operation_name", "Produce"), ("messaging_destination_name", "comments")];
// Those for which the broker waits for records have a name of their own.
const FETCH: &[(&str, &str)] =
    &[("messaging_operation_name", "Fetch*"), ("messaging_destination_name", "comments")];

/// Both services, running.
#[derive(Debug)]
pub struct Comments(Services);

impl Comments {
    /// Starts both, the broker from a folder with Kafka's jars, and waits until `comments` has reached the broker and both are
    /// watched. `progress` gets a line about each start, and when the broker accepts connections.
    pub fn start(environment: &Arc<Environment>, jars: &Path, progress: &dyn Fn(&str)) -> Result<Self> {
        let mut services = Services::of(environment, NAMESPACE, image::BROKER);
        let mount = format!("type=bind,src={},dst={JARS},options=rbind:ro", jars.display());
        services.start_with_memory(BROKER_MEMORY_MIB, BROKER, &["--mount", &mount], progress)?;
        services.start(COMMENTS, &[], progress)?;
        services.wait_watched()?;
        services.wait_listening(BROKER, BROKER_PORT, START)?;
        progress("the broker accepts connections");
        // It listens once it has reached the broker.
        services.wait_listening(COMMENTS, PORT, START)?;
        Ok(Self(services))
    }

    /// Publishes comments, and reads all of them several times.
    pub fn send(&self) -> Result<()> {
        let address = self.0.at(COMMENTS, PORT)?;
        for _ in 0..PUBLISHED {
            self.0.request(address, "POST", "/comments", 201)?;
        }
        for _ in 0..READ {
            let read = self.read()?;
            ensure!(read == PUBLISHED, "{read} of {PUBLISHED} comments were read");
        }
        Ok(())
    }

    /// Publishes a comment and reads the newest.
    pub fn send_one(&self) -> Result<()> {
        self.0.request(self.0.at(COMMENTS, PORT)?, "POST", "/comments", 201)?;
        self.read().map(drop)
    }

    fn read(&self) -> Result<u64> {
        let response = self.0.request(self.0.at(COMMENTS, PORT)?, "GET", "/comments", 200)?;
        number(&response.body, "comments")
    }

    /// What both ends of each call have counted, once it equals what was sent. How many requests Kafka's client makes of what
    /// `comments` calls it for is its own decision, so `comments` reports how many were answered.
    pub fn counted(&self, prometheus: &Prometheus) -> Result<Table> {
        let response = self.0.request(self.0.at(COMMENTS, PORT)?, "GET", "/sent", 200)?;
        let produced = number(&response.body, "Produce")?;
        let fetched = number(&response.body, "Fetch")?;
        ensure!(produced >= PUBLISHED && fetched >= READ, "{produced} produced, {fetched} fetched");
        let lines = vec![
            line(COMMENTS.name, HTTP, PUBLISHING, PUBLISHED),
            line(COMMENTS.name, HTTP, READING, READ),
            line(COMMENTS.name, CLIENT, PRODUCE, produced),
            line(BROKER.name, SERVER, PRODUCE, produced),
            line(COMMENTS.name, CLIENT, FETCH, fetched),
            line(BROKER.name, SERVER, FETCH, fetched),
        ];
        Table::settle(NAMESPACE, lines, prometheus)
    }
}

/// A number of a JSON object.
fn number(body: &[u8], name: &str) -> Result<u64> {
    let body: Value = serde_json::from_slice(body).context("JSON from comments")?;
    body[name].as_u64().with_context(|| format!("no {name} in {body}"))
}
