//! `porthole replay --compare tshark`: what Porthole counts in capture files beside what Wireshark's dissectors count.
//!
//! Every file goes through Porthole's parsers and through [`tshark`]; a row shows where the numbers of requests or of
//! responses differ. A difference is a place to look, not a verdict: either program may be wrong.

mod tshark;

use std::{
    collections::BTreeMap,
    fs::File,
    io::{self, Read as _, Write},
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail};
use porthole_packet::capture::{HEAD_BYTES, is_capture};
use serde::Serialize;

use super::report::Report;
use crate::table::{self, row};

/// Programs that Porthole can be compared with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Tool {
    /// Wireshark's command line (Debian's package `tshark`).
    Tshark,
}

/// Requests and responses of one protocol in one file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Messages {
    /// Requests.
    pub requests: u64,
    /// Responses; `None` where the dissector does not distinguish them.
    pub responses: Option<u64>,
}

/// One protocol of one file, as both programs count it.
#[derive(Debug, Serialize)]
struct Comparison {
    /// The capture file.
    file: PathBuf,
    /// Protocol, as in metrics; HTTP/2 and gRPC are compared together, as `http2`.
    protocol: &'static str,
    /// What Porthole counts.
    porthole: Messages,
    /// What the other program counts.
    tshark: Messages,
    /// Whether both have the same numbers.
    agree: bool,
}

/// A file that one of the programs could not read.
#[derive(Debug, Serialize)]
struct Failure {
    /// The capture file.
    file: PathBuf,
    /// The program, and its error.
    error: String,
}

/// What `--json` prints.
#[derive(Debug, Default, Serialize)]
struct Sweep {
    /// By file and protocol.
    comparisons: Vec<Comparison>,
    /// Files without a comparison.
    failures: Vec<Failure>,
}

/// Compares one file or all capture files below a folder. The error has the number of files that differ.
pub fn run(path: &Path, json: bool) -> Result<()> {
    tshark::check()?;
    let files = capture_files(path)?;
    let mut sweep = Sweep::default();
    for (at, file) in files.iter().enumerate() {
        tracing::info!(file = %file.display(), "{} of {}", at + 1, files.len());
        match compare(file) {
            Ok(comparisons) => sweep.comparisons.extend(comparisons),
            Err(error) => {
                sweep.failures.push(Failure { file: file.clone(), error: format!("{error:#}") });
            }
        }
    }
    let printed =
        if json { table::json(&sweep) } else { table::to_stdout(|out| print(&sweep, files.len(), out)) };
    printed.context("print")?;
    let differ = sweep.comparisons.iter().filter(|comparison| !comparison.agree).count();
    if differ + sweep.failures.len() > 0 {
        bail!(
            "{differ} of {} comparisons differ, {} of {} files could not be compared",
            sweep.comparisons.len(),
            sweep.failures.len(),
            files.len()
        );
    }
    Ok(())
}

/// The file itself, or the capture files below a folder, in the order of their names. Symbolic links to folders are
/// not followed.
fn capture_files(path: &Path) -> Result<Vec<PathBuf>> {
    let metadata = std::fs::metadata(path).with_context(|| format!("open {}", path.display()))?;
    if !metadata.is_dir() {
        return Ok(vec![path.to_owned()]);
    }
    let mut files = Vec::new();
    let mut folders = vec![path.to_owned()];
    while let Some(folder) = folders.pop() {
        let entries = std::fs::read_dir(&folder).with_context(|| format!("list {}", folder.display()))?;
        for entry in entries {
            let entry = entry.with_context(|| format!("list {}", folder.display()))?;
            let kind = entry.file_type().with_context(|| format!("look at {}", entry.path().display()))?;
            let path = entry.path();
            if kind.is_dir() {
                folders.push(path);
            } else if may_be_capture(&path) {
                files.push(path);
            }
        }
    }
    if files.is_empty() {
        bail!("no file below {} is a capture: none begins like pcap or pcapng", path.display());
    }
    files.sort();
    Ok(files)
}

/// Whether a file begins like a capture, whatever its name; one that cannot be read may be one.
fn may_be_capture(path: &Path) -> bool {
    // To open a pipe or a device may block.
    if !std::fs::metadata(path).is_ok_and(|metadata| metadata.is_file()) {
        return false;
    }
    let mut head = Vec::new();
    let read = File::open(path).and_then(|file| file.take(HEAD_BYTES as u64).read_to_end(&mut head));
    read.is_err() || is_capture(&head)
}

/// Both programs' counts of one file, by protocol.
fn compare(file: &Path) -> Result<Vec<Comparison>> {
    let source = File::open(file).context("open")?;
    let (report, ended) = super::replay(Box::new(source)).context("porthole")?;
    ended.context("porthole")?;
    let theirs = tshark::count(file, &ports(&report)).context("tshark")?;
    Ok(pair(file, &ours(&report), &theirs))
}

/// Porthole's protocol under which it is compared; `None` for those that the dissectors do not know or count otherwise.
fn compared_as(protocol: &str) -> Option<&'static str> {
    tshark::PROTOCOLS
        .iter()
        .find(|dissector| dissector.porthole.contains(&protocol))
        .map(|dissector| dissector.porthole[0])
}

fn ours(report: &Report) -> BTreeMap<&'static str, Messages> {
    let mut counts: BTreeMap<&'static str, Messages> = BTreeMap::new();
    for sums in &report.summary {
        if let Some(protocol) = compared_as(sums.protocol) {
            let messages = counts.entry(protocol).or_default();
            messages.requests += sums.requests;
            messages.responses = Some(messages.responses.unwrap_or(0) + sums.responses);
        }
    }
    counts
}

/// Ports of the servers that Porthole found, by protocol: what the dissectors may need as a setting.
fn ports(report: &Report) -> BTreeMap<u16, &'static str> {
    let exchanges = report.exchanges.iter();
    exchanges.filter_map(|exchange| Some((exchange.server.port(), compared_as(exchange.protocol)?))).collect()
}

fn pair(
    file: &Path,
    ours: &BTreeMap<&'static str, Messages>,
    theirs: &BTreeMap<&'static str, Messages>,
) -> Vec<Comparison> {
    let protocols = tshark::PROTOCOLS.iter().map(|dissector| dissector.porthole[0]);
    protocols
        .filter(|protocol| ours.contains_key(protocol) || theirs.contains_key(protocol))
        .map(|protocol| {
            let porthole = ours.get(protocol).copied().unwrap_or_default();
            let tshark = theirs.get(protocol).copied().unwrap_or_default();
            let responses_agree =
                tshark.responses.is_none_or(|responses| responses == porthole.responses.unwrap_or(0));
            Comparison {
                file: file.to_owned(),
                protocol,
                porthole,
                tshark,
                agree: porthole.requests == tshark.requests && responses_agree,
            }
        })
        .collect()
}

/// Prints what differs, what failed, and a line that sums it up.
fn print(sweep: &Sweep, files: usize, out: &mut dyn Write) -> io::Result<()> {
    let mut rows = vec![row(["file", "protocol", "requests", "by tshark", "responses", "by tshark"])];
    let differ: Vec<_> = sweep.comparisons.iter().filter(|comparison| !comparison.agree).collect();
    rows.extend(differ.iter().map(|comparison| {
        let number = |count: Option<u64>| count.map_or("-".into(), |count| count.to_string());
        row([
            &comparison.file.display().to_string(),
            comparison.protocol,
            &comparison.porthole.requests.to_string(),
            &comparison.tshark.requests.to_string(),
            &number(comparison.porthole.responses),
            &number(comparison.tshark.responses),
        ])
    }));
    if !differ.is_empty() {
        table::print(&rows, &[2, 3, 4, 5], out)?;
        writeln!(out)?;
    }
    for failure in &sweep.failures {
        let line = format!("{}: {}", failure.file.display(), failure.error);
        writeln!(out, "{}", table::printable(&line))?;
    }
    let agree = sweep.comparisons.len() - differ.len();
    writeln!(
        out,
        "{files} files: {agree} comparisons agree, {} differ; {} files could not be compared",
        differ.len(),
        sweep.failures.len()
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn responses_are_compared_only_where_the_dissector_counts_them() {
        let messages = |requests, responses| Messages { requests, responses };
        let ours = BTreeMap::from([("redis", messages(3, Some(2))), ("http1", messages(3, Some(2)))]);
        let theirs = BTreeMap::from([("redis", messages(3, None)), ("http1", messages(3, Some(3)))]);
        let agree: Vec<_> = pair(Path::new("x.pcap"), &ours, &theirs)
            .iter()
            .map(|comparison| (comparison.protocol, comparison.agree))
            .collect();
        assert_eq!(agree, [("http1", false), ("redis", true)]);
    }

    #[test]
    fn what_only_one_program_sees_is_a_difference() {
        let seen = BTreeMap::from([("dns", Messages { requests: 1, responses: Some(1) })]);
        for (ours, theirs) in [(&seen, &BTreeMap::new()), (&BTreeMap::new(), &seen)] {
            assert!(!pair(Path::new("x.pcap"), ours, theirs)[0].agree);
        }
    }

    #[test]
    fn folders_are_searched_for_what_begins_like_a_capture_in_order() {
        let folder = tempfile::tempdir().expect("folder");
        std::fs::create_dir(folder.path().join("below")).expect("folder");
        let captures = ["b.PCAP", "a.trace", "below/c", "below/d.txt"];
        for name in captures {
            std::fs::write(folder.path().join(name), 0xa1b2_c3d4_u32.to_le_bytes()).expect("file");
        }
        for (name, text) in [("notes.txt", "notes"), ("empty.pcap", ""), ("notes.pcap", "notes")] {
            std::fs::write(folder.path().join(name), text).expect("file");
        }
        std::os::unix::fs::symlink("nowhere", folder.path().join("gone.pcap")).expect("link");
        let found = capture_files(folder.path()).expect("listed");
        let names: Vec<_> =
            found.iter().map(|file| file.strip_prefix(folder.path()).expect("below").to_owned()).collect();
        assert_eq!(names, ["a.trace", "b.PCAP", "below/c", "below/d.txt"].map(PathBuf::from));
    }
}
