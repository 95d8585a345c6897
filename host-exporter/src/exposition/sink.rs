//! What an exposition is written to: one form of it, in pieces.

use porthole_histogram::Histogram;

use crate::spans::Exemplar;

/// Type of a family.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Only ever grows; its samples' names end in `_total`.
    Counter,
    /// Goes up and down.
    Gauge,
    /// Durations.
    Histogram,
}

/// A family: its name without the suffix of its samples, and with its unit.
#[derive(Clone, Copy, Debug)]
pub struct Family<'a> {
    /// Name; ends in the unit where there is one.
    pub name: &'a str,
    /// One line for people.
    pub help: &'a str,
    /// Unit, by OpenMetrics' word.
    pub unit: Option<&'static str>,
    /// Type.
    pub kind: Kind,
}

/// Labels of a sample. One without a value is left out.
pub type Label<'a> = (&'static str, &'a str);

/// A form of exposition. Every sample belongs to the family that was begun last.
pub trait Sink {
    /// Begins a family.
    fn family(&mut self, family: &Family<'_>);

    /// A sample of a counter or a gauge, as a whole number.
    fn number(&mut self, labels: &[Label<'_>], value: u64);

    /// A sample of a counter or a gauge.
    fn float(&mut self, labels: &[Label<'_>], value: f64);

    /// A histogram.
    fn histogram(&mut self, labels: &[Label<'_>], durations: &Histogram);

    /// A histogram with exemplars, in a form that has them.
    fn histogram_with(&mut self, labels: &[Label<'_>], durations: &Histogram, exemplars: &[Exemplar]) {
        let _ = exemplars;
        self.histogram(labels, durations);
    }
}

/// Where encoded bytes go.
pub trait Output {
    /// Takes a piece.
    fn piece(&mut self, bytes: &[u8]);
}

impl Output for Vec<u8> {
    fn piece(&mut self, bytes: &[u8]) {
        self.extend_from_slice(bytes);
    }
}

/// Bytes after which a piece is handed over.
pub const PIECE: usize = 128 << 10;
