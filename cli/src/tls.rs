//! The client's side of TLS to an exporter, by rustls.

use std::{path::Path, sync::Arc};

use anyhow::{Context, Result, ensure};
use rustls::{
    ClientConfig, RootCertStore,
    pki_types::{CertificateDer, ServerName, pem::PemObject as _},
};
use tokio::net::TcpStream;
use tokio_rustls::{TlsConnector, client::TlsStream};

/// How a server's certificate is verified.
#[derive(Clone)]
pub struct Tls {
    connector: TlsConnector,
    name: ServerName<'static>,
}

impl std::fmt::Debug for Tls {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Tls").field("name", &self.name).finish_non_exhaustive()
    }
}

impl Tls {
    /// For the server at `address`, a name or an address with a port, whose certificate is of this authority.
    pub fn new(address: &str, authority: &Path) -> Result<Self> {
        let shown = authority.display();
        let mut roots = RootCertStore::empty();
        let certificates =
            CertificateDer::pem_file_iter(authority).with_context(|| format!("read {shown}"))?;
        for certificate in certificates {
            roots
                .add(certificate.with_context(|| format!("read {shown}"))?)
                .with_context(|| format!("{shown} as an authority"))?;
        }
        ensure!(!roots.is_empty(), "{shown} has no certificate");
        let host = address.rsplit_once(':').map_or(address, |(host, _)| host).trim_matches(['[', ']']);
        let name = ServerName::try_from(host.to_owned()).with_context(|| format!("`{host}` as a name"))?;
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .context("versions of TLS")?
            .with_root_certificates(roots)
            .with_no_client_auth();
        Ok(Self { connector: TlsConnector::from(Arc::new(config)), name })
    }

    /// The handshake.
    pub async fn connect(&self, stream: TcpStream) -> Result<TlsStream<TcpStream>> {
        self.connector.connect(self.name.clone(), stream).await.context("the handshake of TLS")
    }
}
