//! OpenMetrics 1.0 as text, with classic buckets. A histogram's labels are written once and copied for each bucket.
//!
//! prometheus-client encodes this form too, but it formats the labels of each bucket anew.

use std::fmt::Write as _;

use porthole_histogram::Histogram;

use super::sink::{Family, Kind, Label, Output, PIECE, Sink};
use crate::{buckets, spans::Exemplar};

/// Writes text.
pub struct Text<'a> {
    output: &'a mut dyn Output,
    buffer: String,
    name: String,
    kind: Kind,
    /// The labels of the sample that is being written, without braces.
    labels: String,
    /// `le` of each classic bucket.
    bounds: [String; buckets::CLASSIC],
}

impl<'a> Text<'a> {
    /// A form without families yet.
    pub fn new(output: &'a mut dyn Output) -> Self {
        let bounds = buckets::classic(&Histogram::default()).map(|(bound, _)| {
            let mut text = String::new();
            if bound.is_infinite() {
                text.push_str("+Inf");
            } else {
                write_float(&mut text, bound);
            }
            text
        });
        Self {
            output,
            buffer: String::with_capacity(PIECE + (16 << 10)),
            name: String::new(),
            kind: Kind::Gauge,
            labels: String::new(),
            bounds,
        }
    }

    /// Writes the end and hands the rest over.
    pub fn finish(mut self) {
        self.buffer.push_str("# EOF\n");
        self.output.piece(self.buffer.as_bytes());
    }

    fn hand_over(&mut self) {
        if self.buffer.len() >= PIECE {
            self.output.piece(self.buffer.as_bytes());
            self.buffer.clear();
        }
    }

    fn write_labels(&mut self, labels: &[Label<'_>]) {
        self.labels.clear();
        for (name, value) in labels.iter().filter(|(_, value)| !value.is_empty()) {
            if !self.labels.is_empty() {
                self.labels.push(',');
            }
            self.labels.push_str(name);
            self.labels.push_str("=\"");
            escape(&mut self.labels, value);
            self.labels.push('"');
        }
    }

    /// The name of a sample, its labels and the blank before the value.
    fn begin(&mut self, suffix: &str, le: Option<usize>) {
        self.buffer.push_str(&self.name);
        self.buffer.push_str(suffix);
        if !self.labels.is_empty() || le.is_some() {
            self.buffer.push('{');
            self.buffer.push_str(&self.labels);
            if let Some(bound) = le.and_then(|at| self.bounds.get(at)) {
                self.buffer.push_str(if self.labels.is_empty() { "le=\"" } else { ",le=\"" });
                self.buffer.push_str(bound);
                self.buffer.push('"');
            }
            self.buffer.push('}');
        }
        self.buffer.push(' ');
    }

    /// The exemplar of a bucket, behind its sample (OpenMetrics 1.0.0, "Exemplars").
    fn write_exemplar(&mut self, exemplars: &[Exemplar], above: f64, bound: f64) {
        if let Some(exemplar) = exemplars.iter().find(|exemplar| exemplar.is_between(above, bound)) {
            let Exemplar { trace, span, unix_ms, .. } = exemplar;
            let _ = write!(self.buffer, " # {{trace_id=\"{trace}\",span_id=\"{span}\"}} ");
            write_float(&mut self.buffer, exemplar.seconds());
            let _ = write!(self.buffer, " {}.{:03}", unix_ms / 1_000, unix_ms % 1_000);
        }
    }

    fn suffix(&self) -> &'static str {
        if self.kind == Kind::Counter { "_total" } else { "" }
    }
}

impl Sink for Text<'_> {
    fn family(&mut self, family: &Family<'_>) {
        family.name.clone_into(&mut self.name);
        self.kind = family.kind;
        let kind = match family.kind {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
            Kind::Histogram => "histogram",
        };
        // Writing to a string does not fail.
        let _ = writeln!(self.buffer, "# HELP {} {}.", family.name, family.help);
        let _ = writeln!(self.buffer, "# TYPE {} {kind}", family.name);
        if let Some(unit) = family.unit {
            let _ = writeln!(self.buffer, "# UNIT {} {unit}", family.name);
        }
    }

    fn number(&mut self, labels: &[Label<'_>], value: u64) {
        self.write_labels(labels);
        self.begin(self.suffix(), None);
        write_number(&mut self.buffer, value);
        self.buffer.push('\n');
        self.hand_over();
    }

    fn float(&mut self, labels: &[Label<'_>], value: f64) {
        self.write_labels(labels);
        self.begin(self.suffix(), None);
        write_float(&mut self.buffer, value);
        self.buffer.push('\n');
        self.hand_over();
    }

    fn histogram(&mut self, labels: &[Label<'_>], durations: &Histogram) {
        self.histogram_with(labels, durations, &[]);
    }

    fn histogram_with(&mut self, labels: &[Label<'_>], durations: &Histogram, exemplars: &[Exemplar]) {
        self.write_labels(labels);
        self.begin("_sum", None);
        write_float(&mut self.buffer, buckets::sum_seconds(durations));
        self.buffer.push('\n');
        self.begin("_count", None);
        write_number(&mut self.buffer, durations.count());
        self.buffer.push('\n');
        let mut cumulative = 0_u64;
        let mut above = -1.0;
        for (at, (bound, count)) in buckets::classic(durations).into_iter().enumerate() {
            cumulative = cumulative.saturating_add(count);
            self.begin("_bucket", Some(at));
            write_number(&mut self.buffer, cumulative);
            self.write_exemplar(exemplars, above, bound);
            above = bound;
            self.buffer.push('\n');
        }
        self.hand_over();
    }
}

/// Escapes a label's value (OpenMetrics 1.0.0, ABNF `escaped-string`).
fn escape(out: &mut String, value: &str) {
    let mut rest = value;
    while let Some(at) = rest.find(['"', '\\', '\n']) {
        let (plain, special) = rest.split_at(at);
        out.push_str(plain);
        out.push_str(match special.as_bytes()[0] {
            b'"' => "\\\"",
            b'\\' => "\\\\",
            _ => "\\n",
        });
        rest = &special[1..];
    }
    out.push_str(rest);
}

fn write_number(out: &mut String, value: u64) {
    let mut digits = [0_u8; 20];
    let mut at = digits.len();
    let mut rest = value;
    loop {
        at -= 1;
        digits[at] = b'0' + u8::try_from(rest % 10).unwrap_or(0);
        rest /= 10;
        if rest == 0 {
            break;
        }
    }
    out.extend(digits[at..].iter().map(|&digit| char::from(digit)));
}

/// A float, with a point that distinguishes it from an integer.
fn write_float(out: &mut String, value: f64) {
    let from = out.len();
    let _ = write!(out, "{value}");
    if value.is_finite() && !out[from..].contains('.') {
        out.push_str(".0");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(write: impl FnOnce(&mut Text<'_>)) -> String {
        let mut bytes = Vec::new();
        let mut text = Text::new(&mut bytes);
        write(&mut text);
        text.finish();
        String::from_utf8(bytes).expect("text")
    }

    #[test]
    fn families_have_the_form_of_openmetrics() {
        let written = text(|text| {
            text.family(&Family { name: "a", help: "Things", unit: None, kind: Kind::Counter });
            text.number(&[], 0);
            text.number(&[("x", "1\"\\\n"), ("empty", ""), ("y", "ü")], u64::MAX);
            text.family(&Family {
                name: "b_seconds",
                help: "Time",
                unit: Some("seconds"),
                kind: Kind::Gauge,
            });
            text.float(&[], 2.0);
            text.float(&[], 1e-9);
        });
        let expected = "# HELP a Things.\n# TYPE a counter\na_total 0\n\
                        a_total{x=\"1\\\"\\\\\\n\",y=\"ü\"} 18446744073709551615\n\
                        # HELP b_seconds Time.\n# TYPE b_seconds gauge\n# UNIT b_seconds seconds\n\
                        b_seconds 2.0\nb_seconds 0.000000001\n# EOF\n";
        assert_eq!(written, expected);
    }

    #[test]
    fn buckets_are_cumulative_and_end_with_the_count() {
        let mut durations = Histogram::default();
        durations.record(900_000_000);
        durations.record(1_900_000_000);
        durations.record(100_000_000_000);
        let written = text(|text| {
            text.family(&Family { name: "h", help: "H", unit: None, kind: Kind::Histogram });
            text.histogram(&[("a", "b")], &durations);
        });
        for line in [
            "h_count{a=\"b\"} 3",
            "h_bucket{a=\"b\",le=\"0.5\"} 0",
            "h_bucket{a=\"b\",le=\"1.0\"} 1",
            "h_bucket{a=\"b\",le=\"2.0\"} 2",
            "h_bucket{a=\"b\",le=\"32.0\"} 2",
            "h_bucket{a=\"b\",le=\"+Inf\"} 3",
        ] {
            assert!(written.lines().any(|written| written == line), "{line} not in\n{written}");
        }
    }
}
