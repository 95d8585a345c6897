//! Tables for people, and what may be printed on a terminal.

use std::io::{self, Write};

/// A row of cells. Texts from outside (captures, names of pods) must not reach the terminal as control sequences.
pub fn row<const N: usize>(cells: [&str; N]) -> Vec<String> {
    cells.map(printable).into()
}

/// A text without control characters.
pub fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
}

/// Prints rows of equal length in columns; `right` are aligned to the right.
pub fn print(rows: &[Vec<String>], right: &[usize], out: &mut dyn Write) -> io::Result<()> {
    let columns = rows.first().map_or(0, Vec::len);
    let widths: Vec<usize> =
        (0..columns).map(|at| rows.iter().map(|row| row[at].chars().count()).max().unwrap_or(0)).collect();
    for row in rows {
        let mut line = String::new();
        for (at, (cell, width)) in row.iter().zip(&widths).enumerate() {
            let padded =
                if right.contains(&at) { format!("{cell:>width$}  ") } else { format!("{cell:width$}  ") };
            line.push_str(&padded);
        }
        writeln!(out, "{}", line.trim_end())?;
    }
    Ok(())
}

/// Prints to standard output. A reader that closes the pipe early is no error.
pub fn to_stdout(print: impl FnOnce(&mut dyn Write) -> io::Result<()>) -> io::Result<()> {
    let mut out = io::BufWriter::new(io::stdout().lock());
    match print(&mut out).and_then(|()| out.flush()) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        other => other,
    }
}

/// Prints one JSON value, for programs.
pub fn json(value: &impl serde::Serialize) -> io::Result<()> {
    to_stdout(|out| {
        serde_json::to_writer_pretty(&mut *out, value)?;
        writeln!(out)
    })
}
