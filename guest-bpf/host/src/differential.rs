//! The same calls through the programs and the agent, and through `l7` alone: the exchanges must be the same.

use std::{collections::BTreeMap, fmt};

use porthole_l7::{
    Chunk, Connection, Direction, Exchange, Limits, ParserContext, ScopeId, Side, Status, Timestamp,
};

use crate::agent::monitor::{Mode, Monitor};

/// What one end sent, or got, by one call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Call {
    /// Seen from the observed end.
    pub direction: Direction,
    /// What moved.
    pub bytes: Vec<u8>,
    /// Where the call's buffers are cut.
    pub cuts: Vec<usize>,
}

impl Call {
    /// One of one buffer.
    pub fn new(direction: Direction, bytes: impl Into<Vec<u8>>) -> Self {
        Self { direction, bytes: bytes.into(), cuts: Vec::new() }
    }

    fn buffers(&self) -> Vec<&[u8]> {
        let (mut all, mut from) = (Vec::new(), 0);
        for &cut in &self.cuts {
            let cut = cut.clamp(from, self.bytes.len());
            all.push(&self.bytes[from..cut]);
            from = cut;
        }
        all.push(&self.bytes[from..]);
        all
    }
}

/// An exchange with its names.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Named(String);

impl Named {
    fn of(exchange: &Exchange, context: &ParserContext) -> Self {
        let trace = exchange.trace.map_or(String::new(), |trace| format!(" {trace:02x?}"));
        Self(format!(
            "{} {}..{} {}/{}{trace}",
            labels(exchange, context),
            exchange.start.0,
            exchange.end.0,
            exchange.request_bytes,
            exchange.response_bytes,
        ))
    }
}

/// What the exchanges of one series have in common.
fn labels(exchange: &Exchange, context: &ParserContext) -> String {
    let status = match exchange.status {
        Status::None => "-".to_owned(),
        Status::Code(code) => code.to_string(),
        Status::Word(word) => context.name(word).to_owned(),
    };
    format!(
        "{:?} {:?} {} {} {status} {:?}",
        exchange.protocol,
        exchange.side,
        context.name(exchange.operation),
        context.name(exchange.resource),
        exchange.error,
    )
}

/// Sums of the exchanges by what those of one series have in common: their number, durations, sizes of requests and of
/// responses.
pub type Sums = BTreeMap<String, [u64; 4]>;

fn sums(exchanges: &[Exchange], context: &ParserContext) -> Sums {
    let mut all = Sums::new();
    for exchange in exchanges {
        let duration = exchange.end.since(exchange.start);
        let sizes = [exchange.request_bytes, exchange.response_bytes];
        add(&mut all, labels(exchange, context), [1, duration, sizes[0], sizes[1]]);
    }
    all
}

fn add(all: &mut Sums, labels: String, added: [u64; 4]) {
    let sums = all.entry(labels).or_default();
    sums.iter_mut().zip(added).for_each(|(sum, added)| *sum += added);
}

impl fmt::Debug for Named {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Nanoseconds between two calls.
const STEP_NS: u64 = 1_000_000;

fn context() -> ParserContext {
    ParserContext::new(Limits::default())
}

/// The exchanges of `l7` alone.
pub fn parsed(calls: &[Call]) -> Vec<Named> {
    let (found, context) = parse(calls);
    sorted(&found, &context)
}

fn parse(calls: &[Call]) -> (Vec<Exchange>, ParserContext) {
    let (mut context, mut found) = (context(), Vec::new());
    let mut connection = Connection::new(ScopeId(1));
    let (mut offsets, mut now) = ([0_u64; 2], 0);
    for call in calls.iter().filter(|call| !call.bytes.is_empty()) {
        now += STEP_NS;
        let offset = &mut offsets[call.direction as usize];
        let total = call.bytes.len() as u64;
        let chunk = Chunk {
            direction: call.direction,
            timestamp: Timestamp(now),
            offset: *offset,
            bytes: &call.bytes,
            total,
        };
        *offset += total;
        connection.chunk(&chunk, &mut context, &mut |exchange| found.push(exchange));
    }
    connection.close(Timestamp(now + STEP_NS), &mut context, &mut |exchange| found.push(exchange));
    (found, context)
}

/// The exchanges of the programs and the agent together, and how often the programs took the connection over and gave it
/// back. Fails where a request comes to no end, or to two.
pub fn monitored(mode: Mode, observed: Side, calls: &[Call]) -> (Vec<Named>, [u64; 2]) {
    let monitor = monitor(mode, observed, calls);
    let (exchanges, context) = monitor.exchanges();
    let tally = context.tally();
    assert_eq!(tally.exchanges, exchanges.len() as u64);
    assert_eq!(tally.messages_seen, tally.exchanges + tally.unparsed, "every request comes to one end");
    (sorted(exchanges, context), monitor.turns())
}

fn monitor(mode: Mode, observed: Side, calls: &[Call]) -> Monitor {
    let mut monitor = Monitor::new(mode, observed, context());
    let mut now = 0;
    for call in calls.iter().filter(|call| !call.bytes.is_empty()) {
        now += STEP_NS;
        monitor.call(call.direction, &call.buffers(), Timestamp(now));
    }
    monitor.close(Timestamp(now + STEP_NS));
    monitor
}

/// Sums that differ where the programs aggregate exchanges: those that they aggregated and those that became records, and
/// those of `l7` alone; and how many were aggregated.
pub fn difference_of_sums(observed: Side, calls: &[Call]) -> (Option<(Sums, Sums)>, u64) {
    let monitor = monitor(Mode::Aggregated, observed, calls);
    let (exchanges, context) = monitor.exchanges();
    let (mut found, mut aggregated) = (sums(exchanges, context), 0);
    for aggregate in monitor.aggregates() {
        aggregated += aggregate.count;
        let [requests, responses] = aggregate.bytes;
        let added = [aggregate.count, aggregate.duration_ns, requests, responses];
        add(&mut found, labels(&aggregate.example, context), added);
    }
    let (parsed, context) = parse(calls);
    let expected = sums(&parsed, &context);
    ((found != expected).then_some((found, expected)), aggregated)
}

fn sorted(exchanges: &[Exchange], context: &ParserContext) -> Vec<Named> {
    let mut all: Vec<Named> = exchanges.iter().map(|exchange| Named::of(exchange, context)).collect();
    all.sort();
    all
}

/// The first mode whose exchanges differ from those of `l7`, with both.
pub fn difference(observed: Side, calls: &[Call]) -> Option<(Mode, Vec<Named>, Vec<Named>)> {
    let expected = parsed(calls);
    [Mode::Copied, Mode::Begun, Mode::Offered].into_iter().find_map(|mode| {
        let (found, _) = monitored(mode, observed, calls);
        (found != expected).then(|| (mode, found, expected.clone()))
    })
}
