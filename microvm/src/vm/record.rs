//! What a sandbox has on the host, on record in its state directory, so that another process can remove it: the
//! programs, the network's changes, control groups. Mounts need no record: all are below the state directory.

use std::{
    io,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};

use super::process::ProcessRef;

/// The record's file in a state directory.
const FILE: &str = "record.json";

/// The record.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// The sandbox, as `<namespace>@<id>`.
    #[serde(default)]
    pub sandbox: String,
    /// The shim.
    pub shim: Option<ProcessRef>,
    /// Programs of the machine, in the order in which they started.
    pub programs: Vec<ProcessRef>,
    /// Network namespace in which the sandbox has its tap.
    pub network: Option<PathBuf>,
    /// Control groups that were made, parents first.
    #[serde(default)]
    pub control_groups: Vec<PathBuf>,
    /// Interfaces there that have a traffic mirror of ours.
    pub mirrored: Vec<String>,
}

impl Record {
    /// Reads the record of a state directory; none if there is none.
    pub fn load(directory: &Path) -> io::Result<Option<Self>> {
        match std::fs::read(directory.join(FILE)) {
            Ok(bytes) => Ok(Some(serde_json::from_slice(&bytes)?)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Writes it; a reader sees the old one or the new one.
    pub fn save(&self, directory: &Path) -> io::Result<()> {
        let partial = directory.join(format!("{FILE}.partial"));
        std::fs::write(&partial, serde_json::to_vec(self)?)?;
        std::fs::rename(partial, directory.join(FILE))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_is_read_back() {
        let directory = tempfile::tempdir().expect("directory");
        assert_eq!(Record::load(directory.path()).expect("read"), None);
        let record = Record {
            programs: vec![ProcessRef { name: "qemu".into(), pid: 7, start: 9 }],
            mirrored: vec!["eth0".into()],
            ..Record::default()
        };
        record.save(directory.path()).expect("saved");
        assert_eq!(Record::load(directory.path()).expect("read"), Some(record));
    }
}
