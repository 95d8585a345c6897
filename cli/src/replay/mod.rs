//! `porthole replay`: a capture file through the parsers that run in the guests.
//!
//! [`report`] is what comes out, [`text`] how people read it; [`compare`] compares many files with another program.

mod compare;
mod report;
mod text;

use std::{fs::File, io::Read, path::PathBuf};

use anyhow::{Context, Result};
use porthole_l7::{Limits as ParserLimits, ParserContext};
use porthole_packet::{Capture, Limits, Replay};
use report::Report;

use crate::table;

/// Options of `porthole replay`.
#[derive(Debug, clap::Args)]
pub struct Options {
    /// Capture file, pcap or pcapng; `-` is standard input. With `--compare`, a file or a folder.
    file: PathBuf,
    /// Compare the numbers of requests and responses with those of another program, for every capture file in a folder.
    #[arg(long, value_name = "TOOL")]
    compare: Option<compare::Tool>,
    /// Print one JSON object with `exchanges` and `summary`; with `--compare`, with `comparisons` and `failures`.
    #[arg(long)]
    json: bool,
}

/// Reads the file and prints what was found. A file that is damaged further on is shown up to there, with an error.
pub fn run(options: &Options) -> Result<()> {
    match options.compare {
        Some(compare::Tool::Tshark) => return compare::run(&options.file, options.json),
        None => {}
    }
    let source: Box<dyn Read + Send> = if options.file.as_os_str() == "-" {
        Box::new(std::io::stdin())
    } else {
        Box::new(File::open(&options.file).with_context(|| format!("open {}", options.file.display()))?)
    };
    let (report, ended) = replay(source).with_context(|| options.file.display().to_string())?;
    let printed =
        if options.json { table::json(&report) } else { table::to_stdout(|out| text::print(&report, out)) };
    printed.context("print")?;
    ended.with_context(|| options.file.display().to_string())
}

/// What a capture has in it, and whether it could be read to its end.
fn replay(source: Box<dyn Read + Send>) -> Result<(Report, Result<()>)> {
    let mut capture = Capture::open(source)?;
    let mut context = ParserContext::new(ParserLimits::default());
    // Who has the file may see its paths.
    context.set_trusts_paths(true);
    let mut flows = Replay::new(context, Limits::default());
    let mut found = Vec::new();
    let ended = loop {
        let more = capture.next(&mut |packet| {
            flows.packet(&packet, &mut |exchange, endpoints| found.push((*exchange, endpoints)));
        });
        match more {
            Ok(true) => {}
            Ok(false) => break Ok(()),
            Err(error) => break Err(error.into()),
        }
    };
    flows.finish(&mut |exchange, endpoints| found.push((*exchange, endpoints)));
    Ok((Report::new(&flows, &found), ended))
}
