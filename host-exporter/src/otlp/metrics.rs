//! A tenant's exposition in OpenTelemetry's form: sums and gauges, and exponential histograms, which the agents' histograms are already.
//!
//! Labels of whose a value is are attributes of the resource. What is counted by application or tenant has the exporter's host as
//! its instance: other hosts' exporters count the same.

use std::collections::HashMap;

use opentelemetry_proto::tonic::{
    collector::metrics::v1::ExportMetricsServiceRequest,
    common::v1::KeyValue,
    metrics::v1::{
        AggregationTemporality, Exemplar as OtlpExemplar, ExponentialHistogram,
        ExponentialHistogramDataPoint, Gauge, Metric, NumberDataPoint, ResourceMetrics, ScopeMetrics, Sum,
        exemplar, exponential_histogram_data_point::Buckets, metric::Data, number_data_point::Value,
    },
};
use porthole_histogram::{Histogram, INDEX_MIN, bucket_upper_bound_seconds};
use prost::Message as _;

use super::{
    attributes::{self, INSTANCE},
    names,
    queue::Queued,
    starts::OfTenant,
};
use crate::{
    buckets,
    exposition::sink::{Family, Kind, Label, Sink},
    spans::Exemplar,
};

/// Bytes after which a request is closed: receivers take 4 MiB.
const REQUEST_BYTES: usize = 512 << 10;

/// Scale of the histograms: bounds are powers of 2^(1/8).
const SCALE: i32 = 3;

/// Name of the service where a value is of no application.
const SERVICE: &str = "porthole";

/// Writes the points of one round of a tenant to requests.
pub(super) struct Metrics<'a> {
    tenant: &'a str,
    host: &'a str,
    now_unix_ns: u64,
    starts: &'a mut OfTenant,
    send: &'a mut dyn FnMut(Queued),
    family: Described,
    resources: Vec<ResourceMetrics>,
    /// The place of each resource in the request, by its labels.
    places: HashMap<Vec<(&'static str, String)>, usize>,
    bytes: usize,
    points: u64,
}

/// The family that is being written.
struct Described {
    /// Its name in scrapes.
    family: String,
    name: String,
    unit: &'static str,
    help: String,
    kind: Kind,
}

impl<'a> Metrics<'a> {
    /// Nothing is written yet; `send` gets each request.
    pub fn new(
        [tenant, host]: [&'a str; 2],
        now_unix_ns: u64,
        starts: &'a mut OfTenant,
        send: &'a mut dyn FnMut(Queued),
    ) -> Self {
        let family = Described {
            family: String::new(),
            name: String::new(),
            unit: "",
            help: String::new(),
            kind: Kind::Gauge,
        };
        let (resources, places) = (Vec::new(), HashMap::new());
        Self { tenant, host, now_unix_ns, starts, send, family, resources, places, bytes: 0, points: 0 }
    }

    /// Sends the rest.
    pub fn finish(mut self) {
        self.flush();
    }

    fn flush(&mut self) {
        self.places.clear();
        self.bytes = 0;
        let request = ExportMetricsServiceRequest { resource_metrics: std::mem::take(&mut self.resources) };
        let items = std::mem::take(&mut self.points);
        if items > 0 {
            (self.send)(Queued { request: request.encode_to_vec().into(), items });
        }
    }

    fn number_point(&mut self, labels: &[Label<'_>], value: Value, comparable: u64) {
        let start_time_unix_nano = match self.family.kind {
            Kind::Gauge => 0,
            Kind::Counter | Kind::Histogram => self.start(labels, comparable),
        };
        let point = NumberDataPoint {
            attributes: of_point(labels),
            start_time_unix_nano,
            time_unix_nano: self.now_unix_ns,
            value: Some(value),
            ..NumberDataPoint::default()
        };
        let bytes = point.encoded_len();
        match self.data(labels) {
            Data::Sum(sum) => sum.data_points.push(point),
            Data::Gauge(gauge) => gauge.data_points.push(point),
            _ => return,
        }
        self.count(bytes);
    }

    /// When the value of a stream began.
    fn start(&mut self, labels: &[Label<'_>], value: u64) -> u64 {
        let texts = [self.family.family.as_str()].into_iter();
        let texts = texts.chain(labels.iter().flat_map(|(name, value)| [*name, *value]));
        self.starts.of(hash(texts), value, self.now_unix_ns)
    }

    /// The points of the family with the resource of these labels.
    fn data(&mut self, labels: &[Label<'_>]) -> &mut Data {
        let of_resource = labels
            .iter()
            .filter(|(name, value)| attributes::of_resource(name).is_some() && !value.is_empty());
        let key: Vec<_> = of_resource.map(|(name, value)| (*name, (*value).to_owned())).collect();
        let at = self.places.get(&key).copied().unwrap_or_else(|| {
            let mut resource = attributes::resource(labels.iter().copied());
            let lacks = |name: &str| resource.attributes.iter().all(|attribute| attribute.key != name);
            let always = [("service.name", SERVICE), (INSTANCE, self.host), ("porthole.tenant", self.tenant)];
            let lacking: Vec<_> = always.into_iter().filter(|(name, _)| lacks(name)).collect();
            resource.attributes.extend(attributes::texts(lacking));
            self.bytes += resource.encoded_len();
            let scope_metrics =
                vec![ScopeMetrics { scope: Some(attributes::scope()), ..ScopeMetrics::default() }];
            self.resources.push(ResourceMetrics {
                resource: Some(resource),
                scope_metrics,
                ..ResourceMetrics::default()
            });
            self.places.insert(key, self.resources.len() - 1);
            self.resources.len() - 1
        });
        let metrics = &mut self.resources[at].scope_metrics[0].metrics;
        if metrics.last().is_none_or(|metric| metric.name != self.family.name) {
            let metric = self.family.metric();
            self.bytes += metric.encoded_len();
            metrics.push(metric);
        }
        let last = metrics.len() - 1;
        metrics[last].data.get_or_insert_with(|| Data::Gauge(Gauge::default()))
    }

    fn count(&mut self, bytes: usize) {
        self.points += 1;
        self.bytes += bytes;
        if self.bytes >= REQUEST_BYTES {
            self.flush();
        }
    }
}

impl Described {
    fn metric(&self) -> Metric {
        let aggregation_temporality = AggregationTemporality::Cumulative.into();
        let data = match self.kind {
            Kind::Counter => {
                Data::Sum(Sum { data_points: Vec::new(), aggregation_temporality, is_monotonic: true })
            }
            Kind::Gauge => Data::Gauge(Gauge::default()),
            Kind::Histogram => Data::ExponentialHistogram(ExponentialHistogram {
                data_points: Vec::new(),
                aggregation_temporality,
            }),
        };
        Metric {
            name: self.name.clone(),
            description: self.help.clone(),
            unit: self.unit.to_owned(),
            data: Some(data),
            ..Metric::default()
        }
    }
}

impl Sink for Metrics<'_> {
    fn family(&mut self, family: &Family<'_>) {
        let (name, unit) = names::metric(family.name, family.unit);
        self.family = Described {
            family: family.name.to_owned(),
            name,
            unit,
            help: family.help.to_owned(),
            kind: family.kind,
        };
    }

    fn number(&mut self, labels: &[Label<'_>], value: u64) {
        let saturated = i64::try_from(value).unwrap_or(i64::MAX);
        self.number_point(labels, Value::AsInt(saturated), value);
    }

    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
    fn float(&mut self, labels: &[Label<'_>], value: f64) {
        // Of sums these are seconds: nanoseconds are compared.
        self.number_point(labels, Value::AsDouble(value), (value * 1e9) as u64);
    }

    fn histogram(&mut self, labels: &[Label<'_>], durations: &Histogram) {
        self.histogram_with(labels, durations, &[]);
    }

    fn histogram_with(&mut self, labels: &[Label<'_>], durations: &Histogram, exemplars: &[Exemplar]) {
        let all = durations.buckets();
        let (zero_count, rest) = match all.split_first() {
            // The lowest bucket holds everything down to zero.
            Some((&(INDEX_MIN, count), rest)) => (count, rest),
            _ => (0, all),
        };
        let point = ExponentialHistogramDataPoint {
            attributes: of_point(labels),
            start_time_unix_nano: self.start(labels, durations.count()),
            time_unix_nano: self.now_unix_ns,
            count: durations.count(),
            sum: Some(buckets::sum_seconds(durations)),
            scale: SCALE,
            zero_count,
            zero_threshold: bucket_upper_bound_seconds(INDEX_MIN),
            positive: dense(rest),
            exemplars: exemplars.iter().map(of_exemplar).collect(),
            ..ExponentialHistogramDataPoint::default()
        };
        let bytes = point.encoded_len();
        if let Data::ExponentialHistogram(histogram) = self.data(labels) {
            histogram.data_points.push(point);
            self.count(bytes);
        }
    }
}

/// The attributes of a point.
fn of_point(labels: &[Label<'_>]) -> Vec<KeyValue> {
    let own = labels.iter().filter(|(name, _)| attributes::of_resource(name).is_none());
    attributes::texts(own.map(|(name, value)| (names::attribute(name), *value)))
}

/// Buckets without gaps. OpenTelemetry's index is that of a bucket's lower bound, ours that of its upper one.
fn dense(buckets: &[(i32, u64)]) -> Option<Buckets> {
    let (first, last) = (buckets.first()?.0, buckets.last()?.0);
    let mut counts = vec![0; usize::try_from(last - first).ok()? + 1];
    for &(index, count) in buckets {
        if let Some(place) = usize::try_from(index - first).ok().and_then(|at| counts.get_mut(at)) {
            *place = count;
        }
    }
    Some(Buckets { offset: first - 1, bucket_counts: counts })
}

fn of_exemplar(exemplar: &Exemplar) -> OtlpExemplar {
    OtlpExemplar {
        filtered_attributes: Vec::new(),
        time_unix_nano: exemplar.unix_ms.saturating_mul(1_000_000),
        span_id: exemplar.span.0.to_vec(),
        trace_id: exemplar.trace.0.to_vec(),
        value: Some(exemplar::Value::AsDouble(exemplar.seconds())),
    }
}

/// FNV-1a over texts and their ends, which are the same in every run: a stream's place in the file of starts. Guests can make streams
/// of their tenant collide, and so give them each other's start.
fn hash<'a>(texts: impl Iterator<Item = &'a str>) -> u64 {
    let bytes = texts.flat_map(|text| text.bytes().chain([0xff]));
    bytes.fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn requests(write: impl FnOnce(&mut Metrics<'_>)) -> Vec<(ExportMetricsServiceRequest, u64)> {
        let mut requests = Vec::new();
        let mut send = |queued: Queued| {
            let request = ExportMetricsServiceRequest::decode(queued.request).expect("a request");
            requests.push((request, queued.items));
        };
        let mut starts = OfTenant::default();
        let mut metrics = Metrics::new(["acme", "node-1"], 1_000, &mut starts, &mut send);
        write(&mut metrics);
        metrics.finish();
        requests
    }

    fn attributes(of: &[KeyValue]) -> Vec<&str> {
        of.iter().map(|attribute| attribute.key.as_str()).collect()
    }

    #[test]
    fn indexes_are_those_of_lower_bounds_and_gaps_are_empty_buckets() {
        assert_eq!(dense(&[]), None);
        let buckets = dense(&[(-3, 5), (0, 1)]).expect("buckets");
        assert_eq!((buckets.offset, buckets.bucket_counts), (-4, vec![5, 0, 0, 1]));
        let mut durations = Histogram::default();
        durations.record(0);
        durations.record(1_000_000_000);
        let requests = requests(|metrics| {
            metrics.family(&Family {
                name: "h_seconds",
                help: "H",
                unit: Some("seconds"),
                kind: Kind::Histogram,
            });
            metrics.histogram(&[("tenant", "acme")], &durations);
        });
        let metric = &requests[0].0.resource_metrics[0].scope_metrics[0].metrics[0];
        assert_eq!((metric.name.as_str(), metric.unit.as_str()), ("h", "s"));
        let Some(Data::ExponentialHistogram(histogram)) = &metric.data else { panic!("{metric:?}") };
        let point = &histogram.data_points[0];
        // One second is the upper bound of its bucket.
        let positive = Buckets { offset: -1, bucket_counts: vec![1] };
        assert_eq!((point.zero_count, point.count, &point.positive), (1, 2, &Some(positive)));
    }

    #[test]
    fn values_are_of_their_sandbox_and_without_one_of_the_host() {
        let requests = requests(|metrics| {
            metrics.family(&Family { name: "a_b_c", help: "H", unit: None, kind: Kind::Counter });
            metrics.number(&[("tenant", "acme"), ("service_name", "shop"), ("side", "server")], 1);
            metrics.number(
                &[("tenant", "acme"), ("service_name", "shop"), ("sandbox_id", "s"), ("cpu_mode", "")],
                2,
            );
            metrics.family(&Family { name: "d", help: "H", unit: None, kind: Kind::Gauge });
            metrics.number(&[("tenant", "acme"), ("service_name", "shop"), ("side", "client")], 3);
        });
        let [(request, 3)] = &requests[..] else { panic!("{requests:?}") };
        let [of_application, of_sandbox] = &request.resource_metrics[..] else { panic!("{request:?}") };
        let of = |resource: &ResourceMetrics| {
            let resource = resource.resource.clone().expect("a resource");
            let instance = resource.attributes.iter().find(|attribute| attribute.key == INSTANCE);
            (attributes(&resource.attributes).len(), format!("{:?}", instance.expect("an instance")))
        };
        assert!(of(of_application).0 == 3 && of(of_application).1.contains("node-1"));
        assert!(of(of_sandbox).0 == 3 && of(of_sandbox).1.contains("\"s\""));
        let [sum, gauge] = &of_application.scope_metrics[0].metrics[..] else { panic!("{of_application:?}") };
        assert_eq!((sum.name.as_str(), gauge.name.as_str()), ("a.b_c", "d"));
        let Some(Data::Sum(sum)) = &sum.data else { panic!("{sum:?}") };
        assert!(sum.is_monotonic && attributes(&sum.data_points[0].attributes) == ["side"]);
    }

    #[test]
    fn requests_are_bounded_and_have_each_point_once() {
        let points = 20_000;
        let requests = requests(|metrics| {
            metrics.family(&Family { name: "a", help: "H", unit: None, kind: Kind::Counter });
            for at in 0..points {
                metrics.number(&[("tenant", "acme"), ("sandbox_id", &at.to_string()), ("side", "server")], 1);
            }
        });
        assert!(requests.len() > 2 && requests.iter().map(|(_, items)| items).sum::<u64>() == points);
        for (request, _) in requests {
            assert!(request.encoded_len() < 2 * REQUEST_BYTES, "{}", request.encoded_len());
        }
    }
}
