//! Certificates of an authority of the test's own, and a client. A module of the tests that need it: other crates' tests
//! use the rest of what is in this folder, and no TLS.

#![allow(dead_code, reason = "each test program uses a part")]

use std::{net::SocketAddr, path::Path, sync::Arc};

use porthole_exporter::config;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair, SanType};
use rustls::{
    ClientConfig, RootCertStore,
    crypto::ring,
    pki_types::{CertificateDer, PrivateKeyDer, ServerName},
};
use tokio::net::TcpStream;
use tokio_rustls::{TlsConnector, client::TlsStream};

/// Issues certificates.
pub struct Authority(CertifiedIssuer<'static, KeyPair>);

/// A certificate and its key.
pub struct Issued {
    certificate: rcgen::Certificate,
    key: KeyPair,
}

fn named(common_name: &str) -> CertificateParams {
    let mut parameters = CertificateParams::default();
    parameters.distinguished_name.push(DnType::CommonName, common_name);
    parameters
}

impl Authority {
    pub fn new() -> Self {
        let mut parameters = named("an authority");
        parameters.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().expect("key");
        Self(CertifiedIssuer::self_signed(parameters, key).expect("issuer"))
    }

    /// A certificate of a subject and of further names.
    pub fn issue(&self, common_name: &str, names: &[SanType]) -> Issued {
        let mut parameters = named(common_name);
        parameters.subject_alt_names = names.to_vec();
        self.sign(&parameters)
    }

    /// A certificate whose time is over.
    pub fn expired(&self, common_name: &str) -> Issued {
        let mut parameters = named(common_name);
        parameters.not_before = rcgen::date_time_ymd(2020, 1, 1);
        parameters.not_after = rcgen::date_time_ymd(2020, 2, 1);
        self.sign(&parameters)
    }

    fn sign(&self, parameters: &CertificateParams) -> Issued {
        let key = KeyPair::generate().expect("key");
        Issued { certificate: parameters.signed_by(&key, &self.0).expect("issued"), key }
    }

    /// The certificate of a server on the loopback.
    pub fn server(&self) -> Issued {
        self.issue("a server", &[SanType::IpAddress([127, 0, 0, 1].into())])
    }

    pub fn pem(&self) -> String {
        self.0.pem()
    }

    /// Gives a server TLS, and has it verify clients.
    pub fn configure(&self, config: &mut config::Exporter, directory: &Path) {
        let ca = directory.join("ca.pem");
        std::fs::write(&ca, self.pem()).expect("written");
        let (certificate, key) = (directory.join("server.pem"), directory.join("server.key"));
        self.server().write(&certificate, &key);
        config.tls_client_ca = Some(ca);
        config.tls_certificate = Some(certificate);
        config.tls_key = Some(key);
    }

    /// Connects; only a certificate of this authority is accepted.
    pub async fn connect(
        &self,
        address: SocketAddr,
        client: Option<&Issued>,
    ) -> std::io::Result<TlsStream<TcpStream>> {
        let mut roots = RootCertStore::empty();
        roots.add(self.0.der().clone()).expect("a root");
        let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .expect("versions")
            .with_root_certificates(roots);
        let config = match client {
            None => builder.with_no_client_auth(),
            Some(client) => {
                let chain: Vec<CertificateDer<'static>> = vec![client.certificate.der().clone()];
                let key = PrivateKeyDer::try_from(client.key.serialize_der()).expect("key");
                builder.with_client_auth_cert(chain, key).expect("a pair")
            }
        };
        let name = ServerName::try_from("127.0.0.1").expect("name");
        let stream = TcpStream::connect(address).await?;
        TlsConnector::from(Arc::new(config)).connect(name, stream).await
    }
}

impl Issued {
    pub fn write(&self, certificate: &Path, key: &Path) {
        std::fs::write(key, self.key.serialize_pem()).expect("written");
        std::fs::write(certificate, self.certificate.pem()).expect("written");
    }
}
