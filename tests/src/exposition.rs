//! Reads samples of an exposition, for tests that look at the exporter without Prometheus between.

use std::collections::BTreeMap;

use anyhow::{Context, Result, bail};

/// One sample line.
#[derive(Clone, Debug, PartialEq)]
pub struct Sample {
    /// Metric name, with its suffix (`_total`, `_count`).
    pub name: String,
    /// Labels with their escapes undone.
    pub labels: BTreeMap<String, String>,
    /// The value.
    pub value: f64,
}

impl Sample {
    /// Whether every given label has the given value.
    pub fn has(&self, labels: &[(&str, &str)]) -> bool {
        labels.iter().all(|(name, value)| self.labels.get(*name).is_some_and(|v| v == value))
    }
}

/// All samples of an OpenMetrics text.
pub fn parse(text: &str) -> Result<Vec<Sample>> {
    let lines = text.lines().filter(|line| !line.is_empty() && !line.starts_with('#'));
    lines.map(|line| sample(line).with_context(|| format!("sample line {line:?}"))).collect()
}

/// Sum over the samples of this name that have these labels; absent is `None`, not zero.
pub fn sum(samples: &[Sample], name: &str, labels: &[(&str, &str)]) -> Option<f64> {
    let matching = samples.iter().filter(|s| s.name == name && s.has(labels)).map(|s| s.value);
    matching.fold(None, |sum, value| Some(sum.unwrap_or(0.0) + value))
}

fn sample(line: &str) -> Result<Sample> {
    let end = line.find(['{', ' ']).context("no value")?;
    let (name, mut rest) = line.split_at(end);
    let mut labels = BTreeMap::new();
    if let Some(inner) = rest.strip_prefix('{') {
        rest = inner;
        while !rest.starts_with('}') {
            let (key, after) = rest.split_once("=\"").context("a label without a value")?;
            let (value, after) = unquote(after)?;
            labels.insert(key.trim_start_matches(',').to_owned(), value);
            rest = after;
        }
        rest = &rest[1..];
    }
    let value = rest.split_whitespace().next().context("no value")?;
    Ok(Sample { name: name.to_owned(), labels, value: value.parse().context("value")? })
}

/// The text up to the closing quote with its escapes undone, and what follows the quote.
fn unquote(text: &str) -> Result<(String, &str)> {
    let mut value = String::new();
    let mut chars = text.char_indices();
    while let Some((at, c)) = chars.next() {
        match c {
            '"' => return Ok((value, &text[at + 1..])),
            '\\' => match chars.next() {
                Some((_, 'n')) => value.push('\n'),
                Some((_, c @ ('"' | '\\'))) => value.push(c),
                other => bail!("escape {other:?}"),
            },
            c => value.push(c),
        }
    }
    bail!("a label value without its closing quote")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_read_with_their_escapes_undone() {
        let samples =
            parse("# HELP x y\na_total{tenant=\"q\\\"\\n\\\\é,}\",side=\"server\"} 3.0\nb 1 123\n# EOF\n");
        let samples = samples.expect("parsed");
        assert_eq!(samples.len(), 2);
        assert!(samples[0].has(&[("tenant", "q\"\n\\é,}"), ("side", "server")]), "{samples:?}");
        assert_eq!(sum(&samples, "a_total", &[("side", "server")]), Some(3.0));
        assert_eq!(sum(&samples, "a_total", &[("side", "client")]), None);
    }

    #[test]
    fn a_broken_line_is_an_error() {
        for text in ["a{b=\"c} 1", "a", "a{b} 1", "a x"] {
            assert!(parse(text).is_err(), "{text}");
        }
    }
}
