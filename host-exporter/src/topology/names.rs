//! Names of addresses from a table of the host's: Kubernetes' Services, servers that are not monitored.
//!
//! ```toml
//! [[address]]
//! tenant = "acme"            # whose clients; all tenants' when absent
//! address = "10.96.14.7"
//! port = 3306                # any when absent
//! application = "db"         # an application of that tenant, or
//! # name = "billing API"     # what else is there
//! ```

use std::{
    collections::BTreeMap,
    fs::File,
    io::{self, Read as _},
    net::IpAddr,
    path::{Path, PathBuf},
};

use serde::Deserialize;
use thiserror::Error;

use super::Target;

/// Largest table, bytes: some hundred thousand rows.
const FILE_BYTES_MAX: u64 = 16 << 20;

/// Longest name.
const NAME_BYTES_MAX: usize = 253;

/// Why a table cannot be used.
#[derive(Debug, Error)]
pub enum NamesError {
    /// It cannot be read.
    #[error("{path}: {source}")]
    Read {
        /// The file.
        path: PathBuf,
        /// The system's error.
        source: io::Error,
    },
    /// It is no table of names.
    #[error("{path}: {reason}")]
    Malformed {
        /// The file.
        path: PathBuf,
        /// What is wrong, and where.
        reason: String,
    },
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Table {
    #[serde(default)]
    address: Vec<Row>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Row {
    tenant: Option<String>,
    address: IpAddr,
    port: Option<u16>,
    application: Option<String>,
    name: Option<String>,
}

/// What is at an address, for one tenant's clients or for all.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Named {
    tenant: Option<String>,
    target: Target,
}

/// The table.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Names(BTreeMap<(IpAddr, Option<u16>), Vec<Named>>);

impl Names {
    /// Reads a table.
    pub fn read(path: &Path) -> Result<Self, NamesError> {
        let mut text = String::new();
        File::open(path)
            .and_then(|file| file.take(FILE_BYTES_MAX + 1).read_to_string(&mut text))
            .map_err(|source| NamesError::Read { path: path.to_owned(), source })?;
        Self::parse(&text).map_err(|reason| NamesError::Malformed { path: path.to_owned(), reason })
    }

    fn parse(text: &str) -> Result<Self, String> {
        if text.len() as u64 > FILE_BYTES_MAX {
            return Err(format!("larger than {FILE_BYTES_MAX} bytes"));
        }
        let table: Table = toml::from_str(text).map_err(|error| error.to_string())?;
        let mut names = Self::default();
        for Row { tenant, address, port, application, name } in table.address {
            let is_name = |name: &String| {
                !name.is_empty() && name.len() <= NAME_BYTES_MAX && !name.contains(char::is_control)
            };
            let target = match (application, name, &tenant) {
                (Some(application), None, Some(_)) if is_name(&application) => {
                    Target::Application(application)
                }
                (None, Some(name), _) if is_name(&name) => Target::Named(name),
                _ => {
                    return Err(format!(
                        "{address}: `name`, or `application` with its `tenant`, is wanted, of at most {NAME_BYTES_MAX} bytes \
                         without control characters"
                    ));
                }
            };
            names.0.entry((address.to_canonical(), port)).or_default().push(Named { tenant, target });
        }
        Ok(names)
    }

    /// What a tenant's client called at an address: what is named for this tenant, then for all, then that it is another tenant's.
    pub(super) fn target(&self, tenant: &str, address: IpAddr, port: Option<u16>) -> Option<Target> {
        let exact = port.and_then(|port| self.0.get(&(address, Some(port))));
        let rows = || exact.into_iter().chain(self.0.get(&(address, None))).flatten();
        let of = |wanted: Option<&str>| {
            rows().find(|row| row.tenant.as_deref() == wanted).map(|row| row.target.clone())
        };
        of(Some(tenant)).or_else(|| of(None)).or_else(|| rows().next().map(|_| Target::AnotherTenant))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_for_a_tenants_clients_or_for_all() {
        let names = Names::parse(
            r#"
            [[address]]
            tenant = "acme"
            address = "10.96.0.7"
            port = 3306
            application = "db"
            [[address]]
            address = "::ffff:10.96.0.10"
            name = "cluster DNS"
            [[address]]
            tenant = "acme"
            address = "10.96.0.10"
            name = "own DNS"
            "#,
        )
        .expect("a table");
        let target =
            |tenant, address: &str, port| names.target(tenant, address.parse().expect("address"), Some(port));
        assert_eq!(target("acme", "10.96.0.7", 3306), Some(Target::Application("db".to_owned())));
        assert_eq!(target("rival", "10.96.0.7", 3306), Some(Target::AnotherTenant));
        assert_eq!(target("acme", "10.96.0.7", 3307), None);
        assert_eq!(target("rival", "10.96.0.10", 53), Some(Target::Named("cluster DNS".to_owned())));
        assert_eq!(target("acme", "10.96.0.10", 53), Some(Target::Named("own DNS".to_owned())));
    }

    #[test]
    fn a_table_that_cannot_be_used_is_refused_with_its_reason() {
        for (text, part) in [
            ("[[address]]\naddress = \"10.0.0\"\nname = \"x\"", "address"),
            ("[[address]]\naddress = \"10.0.0.1\"", "10.0.0.1"),
            ("[[address]]\naddress = \"10.0.0.1\"\napplication = \"db\"", "tenant"),
            ("[[address]]\naddress = \"10.0.0.1\"\nname = \"a\\u001bb\"", "control"),
            ("[[address]]\naddress = \"10.0.0.1\"\nname = \"x\"\ncolour = 1", "colour"),
        ] {
            let error = Names::parse(text).expect_err(text);
            assert!(error.contains(part), "{text}: {error}");
        }
        let error = Names::read(Path::new("/nonexistent/names")).expect_err("absent").to_string();
        assert!(error.contains("/nonexistent/names"), "{error}");
    }
}
