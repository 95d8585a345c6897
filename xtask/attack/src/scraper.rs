//! A scraper as Prometheus is one: it takes the exposition compressed, over a connection that stays open.

use std::{
    io::Read,
    net::SocketAddr,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use flate2::read::GzDecoder;
use porthole_testbed::http::{Connection, Response};

/// Prometheus' `Accept` header when it prefers OpenMetrics.
const HEADERS: &str = "Accept: application/openmetrics-text;version=1.0.0\r\nAccept-Encoding: gzip\r\n";

/// A scraper of one exporter.
#[derive(Debug)]
pub struct Scraper {
    exporter: SocketAddr,
    connection: Option<Connection>,
}

/// An exposition.
#[derive(Debug)]
pub struct Scraped {
    /// It, decompressed.
    pub text: String,
    /// From the request to the last byte of the answer.
    pub took: Duration,
}

impl Scraper {
    /// One that has no connection yet.
    pub fn new(exporter: SocketAddr) -> Self {
        Self { exporter, connection: None }
    }

    /// Scrapes; once more over a new connection when the old one was closed meanwhile.
    pub fn scrape(&mut self) -> Result<Scraped> {
        let began = Instant::now();
        let kept = self.connection.take().and_then(|connection| self.ask(connection).ok());
        let response = match kept {
            Some(response) => response,
            None => self.ask(Connection::open(self.exporter)?)?,
        };
        let took = began.elapsed();
        ensure!(response.status == 200, "/metrics answered {}: {}", response.status, response.text());
        ensure!(response.header("content-encoding") == Some("gzip"), "/metrics is not compressed");
        let mut text = String::new();
        GzDecoder::new(&*response.body).read_to_string(&mut text).context("decompress the exposition")?;
        Ok(Scraped { text, took })
    }

    fn ask(&mut self, mut connection: Connection) -> Result<Response> {
        connection.send("GET", "/metrics", HEADERS)?;
        let response = connection.receive("GET")?;
        self.connection = Some(connection);
        Ok(response)
    }
}
