//! What install wrote, so that uninstall removes that and nothing else.

use std::{
    collections::BTreeSet,
    fmt::Write as _,
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::{below, containerd::Block, replace};

/// Where it is, below the root.
pub const PATH: &str = "/var/lib/porthole/install.json";

/// Everything that was written. Paths are those without the root.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Manifest {
    /// Files, as they were written. During an upgrade a path is here twice, as it was and as it will be.
    pub files: Vec<Written>,
    /// Directories that were not there before.
    pub directories: BTreeSet<PathBuf>,
    /// The part of containerd's configuration.
    pub containerd: Option<Block>,
}

/// A file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Written {
    /// Where it is.
    pub path: PathBuf,
    /// What was written, in hexadecimal digits.
    pub sha256: String,
}

impl Manifest {
    /// The manifest of an installation, if there is one.
    pub fn load(root: &Path) -> Result<Option<Self>> {
        let path = below(root, Path::new(PATH));
        match fs::read(&path) {
            Ok(bytes) => {
                serde_json::from_slice(&bytes).map(Some).with_context(|| format!("read {}", path.display()))
            }
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error).with_context(|| format!("read {}", path.display())),
        }
    }

    /// Writes it; its directory is there.
    pub fn store(&self, root: &Path) -> Result<()> {
        let bytes = serde_json::to_vec_pretty(self).context("write the manifest")?;
        replace(&below(root, Path::new(PATH)), &bytes, 0o644)
    }

    /// Removes it.
    pub fn remove(root: &Path) -> Result<()> {
        let path = below(root, Path::new(PATH));
        fs::remove_file(&path).with_context(|| format!("remove {}", path.display()))
    }

    /// Whether a file was written, whatever is in it.
    pub fn has(&self, path: &Path) -> bool {
        self.files.iter().any(|file| file.path == path)
    }

    /// Whether these bytes were written there.
    pub fn wrote(&self, path: &Path, bytes: &[u8]) -> bool {
        self.has(path) && self.files.contains(&Written { path: path.to_owned(), sha256: digest(bytes) })
    }

    /// The paths of all files, once.
    pub fn paths(&self) -> BTreeSet<&Path> {
        self.files.iter().map(|file| file.path.as_path()).collect()
    }
}

/// SHA-256 in hexadecimal digits.
pub fn digest(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().fold(String::new(), |mut text, byte| {
        // Writing to a string cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}
