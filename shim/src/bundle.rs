//! What a container's bundle has about it: annotations and network namespace of its `config.json`.

use std::{
    collections::BTreeMap,
    io::Read,
    path::{Path, PathBuf},
};

use porthole_registry::SandboxId;
use serde::Deserialize;

/// Largest `config.json` that is read, in bytes. containerd itself bounds a spec at 16 MiB by its message size.
const CONFIG_BYTES_MAX: u64 = 16 * 1024 * 1024;

/// Annotation of containerd's CRI plugin and of Kata: `sandbox` or `container`.
pub const CONTAINER_TYPE: &str = "io.kubernetes.cri.container-type";
/// Annotation: the sandbox that a container belongs to.
pub const SANDBOX_ID: &str = "io.kubernetes.cri.sandbox-id";
/// Annotation: the container's name in its pod.
pub const CONTAINER_NAME: &str = "io.kubernetes.cri.container-name";
/// Annotation: the pod's namespace.
pub const SANDBOX_NAMESPACE: &str = "io.kubernetes.cri.sandbox-namespace";
/// Annotation: the pod's name.
pub const SANDBOX_NAME: &str = "io.kubernetes.cri.sandbox-name";
/// Annotation that names the application, where `[names]` has no other.
pub const SERVICE: &str = "io.porthole.service";
/// Annotation that names the tenant, where `[tenants] trust_annotation` is set.
pub const TENANT: &str = "io.porthole.tenant";

/// A bundle whose `config.json` cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum BundleError {
    /// The file cannot be read.
    #[error("{path}: {source}")]
    Read {
        /// The file.
        path: PathBuf,
        /// The system's error.
        source: std::io::Error,
    },
    /// The file is no OCI runtime configuration.
    #[error("{path}: {source}")]
    Malformed {
        /// The file.
        path: PathBuf,
        /// The parser's error.
        source: serde_json::Error,
    },
}

/// What a container is to its sandbox.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Role {
    /// The sandbox of a CRI pod.
    PodSandbox,
    /// A container of plain containerd: its own sandbox.
    Alone,
    /// A further container of the named sandbox.
    Member(SandboxId),
}

/// Annotations of a container.
#[derive(Clone, Debug, Default, Deserialize)]
pub struct Annotations(BTreeMap<String, String>);

#[derive(Deserialize)]
struct Config {
    #[serde(default)]
    annotations: Option<Annotations>,
    #[serde(default)]
    linux: Option<Linux>,
}

#[derive(Deserialize)]
struct Linux {
    #[serde(default)]
    namespaces: Option<Vec<Namespace>>,
}

#[derive(Deserialize)]
struct Namespace {
    #[serde(rename = "type")]
    kind: String,
    #[serde(default)]
    path: PathBuf,
}

impl Config {
    fn read(bundle: &Path) -> Result<Self, BundleError> {
        let path = bundle.join("config.json");
        let mut text = Vec::new();
        std::fs::File::open(&path)
            .and_then(|file| file.take(CONFIG_BYTES_MAX).read_to_end(&mut text))
            .map_err(|source| BundleError::Read { path: path.clone(), source })?;
        serde_json::from_slice(&text).map_err(|source| BundleError::Malformed { path, source })
    }
}

/// The network namespace that the container joins; none where it gets a new one, or has the host's.
pub fn network_namespace(bundle: &Path) -> Option<PathBuf> {
    let namespaces = Config::read(bundle).ok()?.linux?.namespaces?;
    let network = namespaces.into_iter().find(|namespace| namespace.kind == "network")?;
    (!network.path.as_os_str().is_empty()).then_some(network.path)
}

impl Annotations {
    /// Reads them from the bundle.
    pub fn read(bundle: &Path) -> Result<Self, BundleError> {
        Ok(Config::read(bundle)?.annotations.unwrap_or_default())
    }

    /// One annotation; an empty one counts as absent.
    pub fn get(&self, key: &str) -> Option<&str> {
        self.0.get(key).map(String::as_str).filter(|value| !value.is_empty())
    }

    /// What the container is to its sandbox. A `container` that names no usable sandbox is on its own.
    pub fn role(&self) -> Role {
        match self.get(CONTAINER_TYPE) {
            Some("sandbox") => Role::PodSandbox,
            Some("container") => {
                self.get(SANDBOX_ID).and_then(|id| id.parse().ok()).map_or(Role::Alone, Role::Member)
            }
            _ => Role::Alone,
        }
    }
}

impl<K: Into<String>, V: Into<String>> FromIterator<(K, V)> for Annotations {
    fn from_iter<T: IntoIterator<Item = (K, V)>>(pairs: T) -> Self {
        Self(pairs.into_iter().map(|(key, value)| (key.into(), value.into())).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Annotations, BundleError> {
        let dir = tempfile::tempdir().expect("directory");
        std::fs::write(dir.path().join("config.json"), text).expect("written");
        Annotations::read(dir.path())
    }

    #[test]
    fn roles_follow_the_annotations() {
        assert_eq!(read(r#"{"ociVersion":"1.0.2"}"#).expect("read").role(), Role::Alone);
        assert_eq!(read(r#"{"annotations":null}"#).expect("read").role(), Role::Alone);
        let sandbox = r#"{"annotations":{"io.kubernetes.cri.container-type":"sandbox"}}"#;
        assert_eq!(read(sandbox).expect("read").role(), Role::PodSandbox);
        let member = r#"{"annotations":{"io.kubernetes.cri.container-type":"container","io.kubernetes.cri.sandbox-id":"s"}}"#;
        assert_eq!(read(member).expect("read").role(), Role::Member("s".parse().expect("id")));
        let lost = r#"{"annotations":{"io.kubernetes.cri.container-type":"container","io.kubernetes.cri.sandbox-id":"../s"}}"#;
        assert_eq!(read(lost).expect("read").role(), Role::Alone);
    }

    #[test]
    fn errors_name_the_file() {
        assert!(read("{").expect_err("malformed").to_string().contains("config.json"));
        assert!(
            Annotations::read(Path::new("/nonexistent"))
                .expect_err("absent")
                .to_string()
                .contains("config.json")
        );
    }
}
