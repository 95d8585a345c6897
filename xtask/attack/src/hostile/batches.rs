//! What hostile agents send: bodies of batches, made by hand where the contract's own encoder would refuse.

use porthole_agent_api::{
    agent,
    limits::{BATCH_DEPENDENCIES_MAX, BATCH_RESOURCES_MAX},
    testing::http_series,
};
use porthole_histogram::Histogram;

use crate::{
    attack::{Attack, Kind},
    honest, wire,
};

/// Epoch of hostile agents that keep one.
pub const EPOCH: u64 = 666;

/// Text that ends a label, a line, a log entry or the state of a terminal.
pub const ESCAPES: &str = "\u{1b}[2J\u{1b}]0;owned\u{7}\r\n# EOF\nhttp_server_request_duration_seconds_count{tenant=\"honest-00\"} 1e9\n\\\"},\0\u{202e}\u{85}";

/// Text without control characters that ends a label where quotes are not escaped.
const QUOTES: &str = "x\",tenant=\"honest-00\",service_name=\"honest-00\"} 1000000 #\\";

/// Largest body of a batch that the exporter takes.
const BODY_MAX: usize = 250 << 10;

/// Series of a batch of ordinary series.
const SERIES: u32 = 500;

/// Most series ids that the exporter keeps for a sandbox.
const IDS: u32 = 4_096;

/// Batches after which an agent that only has to fill its place is content.
const FULL_STATES: u64 = 9;

/// Makes one batch after another.
pub struct Batches {
    attack: Attack,
    container: String,
    random: fastrand::Rng,
    step: u64,
    repeated: Option<Vec<u8>>,
}

impl Batches {
    /// For the agent of this sandbox.
    pub fn new(attack: Attack, container: String, random: fastrand::Rng) -> Self {
        Self { attack, container, random, step: 0, repeated: None }
    }

    /// The next body; `None` when the attacker has sent all that it wants to.
    pub fn next(&mut self) -> Option<Vec<u8>> {
        self.step += 1;
        if let Some(repeated) = &self.repeated {
            return Some(repeated.clone());
        }
        let body = match self.attack {
            Attack::UnknownFields => self.unknown_fields(),
            Attack::EmptySeries => [0x1a, 0].repeat(if self.random.bool() { 512 } else { 100_000 }),
            Attack::InvalidUtf8 => self.invalid_utf8(),
            Attack::ManySeries | Attack::GiantLabels if self.step > FULL_STATES => return None,
            _ if self.is_content() => return None,
            _ => {
                let batch = self.batch();
                wire::encoded(&batch)
            }
        };
        if matches!(self.attack, Attack::Replays) {
            self.repeated = Some(body.clone());
        }
        Some(body)
    }

    /// Agents beside hostile HTTP clients report something, and rest.
    fn is_content(&self) -> bool {
        self.attack.kind() == Kind::Web && self.step > 1
    }

    /// A whole life of an agent with new labels only.
    pub fn life(&mut self, epoch: u64, series: u32) -> Vec<u8> {
        let series = (0..series).map(|id| {
            let route = format!("/{:x}/{}", self.random.u64(..), "c".repeat(180));
            self.series(id, &route, 1)
        });
        let series = series.collect();
        wire::encoded(&agent::Batch { epoch, sequence: 1, series, ..Default::default() })
    }

    fn series(&self, id: u32, route: &str, requests: u64) -> agent::Series {
        let mut durations = Histogram::default();
        for number in 0..requests {
            durations.record(1_000 << (number % 34));
        }
        http_series(id, &self.container, ("GET", route, "200"), &durations)
    }

    /// A batch of the contract, spoiled by the attack.
    fn batch(&mut self) -> agent::Batch {
        let mut batch = agent::Batch { epoch: EPOCH, sequence: self.step, ..Default::default() };
        let first = u32::try_from(self.step - 1).unwrap_or_default().wrapping_mul(SERIES);
        let series = |this: &Self, count: u32, requests: u64| -> Vec<_> {
            (0..count).map(|id| this.series(id, &format!("/{id}"), requests)).collect()
        };
        match self.attack {
            Attack::GiantTexts => batch.series = self.giant_texts(),
            Attack::GiantLabels => {
                // As many as fit into a frame.
                batch.series = (0..220).map(|id| self.giant_label(first.wrapping_add(id) % IDS)).collect();
            }
            Attack::ManySeries => {
                let ids = (0..SERIES).map(|id| first.wrapping_add(id)).filter(|&id| id < IDS);
                batch.series = ids.map(|id| self.series(id, &format!("/{id}"), 34)).collect();
            }
            Attack::HugeCounts => batch.series = self.huge_counts(),
            Attack::GoingBackwards => {
                batch.series = series(self, 200, 1 + (1_000_u64.saturating_sub(self.step)) % 40);
            }
            Attack::ImpossibleNumbers => batch.series = self.impossible_numbers(),
            Attack::BucketFlood => {
                let mut one = self.series(0, "/", 1);
                if let Some(durations) = one.duration.as_mut() {
                    durations.index_delta = vec![1; BODY_MAX / 2 - 200];
                    durations.bucket = vec![1; BODY_MAX / 2 - 200];
                }
                batch.series = vec![one];
            }
            Attack::EpochChanges => {
                batch.epoch = self.random.u64(..);
                batch.series = series(self, 100, self.step % 30);
            }
            Attack::SequenceNumbers => {
                batch.sequence = match self.step % 4 {
                    0 => u64::MAX,
                    1 => 0,
                    2 => self.random.u64(..),
                    _ => u64::MAX - self.step,
                };
                batch.series = series(self, 20, 1);
            }
            Attack::ManyContainers => batch.series = self.many_containers(),
            Attack::ForeignSpans => {
                batch.series = series(self, 5, 1);
                batch.spans = (0..256).map(|_| self.span()).collect();
            }
            Attack::ControlTexts => batch.series = self.control_texts(),
            Attack::Clocks => {
                batch.series = series(self, 5, 1);
                for (at, series) in batch.series.iter_mut().enumerate() {
                    series.start_unix_ns = [0, u64::MAX, i64::MAX.cast_unsigned(), 1, u64::MAX - 1][at % 5];
                }
                batch.spans = (0..256).map(|_| self.span()).collect();
                for (at, span) in batch.spans.iter_mut().enumerate() {
                    span.series_id = 1;
                    span.start_unix_ns = [0, u64::MAX, i64::MAX.cast_unsigned(), 1][at % 4];
                    span.duration_ns = [u64::MAX, 0][at % 2];
                }
            }
            Attack::Counters => {
                batch.series = series(self, 5, 1);
                batch.counters = Some(self.counters()).into();
            }
            Attack::Dependencies => {
                batch.series = series(self, 5, 1);
                batch.dependencies = (0..self.random.usize(1..=BATCH_DEPENDENCIES_MAX + 1))
                    .map(|_| self.dependency())
                    .collect();
            }
            Attack::Resources => {
                batch.series = series(self, 5, 1);
                batch.resources = self.resources();
            }
            Attack::Replays => batch.series = series(self, SERIES, 5),
            // A flood, and what agents beside hostile clients report.
            _ => {
                let requests = self.step;
                let count = if self.attack.kind() == Kind::Web { SERIES / 5 } else { SERIES };
                batch.series = (0..count)
                    .map(|id| {
                        let mut one = self.series(id, &format!("/{id}"), 1);
                        if let Some(durations) = one.duration.as_mut() {
                            durations.count = requests;
                            durations.bucket = vec![requests];
                        }
                        one
                    })
                    .collect();
            }
        }
        batch
    }

    fn unknown_fields(&mut self) -> Vec<u8> {
        // Field 15, a number, which no message of the contract has.
        let field = [0x78, 1];
        match self.random.u8(0..3) {
            0 => field.repeat(BODY_MAX / 2),
            // As many as are let through, around an ordinary series.
            1 => {
                let mut body = field.repeat(510);
                let batch =
                    agent::Batch { epoch: EPOCH, series: vec![self.series(1, "/", 1)], ..Default::default() };
                body.extend(wire::encoded(&batch));
                body
            }
            // Within each of many series: field 3 of a batch, 120 bytes.
            _ => {
                let mut series = vec![0x1a, 120];
                series.extend(field.repeat(60));
                series.repeat(512)
            }
        }
    }

    fn invalid_utf8(&mut self) -> Vec<u8> {
        let one = self.series(1, "/MARK", 1);
        let mut body = wire::encoded(&agent::Batch { epoch: EPOCH, series: vec![one], ..Default::default() });
        if let Some(at) = body.windows(4).position(|window| window == b"MARK") {
            body[at..at + 4].copy_from_slice(&[0xff, 0xfe, 0xc0, 0x80]);
        }
        body
    }

    fn giant_texts(&mut self) -> Vec<agent::Series> {
        let mut one = self.series(1, &"r".repeat(200 << 10), 1);
        if self.random.bool() {
            one = self.series(2, "/", 1);
            if let Some(key) = one.key.as_mut() {
                let text = "t".repeat(40 << 10);
                (key.container_id, key.operation, key.status, key.peer) =
                    (text.clone(), text.clone(), text.clone(), text);
            }
        }
        vec![one]
    }

    fn giant_label(&self, id: u32) -> agent::Series {
        let long =
            |length: usize, number: u32| format!("{number:x}{}", "\"\\".repeat(length))[..length].to_owned();
        let mut series = self.series(id, &long(256, id), 34);
        if let Some(key) = series.key.as_mut() {
            key.side = agent::Side::SIDE_CLIENT.into();
            key.protocol = agent::Protocol::PROTOCOL_REDIS.into();
            (key.operation, key.status, key.peer) = (long(64, id), long(64, id), long(256, id));
        }
        series
    }

    fn huge_counts(&self) -> Vec<agent::Series> {
        let counts = [u64::MAX, u64::MAX - 1, 1 << 63, 1 << 53, (1 << 44) + 1, 1 << 44, (1 << 44) - 1];
        let huge = counts.iter().zip(0..).map(|(&count, id)| {
            let mut one = self.series(id, &format!("/{id}"), 1);
            if let Some(durations) = one.duration.as_mut() {
                (durations.count, durations.bucket, durations.sum_ns) = (count, vec![count], u64::MAX);
            }
            (one.request_bytes, one.response_bytes) = (count, u64::MAX);
            one
        });
        huge.collect()
    }

    fn impossible_numbers(&mut self) -> Vec<agent::Series> {
        let spoiled = (0..64).map(|id| {
            let mut one = self.series(id, &format!("/{id}"), 3);
            if let Some(durations) = one.duration.as_mut() {
                match self.random.u8(0..6) {
                    0 => durations.count = self.random.u64(..),
                    1 => durations.index_delta = vec![i32::MAX; 3],
                    2 => durations.index_delta = vec![i32::MIN, -1, -1],
                    3 => durations.bucket.push(1),
                    4 => durations.bucket = vec![u64::MAX; 3],
                    _ => durations.sum_ns = u64::MAX,
                }
            }
            one
        });
        spoiled.collect()
    }

    fn many_containers(&mut self) -> Vec<agent::Series> {
        let series = (0..SERIES).map(|number| {
            let id = u32::try_from(self.step).unwrap_or_default().wrapping_mul(SERIES).wrapping_add(number);
            let mut one = self.series(id, "/", 1);
            if let Some(key) = one.key.as_mut() {
                key.container_id = match self.random.u8(0..4) {
                    0 => honest::name(self.random.usize(0..20)),
                    1 => "../../etc/passwd".to_owned(),
                    _ => format!("{:032x}", self.random.u128(..)),
                };
            }
            one
        });
        series.collect()
    }

    fn control_texts(&mut self) -> Vec<agent::Series> {
        let text = if self.random.bool() { ESCAPES } else { QUOTES };
        let id = self.random.u32(0..50);
        let mut one = self.series(id, text, 1);
        if let Some(key) = one.key.as_mut() {
            match self.random.u8(0..4) {
                0 => key.operation = text.chars().take(40).collect(),
                1 => key.status = text.chars().take(40).collect(),
                2 => {
                    key.side = agent::Side::SIDE_CLIENT.into();
                    text.clone_into(&mut key.peer);
                }
                _ => {}
            }
        }
        vec![one]
    }

    fn span(&mut self) -> agent::Span {
        let address = format!("10.0.0.{}:443", self.random.u8(..));
        agent::Span {
            series_id: self.random.u32(0..8),
            start_unix_ns: self.random.u64(..),
            duration_ns: self.random.u64(..),
            request_bytes: self.random.u64(..),
            response_bytes: self.random.u64(..),
            reason: agent::SpanReason::SPAN_REASON_ERROR.into(),
            process_id: self.random.u32(..),
            thread_id: self.random.u32(..),
            local: if self.random.bool() { honest::name(0) } else { address.clone() },
            remote: address,
            ..Default::default()
        }
    }

    fn dependency(&mut self) -> agent::Dependency {
        let random = &mut self.random;
        let peer = match random.u8(0..8) {
            0 => ESCAPES.to_owned(),
            1 => QUOTES.to_owned(),
            2 => "p".repeat(1 << 10),
            _ => format!("10.{}.{}.{}:80", random.u8(..), random.u8(..), random.u8(..)),
        };
        let container_id = match random.u8(0..6) {
            0 => honest::name(random.usize(0..20)),
            1 => String::new(),
            _ => self.container.clone(),
        };
        let mut counts = |most: usize| {
            let largest = if random.bool() { u64::MAX } else { 1 << 30 };
            (0..random.usize(0..most)).map(|_| random.u64(..largest)).collect()
        };
        let (failed, broken) = (counts(10), counts(200));
        agent::Dependency {
            container_id,
            peer,
            made: self.series(0, "/", 34).duration,
            failed,
            broken,
            retransmitted_segments: self.random.u64(..),
            round_trip_us: self.random.u32(..),
            ..Default::default()
        }
    }

    fn resources(&mut self) -> Vec<agent::Resources> {
        // One more than a batch may have every now and then.
        let containers = self.random.usize(1..=BATCH_RESOURCES_MAX + 1);
        let of = |this: &mut Self| {
            let container_id = match this.random.u8(0..6) {
                0 => honest::name(this.random.usize(0..20)),
                1 => String::new(),
                2 => ESCAPES.to_owned(),
                3 => "c".repeat(8 << 10),
                _ => this.container.clone(),
            };
            let measured = this.random.u64(..);
            let count = match this.random.u8(0..4) {
                0 => this.random.usize(0..200),
                _ => usize::try_from(measured.count_ones()).unwrap_or_default(),
            };
            let huge = this.random.bool();
            let values =
                (0..count).map(|_| if huge { this.random.u64(..) } else { this.random.u64(..1 << 60) });
            agent::Resources { container_id, measured, values: values.collect(), ..Default::default() }
        };
        let mut size = 0;
        let all = (0..containers).map(|_| of(self));
        all.take_while(|one| {
            size += one.container_id.len() + 10 * one.values.len() + 32;
            size < BODY_MAX - 10_000
        })
        .collect()
    }

    fn counters(&mut self) -> agent::Counters {
        let random = &mut self.random;
        let mut count = || if random.bool() { u64::MAX } else { random.u64(..) };
        agent::Counters {
            events_captured: count(),
            events_lost: count(),
            messages_seen: count(),
            exchanges: count(),
            unparsed: count(),
            overflowed: count(),
            connections_seen: count(),
            connections_ignored: count(),
            bytes_copied: count(),
            spans_dropped: count(),
            ..Default::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn first(attack: Attack, seed: u64) -> Vec<Option<Vec<u8>>> {
        let mut batches = Batches::new(attack, "box".to_owned(), fastrand::Rng::with_seed(seed));
        (0..3).map(|_| batches.next()).collect()
    }

    #[test]
    fn the_seed_decides_what_is_sent() {
        let (mut differ, mut all) = (0, 0);
        for &attack in Attack::ALL.iter().filter(|attack| attack.kind() == Kind::Batches) {
            let sent = first(attack, 1);
            assert!(sent[0].as_ref().is_some_and(|body| !body.is_empty()), "{attack:?}");
            assert_eq!(sent, first(attack, 1), "{attack:?}");
            (differ, all) = (differ + usize::from(sent != first(attack, 2)), all + 1);
        }
        assert!(differ >= 6 && differ < all, "{differ} of {all} have something random");
    }

    #[test]
    fn what_is_to_be_decoded_fits_into_a_frame() {
        for attack in [Attack::GiantLabels, Attack::ManySeries, Attack::BucketFlood, Attack::Flood] {
            let body = first(attack, 1).remove(0).expect("a batch");
            assert!((20 << 10..=256 << 10).contains(&body.len()), "{attack:?}: {} bytes", body.len());
        }
    }
}
