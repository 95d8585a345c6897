//! The configuration file of an environment.

use std::{net::SocketAddr, path::Path};

use anyhow::{Context, Result, bail};
use toml::{Table, Value};

use crate::dist::Dist;

/// What an environment's configuration has beside the paths and addresses that every one needs.
#[derive(Clone, Debug, Default)]
pub struct Settings {
    overrides: Vec<(String, String, Value)>,
}

impl Settings {
    /// Sets `key` of `[section]`; a section may be dotted (`tenants.by_namespace`).
    #[must_use]
    pub fn with(mut self, section: &str, key: &str, value: impl Into<Value>) -> Self {
        self.overrides.push((section.to_owned(), key.to_owned(), value.into()));
        self
    }

    /// These and then the others.
    #[must_use]
    pub(super) fn and(mut self, others: &Self) -> Self {
        self.overrides.extend(others.overrides.iter().cloned());
        self
    }

    /// The file's text.
    pub(super) fn render(&self, dist: &Dist, directory: &Path, exporter: SocketAddr) -> Result<String> {
        let text = |path: &Path| path.to_str().map(str::to_owned).context("a path in UTF-8");
        let mut table = Table::new();
        let base: [(&str, &str, String); 8] = [
            ("registry", "directory", text(&directory.join("registry"))?),
            ("shim", "sidecar_rootfs", text(&dist.sidecar())?),
            ("shim", "log", text(&directory.join("log/shim.log"))?),
            ("shim", "state_directory", text(&directory.join("companion"))?),
            ("exporter", "listen", exporter.to_string()),
            ("exporter", "state_directory", text(&directory.join("exporter"))?),
            ("microvm", "kernel", text(&dist.kernel())?),
            ("microvm", "initrd", text(&dist.initrd())?),
        ];
        for (section, key, value) in base {
            set(&mut table, section, key, value.into())?;
        }
        for (section, key, value) in &self.overrides {
            set(&mut table, section, key, value.clone())?;
        }
        toml::to_string(&table).context("encode the configuration")
    }
}

fn set(table: &mut Table, section: &str, key: &str, value: Value) -> Result<()> {
    let mut place = table;
    for part in section.split('.') {
        let next = place.entry(part).or_insert_with(|| Value::Table(Table::new()));
        let Value::Table(next) = next else { bail!("[{section}]: {part} is no section") };
        place = next;
    }
    place.insert(key.to_owned(), value);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn overrides_reach_nested_sections() {
        let dist = Dist::in_target(Path::new("/t"));
        let settings = Settings::default().with("tenants.by_namespace", "acme", "Acme \"Inc\"\n").with(
            "registry",
            "directory",
            "/elsewhere",
        );
        let listen = "127.0.0.1:9".parse().expect("address");
        let table: Table =
            settings.render(&dist, Path::new("/d"), listen).expect("text").parse().expect("TOML");
        assert_eq!(table["tenants"]["by_namespace"]["acme"].as_str(), Some("Acme \"Inc\"\n"));
        assert_eq!(table["registry"]["directory"].as_str(), Some("/elsewhere"));
        assert_eq!(table["exporter"]["listen"].as_str(), Some("127.0.0.1:9"));
    }
}
