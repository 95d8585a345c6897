//! What was sent to one tenant's services and what Prometheus has counted of it, as lines of a table.

use std::fmt::{self, Write as _};

use anyhow::{Context, Result};

use super::counted::{WINDOW, whole};
use crate::{prometheus::Prometheus, wait};

pub(super) const HTTP: &str = "http_server_request_duration_seconds";

/// One line of what was sent beside what was counted.
#[derive(Clone, Debug)]
pub struct Line {
    service: &'static str,
    /// The metric without `_count`, and the labels that choose what was sent.
    family: &'static str,
    labels: &'static [(&'static str, &'static str)],
    sent: u64,
    counted: Option<u64>,
}

/// So many exchanges at one end: the metric without `_count`, and the labels that choose them. A value that ends with `*` stands for
/// all that begin as it does.
pub(super) const fn line(
    service: &'static str,
    family: &'static str,
    labels: &'static [(&'static str, &'static str)],
    sent: u64,
) -> Line {
    Line { service, family, labels, sent, counted: None }
}

/// All lines of a tenant.
#[derive(Clone, Debug)]
pub struct Table {
    tenant: &'static str,
    lines: Vec<Line>,
}

impl Table {
    /// Waits until every count equals what was sent; without agreement in time it returns the last look.
    pub(super) fn settle(tenant: &'static str, lines: Vec<Line>, prometheus: &Prometheus) -> Result<Self> {
        let mut table = Self { tenant, lines };
        let arrived = wait::until(&format!("every count of {tenant} arrives"), wait::SOON, || {
            table.look(prometheus)?;
            Ok((table.differences() == 0).then_some(()))
        });
        crate::interrupt::check()?;
        if arrived.is_ok() {
            prometheus.next_scrape()?;
            table.look(prometheus)?;
        }
        Ok(table)
    }

    fn look(&mut self, prometheus: &Prometheus) -> Result<()> {
        for line in &mut self.lines {
            let selector = selector(self.tenant, line).context("write a selector")?;
            // Over a while: a scrape that failed leaves no value of now.
            let counts = format!("max_over_time({}_count{{{selector}}}[{WINDOW}])", line.family);
            let found = prometheus.query(&format!("sum({counts})"))?;
            line.counted = found.first().map(|element| whole(element.value));
        }
        Ok(())
    }

    /// How many lines do not equal what was sent.
    pub fn differences(&self) -> usize {
        self.lines.iter().filter(|line| line.counted != Some(line.sent)).count()
    }

    /// Requests and calls that were sent, each once for every end that sees it.
    pub fn sent(&self) -> u64 {
        self.lines.iter().map(|line| line.sent).sum()
    }
}

/// The labels that choose a line's series.
fn selector(tenant: &str, line: &Line) -> Result<String, fmt::Error> {
    let mut selector = format!(r#"tenant="{tenant}",service_name="{}""#, line.service);
    for (name, value) in line.labels {
        match value.strip_suffix('*') {
            Some(begin) => write!(selector, r#",{name}=~"{begin}.*""#)?,
            None => write!(selector, r#",{name}="{value}""#)?,
        }
    }
    Ok(selector)
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{:8}{:11}{:40}{:>6}{:>9}", "tenant", "service", "what", "sent", "counted")?;
        for line in &self.lines {
            let end = line.family.split('_').take(2).collect::<Vec<_>>().join(" ");
            let values: Vec<_> = line.labels.iter().map(|(_, value)| *value).collect();
            let what = format!("{end}: {}", values.join(" "));
            let counted = line.counted.map_or_else(|| "none".to_owned(), |counted| counted.to_string());
            writeln!(f, "{:8}{:11}{what:40}{:>6}{counted:>9}", self.tenant, line.service, line.sent)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_whole_or_begin_with_what_is_before_a_star() {
        let line = line("broker", HTTP, &[("route", "/orders/{}"), ("operation", "Fetch*")], 1);
        let expected = r#"tenant="globex",service_name="broker",route="/orders/{}",operation=~"Fetch.*""#;
        assert_eq!(selector("globex", &line).expect("written"), expected);
    }
}
