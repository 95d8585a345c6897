//! The outcome of each trial, for the process that started the test program.
//!
//! The file that `PORTHOLE_TEST_REPORT` names gets one JSON object a line, appended as trials end. Several programs may
//! append to one file, one after another.

use std::{
    fs::{self, OpenOptions},
    io::{ErrorKind, Write as _},
    path::Path,
};

use anyhow::{Context as _, Result};
use serde::{Deserialize, Serialize};

/// Names the report's file; without it nothing is reported.
pub const REPORT_ENV: &str = "PORTHOLE_TEST_REPORT";

/// A trial that has ended.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Entry {
    /// The trial's name.
    pub name: String,
    /// How long it took.
    pub seconds: f64,
    /// Why it could not run; absent for one that ran, whether it passed or failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ignored: Option<String>,
}

/// Appends an entry to the report, if one is wanted.
pub(crate) fn append(entry: &Entry) -> Result<()> {
    match std::env::var_os(REPORT_ENV) {
        Some(path) => append_to(Path::new(&path), entry),
        None => Ok(()),
    }
}

fn append_to(path: &Path, entry: &Entry) -> Result<()> {
    let mut line = serde_json::to_string(entry).context("an entry of the test report")?;
    line.push('\n');
    let mut file = OpenOptions::new().create(true).append(true).open(path).context("open the test report")?;
    file.write_all(line.as_bytes()).context("write the test report")
}

/// All entries of a report; none if no program has written one.
pub fn read(path: &Path) -> Result<Vec<Entry>> {
    let text = match fs::read_to_string(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        text => text.with_context(|| format!("read {}", path.display()))?,
    };
    text.lines().map(|line| serde_json::from_str(line).with_context(|| format!("in {line:?}"))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_appended_is_read() {
        let directory = tempfile::tempdir().expect("directory");
        let path = directory.path().join("report");
        assert_eq!(read(&path).expect("nothing yet"), []);
        let ran = Entry { name: "a::b".into(), seconds: 1.5, ignored: None };
        let ignored = Entry { name: "a::c".into(), seconds: 0.0, ignored: Some("no \"root\"\n".into()) };
        for entry in [&ran, &ignored] {
            append_to(&path, entry).expect("appended");
        }
        assert_eq!(read(&path).expect("read"), [ran, ignored]);
    }
}
