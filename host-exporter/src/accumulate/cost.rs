//! What things cost: bytes of memory, with what the allocator adds, and bytes of text in a scrape.
//!
//! A test compares the first with an allocator that counts, and the second with real scrapes.

use std::{collections::HashMap, mem::size_of, sync::Arc};

use porthole_histogram::Histogram;

use super::{series::SeriesKey, values::Values};
use crate::{buckets, instrument};

/// Values of a B-tree's node (`alloc::collections::btree`); nodes are two thirds full on average.
const NODE_VALUES: usize = 11;

/// Lines of a histogram in a scrape: its classic buckets, sum and count.
const HISTOGRAM_LINES: usize = buckets::CLASSIC + 2;

/// Bytes of a line besides name and labels: suffix, braces, `le`, value.
const LINE: usize = 30;

/// Bytes of an exemplar in a scrape: 32 digits of its trace's id, 16 of its span's, its value and its time, with what is around them.
pub const EXPOSED_EXEMPLAR: usize = 105;

/// Bytes of a family's name.
const NAME: usize = 36;

/// What the allocator takes for a block: glibc adds a header of 8 bytes and rounds up to 16.
pub const fn block(bytes: usize) -> usize {
    match bytes {
        0 => 0,
        1..=24 => 32,
        _ => (bytes + 8).next_multiple_of(16),
    }
}

/// A text of its own.
pub const fn text(text: &str) -> usize {
    block(text.len())
}

/// An entry of a B-tree map, its part of the nodes.
pub const fn map_entry<K, V>() -> usize {
    node_part::<K, V>(8)
}

/// The same where the keys come in ascending order: each node is split as it is full, and the lower part stays with six.
pub const fn ascending_map_entry<K, V>() -> usize {
    node_part::<K, V>(6)
}

/// The first node of a B-tree map.
pub const fn first_node<K, V>() -> usize {
    block(NODE_VALUES * (size_of::<K>() + size_of::<V>()) + 16)
}

const fn node_part<K, V>(values_in_use: usize) -> usize {
    let node = first_node::<K, V>();
    // Inner nodes have twelve pointers more, one for each eight leaves.
    let inner = block(NODE_VALUES * (size_of::<K>() + size_of::<V>()) + 16 + 8 * (NODE_VALUES + 1));
    (node + inner / 8) / values_in_use
}

/// The table of a hash map with this capacity.
pub fn table<K, V, S>(map: &HashMap<K, V, S>) -> usize {
    if map.capacity() == 0 {
        return 0;
    }
    // hashbrown: seven eighths of the buckets are used, each with a control byte.
    let buckets = (map.capacity() * 8 / 7).next_power_of_two();
    block(buckets * (size_of::<(K, V)>() + 1) + 16)
}

/// An entry of a hash map, its part of the table: between seven sixteenths and seven eighths of the buckets are used.
pub const fn table_entry<K, V>() -> usize {
    (size_of::<(K, V)>() + 1) * 8 / 5
}

/// The buckets of a histogram.
pub fn histogram(histogram: &Histogram) -> usize {
    block(histogram.allocated_bytes())
}

/// Values in a block of their own.
pub fn boxed_values(values: Option<&Values>) -> usize {
    values.map_or(0, |values| block(size_of::<Values>()) + histogram(&values.durations))
}

/// A series' key.
pub fn key(key: &Arc<SeriesKey>) -> usize {
    block(size_of::<SeriesKey>() + 16) + text(key.text())
}

/// Bytes of a series' lines in a scrape as text; `identity` is the result of [`identity_labels`] for its sandbox.
pub fn exposed_series(key: &SeriesKey, identity: usize) -> usize {
    let names = instrument::label_names(key.protocol, key.side);
    let labels: usize = names.into_iter().zip(key.texts()).map(|(name, value)| label(name, value)).sum();
    histogram_lines(identity + labels)
}

/// Bytes of an application's times of starts in a scrape as text.
pub fn exposed_starts<'a>(tenant: &str, service: &str, phases: impl IntoIterator<Item = &'a str>) -> usize {
    let application = label("tenant", tenant) + label("service_name", service);
    phases.into_iter().map(|phase| histogram_lines(application + label("phase", phase))).sum()
}

/// Bytes of a histogram's lines in a scrape as text, each with so many bytes of labels.
pub fn histogram_lines(labels: usize) -> usize {
    HISTOGRAM_LINES * (NAME + LINE + labels)
}

/// Bytes of one side of one protocol of an application in a scrape.
pub fn exposed_application(tenant: &str, service: &str) -> usize {
    let labels = label("tenant", tenant)
        + label("service_name", service)
        + label("side", "server")
        + label("protocol", "postgresql");
    // Requests, three classes of errors, slow requests, and the application's three values of objectives.
    (HISTOGRAM_LINES + 8) * (NAME + LINE + labels)
}

/// Bytes of an edge with these labels in a scrape: requests, failed ones and durations.
pub fn exposed_edge<'a>(labels: impl IntoIterator<Item = (&'a str, &'a str)>) -> usize {
    (HISTOGRAM_LINES + 2) * (NAME + LINE + identity_labels(labels))
}

/// Bytes of the labels that all series of a sandbox have.
pub fn identity_labels<'a>(labels: impl IntoIterator<Item = (&'a str, &'a str)>) -> usize {
    labels.into_iter().map(|(name, value)| label(name, value)).sum()
}

/// Bytes of a line of a scrape without its labels.
pub fn line(family: &str) -> usize {
    family.len() + LINE
}

/// Bytes of a label in a scrape.
pub fn label(name: &str, value: &str) -> usize {
    let escapes = value.bytes().filter(|byte| matches!(byte, b'"' | b'\\' | b'\n')).count();
    if value.is_empty() { 0 } else { name.len() + value.len() + escapes + 4 }
}
