//! The exporter's JSON, over HTTP.

use std::{
    fmt::Write as _,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr},
    path::PathBuf,
    time::Duration,
};

use anyhow::{Context, Result, anyhow, bail};
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper::body::Bytes;
use hyper_util::rt::TokioIo;
use porthole_config::{ConfigFile, Section};
use serde::{Deserialize, de::DeserializeOwned};

/// Longest wait for an answer.
const TIMEOUT: Duration = Duration::from_secs(10);

/// Largest answer that is read. A node of thousands of sandboxes has some MiB.
const ANSWER_BYTES_MAX: usize = 256 << 20;

/// Which exporter is asked.
#[derive(Debug, clap::Args)]
// The subcommands' own options have the same name.
#[group(skip)]
pub struct Options {
    /// Address and port of the exporter; default: `[exporter] listen` of the configuration
    #[arg(long, value_name = "ADDRESS:PORT")]
    exporter: Option<String>,
    /// Configuration file; default: `PORTHOLE_CONFIG`, else /etc/porthole/porthole.toml
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
}

/// What is read of `[exporter]`; its other keys are the exporter's own business.
#[derive(Debug, Deserialize)]
#[serde(default)]
struct Exporter {
    listen: String,
}

impl Default for Exporter {
    fn default() -> Self {
        Self { listen: "127.0.0.1:9464".into() }
    }
}

impl Section for Exporter {
    const NAME: &'static str = "exporter";
}

/// An address to connect to, for one to listen on.
pub fn reachable(listen: &str) -> Result<String> {
    let mut listen: SocketAddr = listen.parse().with_context(|| format!("`{listen}` as address and port"))?;
    // It listens everywhere, so also here.
    if listen.ip().is_unspecified() {
        let here = if listen.is_ipv4() { Ipv4Addr::LOCALHOST.into() } else { Ipv6Addr::LOCALHOST.into() };
        listen.set_ip(here);
    }
    Ok(listen.to_string())
}

/// An exporter that can be asked.
#[derive(Debug)]
pub struct Client {
    address: String,
    runtime: tokio::runtime::Runtime,
}

impl Client {
    /// The exporter that the options or the configuration name.
    pub fn new(options: &Options) -> Result<Self> {
        let named = options.exporter.as_deref();
        let named =
            named.map(|address| address.trim_start_matches("http://").trim_end_matches('/').to_owned());
        let configured = || {
            let file = ConfigFile::load(options.config.as_deref())?;
            reachable(&file.section::<Exporter>()?.listen)
        };
        let address = named.map_or_else(configured, Ok)?;
        Self::at(address)
    }

    /// The exporter at an address.
    pub fn at(address: String) -> Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        Ok(Self { address, runtime: runtime.context("start the runtime")? })
    }

    /// Address and port.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// Asks for a path and reads the answer.
    pub fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T> {
        serde_json::from_slice(&self.bytes(path)?).with_context(|| {
            format!("{} answers {path} with something unexpected: is it porthole-exporter?", self.address)
        })
    }

    /// Asks for a path.
    pub fn bytes(&self, path: &str) -> Result<Bytes> {
        tracing::debug!(address = self.address, path, "asking the exporter");
        let answer = async {
            tokio::time::timeout(TIMEOUT, self.ask(path))
                .await
                .unwrap_or_else(|_| bail!("no answer in {} s", TIMEOUT.as_secs()))
        };
        self.runtime.block_on(answer).with_context(|| {
            format!("ask the exporter at {} (does it run? --exporter names another)", self.address)
        })
    }

    async fn ask(&self, path: &str) -> Result<Bytes> {
        let stream = tokio::net::TcpStream::connect(&self.address).await?;
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
        let request = hyper::Request::get(path)
            .header(hyper::header::HOST, &self.address)
            .header(hyper::header::CONNECTION, "close")
            .body(Empty::<Bytes>::new())?;
        let exchange = async move {
            let response = sender.send_request(request).await?;
            let status = response.status();
            if !status.is_success() {
                bail!("it answers {path} with {status}");
            }
            let body = Limited::new(response.into_body(), ANSWER_BYTES_MAX).collect().await;
            Ok(body.map_err(|error| anyhow!(error))?.to_bytes())
        };
        // The connection does the reading and writing that the exchange waits for; it ends with an error only when
        // the exchange does.
        let (answer, _) = tokio::join!(exchange, connection);
        answer
    }
}

/// A value, encoded for a query.
pub fn query(parameters: &[(&str, Option<&str>)]) -> String {
    let mut text = String::new();
    for (name, value) in parameters {
        let Some(value) = value else { continue };
        text.push(if text.is_empty() { '?' } else { '&' });
        text.push_str(name);
        text.push('=');
        for byte in value.bytes() {
            if byte.is_ascii_alphanumeric() || b"-_.~".contains(&byte) {
                text.push(char::from(byte));
            } else {
                // Writing to a string cannot fail.
                let _ = write!(text, "%{byte:02X}");
            }
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_query_escapes_what_has_a_meaning() {
        assert_eq!(query(&[("tenant", None)]), "");
        assert_eq!(query(&[("tenant", Some("a&b é")), ("x", Some("1"))]), "?tenant=a%26b%20%C3%A9&x=1");
    }
}
