//! Our part of containerd's configuration file: a block between two marks at its end, the rest byte for byte as it was.
//!
//! A file of its own that is imported would be tidier, but containerd 1.6 and 1.7 replace a plugin's whole section by
//! an imported one's (containerd: `services/server/config/config.go`, `mergeConfig`).

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};
use toml::{Table, Value};

use super::{below, replace};

const BEGIN: &str = "# Begin of what `porthole install` wrote.\n";
const END: &str = "# End of what `porthole install` wrote.\n";

/// For containerd 1.6 and 1.7, and for 2.x, which reads it as well.
const BLOCK: &str = include_str!("../../../deploy/containerd/porthole.toml");

/// The plugin that has the runtime classes in the versions 2 and 3 of the configuration.
const PLUGIN_V2: &str = "io.containerd.grpc.v1.cri";
const PLUGIN_V3: &str = "io.containerd.cri.v1.runtime";

/// What was written, for uninstall.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Block {
    /// The file.
    pub path: PathBuf,
    /// The text, with its marks.
    pub text: String,
    /// What the file had before it when it was made for it; it goes with the block.
    pub made: Option<String>,
}

/// A change of the file.
#[derive(Debug)]
pub struct Edit {
    target: PathBuf,
    mode: u32,
    /// The new text; none when nothing changes.
    pub text: Option<String>,
    remove: bool,
    /// Our part of it.
    pub block: Block,
}

impl Edit {
    /// Adds our block, or brings it up to date.
    pub fn add(root: &Path, path: &Path, old: Option<&Block>) -> Result<Self> {
        let target = below(root, path);
        let old = old.filter(|block| block.path == path);
        let (before, made, permissions) = match fs::read_to_string(&target) {
            Ok(text) => {
                let text = old.map_or(text.clone(), |old| text.replacen(&old.text, "", 1));
                let mode = fs::metadata(&target).map_or(0o644, |data| data.permissions().mode() & 0o7777);
                (text, old.and_then(|old| old.made.clone()), mode)
            }
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                let text = "version = 2\n".to_owned();
                (text.clone(), Some(text), 0o644)
            }
            Err(error) => return Err(error).with_context(|| format!("read {}", target.display())),
        };
        let shown = target.display();
        let table: Table = before.parse().with_context(|| format!("{shown} is no TOML"))?;
        let plugin = match table.get("version").and_then(Value::as_integer) {
            Some(2) => PLUGIN_V2,
            Some(3..) => PLUGIN_V3,
            // An empty file means the same as none.
            None if table.is_empty() => PLUGIN_V2,
            _ => bail!("{shown} is of version 1: `containerd config migrate` brings it up to date"),
        };
        let needs_version = !table.contains_key("version");
        let version = if needs_version { "version = 2\n" } else { "" };
        let line = if before.is_empty() || before.ends_with('\n') { "" } else { "\n" };
        let block = format!("{line}{BEGIN}{version}{}{END}", BLOCK.replace(PLUGIN_V2, plugin));
        let text = format!("{before}{block}");
        let check: Table = text.parse().with_context(|| {
            format!("{shown} has a runtime `porthole` of its own, or a form that cannot be added to")
        })?;
        let runtime = check["plugins"][plugin]["containerd"]["runtimes"]["porthole"]["runtime_type"].as_str();
        if runtime != Some(crate::doctor::RUNTIME_TYPE) {
            bail!("{shown}: the runtime cannot be added");
        }
        let unchanged = fs::read_to_string(&target).is_ok_and(|there| there == text);
        Ok(Self {
            target,
            mode: permissions,
            text: (!unchanged).then_some(text),
            remove: false,
            block: Block { path: path.to_owned(), text: block, made },
        })
    }

    /// Takes our block out again; none when it is not there any more.
    pub fn remove(root: &Path, block: &Block) -> Result<Option<Self>> {
        let target = below(root, &block.path);
        let text = match fs::read_to_string(&target) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error).with_context(|| format!("read {}", target.display())),
        };
        if !text.contains(&block.text) {
            if text.contains(BEGIN) {
                bail!(
                    "what install wrote into {} was changed: take it out by hand, between the marks",
                    target.display()
                );
            }
            return Ok(None);
        }
        let rest = text.replacen(&block.text, "", 1);
        let mode = fs::metadata(&target).map_or(0o644, |data| data.permissions().mode() & 0o7777);
        let remove = block.made.as_ref() == Some(&rest);
        Ok(Some(Self { target, mode, text: Some(rest), remove, block: block.clone() }))
    }

    /// Writes the file, or removes one that only had our block.
    pub fn apply(&self) -> Result<()> {
        match &self.text {
            Some(_) if self.remove => {
                fs::remove_file(&self.target).with_context(|| format!("remove {}", self.target.display()))
            }
            Some(text) => replace(&self.target, text.as_bytes(), self.mode),
            None => Ok(()),
        }
    }
}
