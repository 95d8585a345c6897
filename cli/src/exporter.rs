//! The exporter's JSON, over HTTP.

use std::{
    fmt::Write as _,
    fs,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr},
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, Result, anyhow, bail, ensure};
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper::{StatusCode, body::Bytes, header::HeaderValue};
use hyper_util::rt::TokioIo;
use porthole_config::{ConfigFile, Section};
use serde::{Deserialize, de::DeserializeOwned};
use tokio::io::{AsyncRead, AsyncWrite};

use crate::tls::Tls;

/// Longest wait for an answer.
const TIMEOUT: Duration = Duration::from_secs(10);

/// Largest answer that is read. A node of thousands of sandboxes has some MiB.
const ANSWER_BYTES_MAX: usize = 256 << 20;

/// The exporter that requests are sent to.
#[derive(Debug, clap::Args)]
// The subcommands' own options have the same name.
#[group(skip)]
pub struct Options {
    /// Address and port of the exporter, `https://…` where it has TLS; default: `[exporter] listen` of the configuration
    #[arg(long, value_name = "[https://]ADDRESS:PORT")]
    exporter: Option<String>,
    /// File with the token to send, where the exporter needs one
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,
    /// File with the authority of the exporter's certificate, PEM; the exporter is reached by TLS then
    #[arg(long, value_name = "FILE")]
    ca: Option<PathBuf>,
    /// Configuration file; default: `PORTHOLE_CONFIG`, else /etc/porthole/porthole.toml
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
}

/// What is read of `[exporter]`; its other keys are the exporter's own business.
#[derive(Debug, Deserialize)]
#[serde(default)]
struct Exporter {
    listen: String,
    tls_certificate: Option<PathBuf>,
}

impl Default for Exporter {
    fn default() -> Self {
        Self { listen: "127.0.0.1:9464".into(), tls_certificate: None }
    }
}

impl Section for Exporter {
    const NAME: &'static str = "exporter";
}

/// The header with the token of a file.
fn token(path: &Path) -> Result<HeaderValue> {
    let text = fs::read_to_string(path).with_context(|| format!("read the token in {}", path.display()))?;
    let token = text.trim();
    ensure!(!token.is_empty(), "{} has no token", path.display());
    let header = HeaderValue::from_str(&format!("Bearer {token}"));
    let mut header = header.map_err(|_| anyhow!("{} has something else than a token", path.display()))?;
    header.set_sensitive(true);
    Ok(header)
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

/// An exporter's address and the client for it.
#[derive(Debug)]
pub struct Client {
    address: String,
    token: Option<HeaderValue>,
    tls: Option<Tls>,
    runtime: tokio::runtime::Runtime,
}

impl Client {
    /// The exporter that the options or the configuration name.
    pub fn new(options: &Options) -> Result<Self> {
        let (address, has_tls) = if let Some(named) = options.exporter.as_deref() {
            let (scheme, address) = named.split_once("://").unwrap_or(("http", named));
            ensure!(matches!(scheme, "http" | "https"), "`{named}` is no address of an exporter");
            (address.trim_end_matches('/').to_owned(), scheme == "https")
        } else {
            let configured: Exporter = ConfigFile::load(options.config.as_deref())?.section()?;
            (reachable(&configured.listen)?, configured.tls_certificate.is_some())
        };
        let mut client = Self::at(address)?;
        client.token = options.token_file.as_deref().map(token).transpose()?;
        client.tls = match &options.ca {
            Some(authority) => Some(Tls::new(&client.address, authority)?),
            None if has_tls => bail!(
                "the exporter at {} has TLS: name the authority of its certificate by --ca",
                client.address
            ),
            None => None,
        };
        Ok(client)
    }

    /// The exporter at an address.
    pub fn at(address: String) -> Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        Ok(Self { address, token: None, tls: None, runtime: runtime.context("start the runtime")? })
    }

    /// Address and port.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// Requests a path and reads the response.
    pub fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T> {
        serde_json::from_slice(&self.bytes(path)?).with_context(|| {
            format!("{} answers {path} with something unexpected: is it porthole-exporter?", self.address)
        })
    }

    /// Requests a path.
    pub fn bytes(&self, path: &str) -> Result<Bytes> {
        tracing::debug!(address = self.address, path, "request to the exporter");
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
        match &self.tls {
            Some(tls) => self.ask_on(tls.connect(stream).await?, path).await,
            None => self.ask_on(stream, path).await,
        }
    }

    async fn ask_on(&self, stream: impl AsyncRead + AsyncWrite + Unpin, path: &str) -> Result<Bytes> {
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
        let mut request = hyper::Request::get(path)
            .header(hyper::header::HOST, &self.address)
            .header(hyper::header::CONNECTION, "close")
            .body(Empty::<Bytes>::new())?;
        if let Some(token) = &self.token {
            request.headers_mut().insert(hyper::header::AUTHORIZATION, token.clone());
        }
        let exchange = async move {
            let response = sender.send_request(request).await?;
            let status = response.status();
            match status {
                StatusCode::UNAUTHORIZED => bail!(
                    "it answers {path} with {status}: --token-file names a valid token (`porthole token create`)"
                ),
                StatusCode::FORBIDDEN => {
                    bail!("it answers {path} with {status}: the token does not admit to it")
                }
                _ => ensure!(status.is_success(), "it answers {path} with {status}"),
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
