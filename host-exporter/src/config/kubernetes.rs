//! `[exporter.kubernetes]` of the configuration file: the cluster whose Services and Pods have names.

use std::{collections::BTreeMap, path::PathBuf};

use axum::http::Uri;
use porthole_config::Section;
use serde::Deserialize;

/// Where the cluster's API is, and what is read of it.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Kubernetes {
    /// `https` URL of the API server.
    pub url: String,
    /// Authorities of its certificate, PEM; read for each connection.
    pub ca: PathBuf,
    /// The token of a service account that may list and watch Services and Pods; read for each request.
    pub token_file: PathBuf,
    /// Namespaces whose Services and Pods have names for every tenant.
    pub shared_namespaces: Vec<String>,
    /// Tenants by namespace, of `[tenants]`.
    #[serde(skip)]
    pub tenants: BTreeMap<String, String>,
}

/// `[tenants]`, as far as the exporter reads it: the wrapper checks it.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct Tenants {
    /// Tenants by namespace.
    pub by_namespace: BTreeMap<String, String>,
}

impl Section for Tenants {
    const NAME: &'static str = "tenants";
}

impl Default for Kubernetes {
    fn default() -> Self {
        let account = PathBuf::from("/var/run/secrets/kubernetes.io/serviceaccount");
        Self {
            url: String::new(),
            ca: account.join("ca.crt"),
            token_file: account.join("token"),
            shared_namespaces: vec!["default".to_owned(), "kube-system".to_owned()],
            tenants: BTreeMap::new(),
        }
    }
}

/// Host and port of the server.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Address {
    /// Name or address; one of IPv6 in brackets.
    pub host: String,
    /// Port.
    pub port: u16,
}

impl Kubernetes {
    /// Host and port of the URL; none of another kind of URL, and of one with a user's name, a path or a query.
    pub fn address(&self) -> Option<Address> {
        let uri: Uri = self.url.parse().ok()?;
        let is_plain = !uri.authority()?.as_str().contains('@') && matches!(uri.path(), "" | "/");
        let host = uri.host().filter(|host| !host.is_empty())?.to_owned();
        let is_https = uri.scheme_str() == Some("https") && uri.query().is_none();
        (is_https && is_plain).then(|| Address { host, port: uri.port_u16().unwrap_or(443) })
    }

    /// The key that cannot be used, and what it must be.
    pub fn invalid(&self) -> Option<(&'static str, &'static str)> {
        if self.address().is_none() {
            Some(("kubernetes.url", "must be an https URL without user, path and query"))
        } else if !self.ca.is_absolute() {
            Some(("kubernetes.ca", "must be an absolute path"))
        } else if !self.token_file.is_absolute() {
            Some(("kubernetes.token_file", "must be an absolute path"))
        } else {
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_used_is_refused_with_its_key() {
        let with = |url: &str| Kubernetes { url: url.to_owned(), ..Kubernetes::default() };
        let address = with("https://[fd00::1]:6443/").address();
        assert_eq!(address, Some(Address { host: "[fd00::1]".to_owned(), port: 6443 }));
        assert_eq!(with("https://10.96.0.1").invalid(), None);
        for url in ["", "10.96.0.1", "http://a", "https://u@a", "https://a/b", "https://a?b=c"] {
            assert_eq!(with(url).invalid().map(|(key, _)| key), Some("kubernetes.url"), "{url}");
        }
        let relative = |change: fn(&mut Kubernetes)| {
            let mut config = with("https://a");
            change(&mut config);
            config.invalid().map(|(key, _)| key)
        };
        assert_eq!(relative(|config| config.ca = "ca".into()), Some("kubernetes.ca"));
        assert_eq!(relative(|config| config.token_file = "t".into()), Some("kubernetes.token_file"));
    }
}
