//! Prometheus' protobuf exposition with native histograms: messages `io.prometheus.client.MetricFamily`, each after its
//! length (`prometheus/client_model`, `io/prometheus/client/metrics.proto`; Prometheus, "Exposition formats").
//!
//! A Prometheus that takes native histograms leaves out the classic buckets of the same histogram, unless it is configured to
//! take both (`scrape_classic_histograms`, since 2.45): they are written only where that is configured.
//!
//! The agents' histogram is schema 3 of native histograms already, so buckets are copied, not converted. prometheus-client
//! offers this form as a tree of messages in memory, a string for each label name; here only one family is held, encoded.

use porthole_histogram::{Histogram, INDEX_MIN};

use super::sink::{Family, Kind, Label, Output, Sink};
use crate::{buckets, spans::Exemplar};

/// Schema of the histograms: bounds are powers of 2^(1/8).
const SCHEMA: i32 = 3;

/// The lowest bucket holds everything down to zero: in the form of native histograms, the zero bucket.
const ZERO_BUCKET: i32 = INDEX_MIN;

/// Numbers of the fields that are written.
mod field {
    /// Of `MetricFamily`.
    pub mod family {
        pub const NAME: u32 = 1;
        pub const HELP: u32 = 2;
        pub const TYPE: u32 = 3;
        pub const METRIC: u32 = 4;
        pub const UNIT: u32 = 5;
    }
    /// Of `Metric`.
    pub mod metric {
        pub const LABEL: u32 = 1;
        pub const GAUGE: u32 = 2;
        pub const COUNTER: u32 = 3;
        pub const HISTOGRAM: u32 = 7;
    }
    /// Of `Histogram`.
    pub mod histogram {
        pub const SAMPLE_COUNT: u32 = 1;
        pub const SAMPLE_SUM: u32 = 2;
        pub const BUCKET: u32 = 3;
        pub const SCHEMA: u32 = 5;
        pub const ZERO_THRESHOLD: u32 = 6;
        pub const ZERO_COUNT: u32 = 7;
        pub const POSITIVE_SPAN: u32 = 12;
        pub const POSITIVE_DELTA: u32 = 13;
        pub const EXEMPLARS: u32 = 16;
    }
    /// Of `Exemplar`.
    pub mod exemplar {
        pub const LABEL: u32 = 1;
        pub const VALUE: u32 = 2;
        pub const TIMESTAMP: u32 = 3;
    }
    /// Of `Bucket`.
    pub mod bucket {
        pub const CUMULATIVE_COUNT: u32 = 1;
        pub const UPPER_BOUND: u32 = 2;
        pub const EXEMPLAR: u32 = 3;
    }
}

/// Writes length-delimited messages.
pub struct Protobuf<'a> {
    output: &'a mut dyn Output,
    /// Classic buckets are written besides.
    classic: bool,
    /// The family that is being written.
    family: Vec<u8>,
    kind: Kind,
    metric: Vec<u8>,
    inner: Vec<u8>,
    deltas: Vec<u8>,
    span: Vec<u8>,
    has_samples: bool,
}

impl<'a> Protobuf<'a> {
    /// A form without families yet.
    pub fn new(output: &'a mut dyn Output, classic: bool) -> Self {
        Self {
            output,
            classic,
            family: Vec::new(),
            kind: Kind::Gauge,
            metric: Vec::new(),
            inner: Vec::new(),
            deltas: Vec::new(),
            span: Vec::new(),
            has_samples: false,
        }
    }

    /// Hands the last family over.
    pub fn finish(mut self) {
        self.hand_over();
    }

    fn hand_over(&mut self) {
        if self.has_samples {
            let mut length = Vec::with_capacity(10);
            varint(&mut length, self.family.len() as u64);
            self.output.piece(&length);
            self.output.piece(&self.family);
        }
        self.family.clear();
        self.has_samples = false;
    }

    fn begin_metric(&mut self, labels: &[Label<'_>]) {
        self.metric.clear();
        for (name, value) in labels.iter().filter(|(_, value)| !value.is_empty()) {
            self.inner.clear();
            bytes(&mut self.inner, 1, name.as_bytes());
            bytes(&mut self.inner, 2, value.as_bytes());
            bytes(&mut self.metric, field::metric::LABEL, &self.inner);
        }
    }

    fn end_metric(&mut self) {
        bytes(&mut self.family, field::family::METRIC, &self.metric);
        self.has_samples = true;
    }
}

impl Sink for Protobuf<'_> {
    fn family(&mut self, family: &Family<'_>) {
        self.hand_over();
        self.kind = family.kind;
        // Prometheus takes a counter's name as it is in this form.
        let name = match family.kind {
            Kind::Counter => format!("{}_total", family.name),
            Kind::Gauge | Kind::Histogram => family.name.to_owned(),
        };
        bytes(&mut self.family, field::family::NAME, name.as_bytes());
        bytes(&mut self.family, field::family::HELP, family.help.as_bytes());
        let kind = match family.kind {
            Kind::Counter => 0,
            Kind::Gauge => 1,
            Kind::Histogram => 4,
        };
        number(&mut self.family, field::family::TYPE, kind);
        if let Some(unit) = family.unit {
            bytes(&mut self.family, field::family::UNIT, unit.as_bytes());
        }
    }

    #[allow(clippy::cast_precision_loss)]
    fn number(&mut self, labels: &[Label<'_>], value: u64) {
        self.float(labels, value as f64);
    }

    fn float(&mut self, labels: &[Label<'_>], value: f64) {
        self.begin_metric(labels);
        self.inner.clear();
        double(&mut self.inner, 1, value);
        let field = if self.kind == Kind::Counter { field::metric::COUNTER } else { field::metric::GAUGE };
        bytes(&mut self.metric, field, &self.inner);
        self.end_metric();
    }

    fn histogram(&mut self, labels: &[Label<'_>], durations: &Histogram) {
        self.histogram_with(labels, durations, &[]);
    }

    fn histogram_with(&mut self, labels: &[Label<'_>], durations: &Histogram, exemplars: &[Exemplar]) {
        self.begin_metric(labels);
        let Self { inner, deltas, span, metric, .. } = self;
        inner.clear();
        number(inner, field::histogram::SAMPLE_COUNT, durations.count());
        double(inner, field::histogram::SAMPLE_SUM, buckets::sum_seconds(durations));
        if self.classic {
            let mut cumulative = 0_u64;
            let mut above = f64::NEG_INFINITY;
            for (bound, count) in buckets::classic(durations) {
                cumulative = cumulative.saturating_add(count);
                span.clear();
                number(span, field::bucket::CUMULATIVE_COUNT, cumulative);
                double(span, field::bucket::UPPER_BOUND, bound);
                // Older versions of Prometheus (2.42) take those of native histograms from here.
                let mut of_bucket = exemplars.iter();
                if let Some(exemplar) = of_bucket.find(|exemplar| exemplar.is_between(above, bound)) {
                    bytes(span, field::bucket::EXEMPLAR, &encoded(exemplar));
                }
                above = bound;
                bytes(inner, field::histogram::BUCKET, span);
            }
        }
        number(inner, field::histogram::SCHEMA, zigzag(SCHEMA.into()));
        double(
            inner,
            field::histogram::ZERO_THRESHOLD,
            porthole_histogram::bucket_upper_bound_seconds(ZERO_BUCKET),
        );
        let all = durations.buckets();
        let (zero, rest) = match all.split_first() {
            Some((&(ZERO_BUCKET, count), rest)) => (count, rest),
            _ => (0, all),
        };
        number(inner, field::histogram::ZERO_COUNT, zero);
        deltas.clear();
        // Spans of buckets without a gap: distance to the one before, length.
        let mut next = 0_i32;
        let mut before = 0_i64;
        let mut at = 0;
        while let Some(&(first, _)) = rest.get(at) {
            let run = rest[at..].iter().zip(first..).take_while(|((index, _), expected)| index == expected);
            let length = run.count();
            span.clear();
            number(span, 1, zigzag((first - next).into()));
            number(span, 2, length as u64);
            bytes(inner, field::histogram::POSITIVE_SPAN, span);
            for &(_, count) in &rest[at..at + length] {
                let count = i64::try_from(count).unwrap_or(i64::MAX);
                varint(deltas, zigzag(count.wrapping_sub(before)));
                before = count;
            }
            next = first.saturating_add(i32::try_from(length).unwrap_or(i32::MAX));
            at += length;
        }
        if rest.is_empty() {
            // A span of no length marks a native histogram without buckets.
            bytes(inner, field::histogram::POSITIVE_SPAN, &[1 << 3, 0, 2 << 3, 0]);
        } else {
            bytes(inner, field::histogram::POSITIVE_DELTA, deltas);
        }
        for exemplar in exemplars {
            bytes(inner, field::histogram::EXEMPLARS, &encoded(exemplar));
        }
        bytes(metric, field::metric::HISTOGRAM, inner);
        self.end_metric();
    }
}

/// An exemplar, as a message.
fn encoded(exemplar: &Exemplar) -> Vec<u8> {
    let mut message = Vec::new();
    let ids = [("trace_id", exemplar.trace.to_string()), ("span_id", exemplar.span.to_string())];
    for (name, id) in ids {
        let mut label = Vec::new();
        bytes(&mut label, 1, name.as_bytes());
        bytes(&mut label, 2, id.as_bytes());
        bytes(&mut message, field::exemplar::LABEL, &label);
    }
    double(&mut message, field::exemplar::VALUE, exemplar.seconds());
    let mut timestamp = Vec::new();
    number(&mut timestamp, 1, exemplar.unix_ms / 1_000);
    number(&mut timestamp, 2, exemplar.unix_ms % 1_000 * 1_000_000);
    bytes(&mut message, field::exemplar::TIMESTAMP, &timestamp);
    message
}

fn varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(u8::try_from(value & 0x7f).unwrap_or(0) | 0x80);
        value >>= 7;
    }
    out.push(u8::try_from(value).unwrap_or(0));
}

#[allow(clippy::cast_sign_loss)]
fn zigzag(value: i64) -> u64 {
    ((value << 1) ^ (value >> 63)) as u64
}

fn number(out: &mut Vec<u8>, field: u32, value: u64) {
    varint(out, u64::from(field) << 3);
    varint(out, value);
}

fn double(out: &mut Vec<u8>, field: u32, value: f64) {
    varint(out, u64::from(field) << 3 | 1);
    out.extend_from_slice(&value.to_le_bytes());
}

fn bytes(out: &mut Vec<u8>, field: u32, content: &[u8]) {
    varint(out, u64::from(field) << 3 | 2);
    varint(out, content.len() as u64);
    out.extend_from_slice(content);
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeMap, sync::Arc};

    use super::*;
    use crate::{
        accumulate::series::{Labels, SeriesKey},
        identity::Identity,
        ids::{SpanId, TraceId},
        protocol::{Protocol, Side},
    };

    /// Fields of a message: numbers of varints and fixed ones, and contents of the others, in their order.
    fn fields(mut message: &[u8]) -> Vec<(u32, u64, Vec<u8>)> {
        let mut fields = Vec::new();
        while !message.is_empty() {
            let tag = read(&mut message);
            let field = u32::try_from(tag >> 3).expect("small");
            match tag & 7 {
                0 => fields.push((field, read(&mut message), Vec::new())),
                1 => {
                    let (value, rest) = message.split_first_chunk::<8>().expect("eight bytes");
                    fields.push((field, u64::from_le_bytes(*value), Vec::new()));
                    message = rest;
                }
                2 => {
                    let length = usize::try_from(read(&mut message)).expect("small");
                    fields.push((field, 0, message[..length].to_vec()));
                    message = &message[length..];
                }
                kind => panic!("wire type {kind}"),
            }
        }
        fields
    }

    fn read(bytes: &mut &[u8]) -> u64 {
        let mut value = 0;
        for shift in (0..).step_by(7) {
            let (&byte, rest) = bytes.split_first().expect("a byte");
            *bytes = rest;
            value |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                break;
            }
        }
        value
    }

    #[allow(clippy::cast_possible_wrap)]
    fn unzigzag(value: u64) -> i64 {
        (value >> 1) as i64 ^ -((value & 1) as i64)
    }

    /// The buckets of a native histogram as a reader reconstructs them, the zero bucket at the lowest index.
    fn buckets_of(histogram: &[u8]) -> BTreeMap<i32, u64> {
        let fields = fields(histogram);
        let mut buckets = BTreeMap::new();
        let mut index = 0_i32;
        let mut indexes = Vec::new();
        for (_, _, span) in fields.iter().filter(|(field, ..)| *field == field::histogram::POSITIVE_SPAN) {
            let parts = super::tests::fields(span);
            index += i32::try_from(unzigzag(parts[0].1)).expect("small");
            for _ in 0..parts[1].1 {
                indexes.push(index);
                index += 1;
            }
        }
        let deltas = fields.iter().find(|(field, ..)| *field == field::histogram::POSITIVE_DELTA);
        let mut rest = deltas.map_or(&[][..], |(_, _, deltas)| deltas);
        let mut count = 0_i64;
        for index in indexes {
            count += unzigzag(read(&mut rest));
            buckets.insert(index, u64::try_from(count).expect("not negative"));
        }
        assert!(rest.is_empty(), "as many deltas as buckets");
        let zero =
            fields.iter().find(|(field, ..)| *field == field::histogram::ZERO_COUNT).expect("zero count");
        if zero.1 > 0 {
            buckets.insert(ZERO_BUCKET, zero.1);
        }
        buckets
    }

    #[test]
    fn exemplars_are_of_the_native_histogram_and_of_the_classic_bucket_that_they_are_in() {
        let exemplar = |ms: u64| Exemplar {
            identity: Arc::new(Identity::in_default("acme", "shop", "shop-1")),
            key: Arc::new(SeriesKey::new(Protocol::Http1, Side::Server, Labels::default()).expect("short")),
            trace: TraceId([7; 16]),
            span: SpanId([8; 8]),
            duration_ns: ms * 1_000_000,
            unix_ms: 1_700_000_000_250,
        };
        let mut durations = Histogram::default();
        durations.record(700_000_000);
        for classic in [false, true] {
            let mut written = Vec::new();
            let mut protobuf = Protobuf::new(&mut written, classic);
            protobuf.family(&Family { name: "h_seconds", help: "H", unit: None, kind: Kind::Histogram });
            protobuf.histogram_with(&[], &durations, &[exemplar(700), exemplar(40_000)]);
            protobuf.finish();
            let mut rest = &written[..];
            read(&mut rest);
            let inner = |message: &[u8], field: u32| {
                let of_field = fields(message).into_iter().filter(move |(of, ..)| *of == field);
                of_field.map(|(_, _, content)| content).collect::<Vec<_>>()
            };
            let metric = &inner(rest, field::family::METRIC)[0];
            let histogram = &inner(metric, field::metric::HISTOGRAM)[0];
            let native = inner(histogram, field::histogram::EXEMPLARS);
            assert_eq!(native.len(), 2);
            let ids: Vec<_> = inner(&native[0], field::exemplar::LABEL)
                .iter()
                .map(|label| (inner(label, 1)[0].clone(), inner(label, 2)[0].clone()))
                .collect();
            let pair = |name: &str, id: String| (name.as_bytes().to_vec(), id.into_bytes());
            assert_eq!(ids, [pair("trace_id", "07".repeat(16)), pair("span_id", "08".repeat(8))]);
            let all = fields(&native[0]);
            let value = all.iter().find(|(field, ..)| *field == field::exemplar::VALUE).expect("a value").1;
            assert_eq!(value, 0.7_f64.to_bits());
            let time = fields(&inner(&native[0], field::exemplar::TIMESTAMP)[0]);
            assert_eq!((time[0].1, time[1].1), (1_700_000_000, 250_000_000));
            let classic_buckets = inner(histogram, field::histogram::BUCKET);
            let of_buckets = classic_buckets.iter().filter_map(|bucket| {
                let bound = fields(bucket).iter().find(|(of, ..)| *of == field::bucket::UPPER_BOUND)?.1;
                let exemplars = inner(bucket, field::bucket::EXEMPLAR).len();
                (exemplars > 0).then_some((f64::from_bits(bound).to_string(), exemplars))
            });
            let expected: &[_] = if classic { &[("1".to_owned(), 1), ("inf".to_owned(), 1)] } else { &[] };
            assert_eq!(of_buckets.collect::<Vec<_>>(), expected);
        }
    }

    #[test]
    fn native_histograms_hold_the_buckets_that_were_counted() {
        let mut random = fastrand::Rng::with_seed(3);
        for round in 0..200 {
            let mut durations = Histogram::default();
            for _ in 0..random.usize(0..60) {
                let magnitude = random.u32(1..36);
                durations.record(if round % 5 == 0 { 0 } else { random.u64(0..1 << magnitude) });
            }
            let mut written = Vec::new();
            let classic = round % 2 == 0;
            let mut protobuf = Protobuf::new(&mut written, classic);
            protobuf.family(&Family { name: "h_seconds", help: "H", unit: None, kind: Kind::Histogram });
            protobuf.histogram(&[("a", "b"), ("left_out", "")], &durations);
            protobuf.finish();
            let mut rest = &written[..];
            let length = usize::try_from(read(&mut rest)).expect("small");
            assert_eq!(length, rest.len(), "one message, behind its length");
            let family = fields(rest);
            assert_eq!(family[0].2, b"h_seconds");
            let metric = fields(&family.iter().find(|(field, ..)| *field == 4).expect("metric").2);
            assert_eq!(metric.iter().filter(|(field, ..)| *field == field::metric::LABEL).count(), 1);
            let histogram =
                &metric.iter().find(|(field, ..)| *field == field::metric::HISTOGRAM).expect("it").2;
            let expected: BTreeMap<i32, u64> = durations.buckets().iter().copied().collect();
            assert_eq!(buckets_of(histogram), expected);
            let of_classic: Vec<_> = fields(histogram)
                .into_iter()
                .filter(|(field, ..)| *field == field::histogram::BUCKET)
                .map(|(_, _, bucket)| fields(&bucket)[0].1)
                .collect();
            let last = classic.then_some(durations.count());
            assert_eq!(of_classic.len(), if classic { buckets::CLASSIC } else { 0 });
            assert_eq!(of_classic.last().copied(), last, "cumulative");
            let of = |number: u32| fields(histogram).into_iter().find(|(field, ..)| *field == number);
            assert_eq!(of(field::histogram::SAMPLE_COUNT).expect("count").1, durations.count());
            assert_eq!(unzigzag(of(field::histogram::SCHEMA).expect("schema").1), 3);
            assert!(
                of(field::histogram::POSITIVE_SPAN).is_some(),
                "without a span it would be no native histogram"
            );
        }
    }
}
