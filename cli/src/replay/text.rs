//! A report as tables.

use std::io::{self, Write};

use super::report::Report;
use crate::table::{self, row};

/// Prints every exchange, then the summary, then what is missing.
pub fn print(report: &Report, out: &mut dyn Write) -> io::Result<()> {
    let mut rows =
        vec![row(["protocol", "operation", "resource", "status", "outcome", "ms", "client", "server"])];
    rows.extend(report.exchanges.iter().map(|line| {
        row([
            line.protocol,
            &line.operation,
            line.resource.as_deref().unwrap_or("-"),
            line.status.as_deref().unwrap_or("-"),
            line.outcome.name(),
            &line.duration_us.map_or("-".into(), milliseconds),
            &line.client.to_string(),
            &line.server.to_string(),
        ])
    }));
    table::print(&rows, &[5], out)?;
    writeln!(out)?;
    let mut rows = vec![row([
        "protocol",
        "requests",
        "responses",
        "client errors",
        "server errors",
        "mean ms",
        "max ms",
    ])];
    rows.extend(report.summary.iter().map(|sums| {
        #[expect(clippy::cast_precision_loss, reason = "a mean for people")]
        let mean = sums.duration_sum_us / (sums.responses.max(1) as f64);
        row([
            sums.protocol,
            &sums.requests.to_string(),
            &sums.responses.to_string(),
            &sums.client_errors.to_string(),
            &sums.server_errors.to_string(),
            &milliseconds(mean),
            &milliseconds(sums.duration_max_us),
        ])
    }));
    table::print(&rows, &[1, 2, 3, 4, 5, 6], out)?;
    let capture = &report.capture;
    writeln!(
        out,
        "\n{} packets ({} without TCP or UDP), {} connections ({} with no known protocol)",
        capture.packets, capture.packets_ignored, capture.connections, capture.unidentified
    )?;
    let lacks = [
        (capture.lost_bytes, "bytes of streams are not in the capture"),
        (capture.fragments_dropped, "fragments could not be joined"),
        (capture.unparsed, "requests were not parsed to their end"),
    ];
    for (count, what) in lacks {
        if count > 0 {
            writeln!(out, "{count} {what}")?;
        }
    }
    Ok(())
}

fn milliseconds(microseconds: f64) -> String {
    format!("{:.3}", microseconds / 1000.0)
}
