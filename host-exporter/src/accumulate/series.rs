//! The key of an exposed series: exactly the parts that become labels, so that two keys are never one series.

use serde::{Deserialize, Serialize};

use crate::protocol::{ErrorClass, Protocol, Side};

/// Operation, resource and status of an overflow series, which has what exceeds a bound.
pub const OTHER: &str = "other";

/// Key of an exposed series within its sandbox. Its texts share one allocation, as there are many keys.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "KeyForm", into = "KeyForm")]
pub struct SeriesKey {
    /// The protocol of the exchanges.
    pub protocol: Protocol,
    /// From which end it was seen.
    pub side: Side,
    /// The texts one behind the other, the container's name last.
    text: Box<str>,
    /// Where each but the last ends.
    ends: [u16; 6],
}

/// The texts of a series' key. An empty one stands for a label that the series does not have.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Labels<'a> {
    /// The container's name, from the registry's record; empty when the record does not list the container.
    pub container: &'a str,
    /// Method, command, SQL operation, API, query type.
    pub operation: &'a str,
    /// Route, table, topic, question name.
    pub resource: &'a str,
    /// Exact status.
    pub status: &'a str,
    /// OpenTelemetry's `error.type`.
    pub error_type: &'a str,
    /// Client side: address of the server.
    pub peer_address: &'a str,
    /// Client side: port of the server.
    pub peer_port: &'a str,
}

/// The texts are longer than 64 KiB.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the texts of a series' key are longer than 64 KiB")]
pub struct TextsTooLong;

impl SeriesKey {
    /// A key with these texts.
    pub fn new(protocol: Protocol, side: Side, labels: Labels<'_>) -> Result<Self, TextsTooLong> {
        let [container, of_agent @ ..] = labels.texts();
        let mut text = of_agent.concat();
        let mut ends = [0; 6];
        let mut end = 0;
        for (slot, part) in ends.iter_mut().zip(of_agent) {
            end += part.len();
            *slot = u16::try_from(end).map_err(|_| TextsTooLong)?;
        }
        text.push_str(container);
        Ok(Self { protocol, side, text: text.into(), ends })
    }

    /// Whether it is not known how its exchanges ended: the bytes are missing that held the status, and the agent found no error.
    pub fn is_unknown(&self, error: ErrorClass) -> bool {
        error == ErrorClass::None && self.labels().status == OTHER
    }

    /// Its texts.
    pub fn labels(&self) -> Labels<'_> {
        let mut start = 0;
        let [operation, resource, status, error_type, peer_address, peer_port] = self.ends.map(|end| {
            let part = &self.text[start..usize::from(end)];
            start = usize::from(end);
            part
        });
        let container = &self.text[start..];
        Labels { container, operation, resource, status, error_type, peer_address, peer_port }
    }

    /// The texts of its labels: container, operation, resource, status, error type, the server's address and port.
    pub fn texts(&self) -> [&str; 7] {
        self.labels().texts()
    }

    /// All texts, one behind the other.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// Whether both have the same parts but for the container's name.
    pub fn is_but_for_container(&self, other: &Self) -> bool {
        self.protocol == other.protocol
            && self.side == other.side
            && self.ends == other.ends
            && self.text_of_agent() == other.text_of_agent()
    }

    fn text_of_agent(&self) -> &str {
        &self.text[..usize::from(self.ends[5])]
    }

    /// The key of the same series in a container of this name.
    #[must_use]
    pub fn in_container(&self, name: &str) -> Self {
        Self { text: [self.text_of_agent(), name].concat().into(), ..*self }
    }

    /// The key of the overflow series that this one is added to; a container has a bounded number of those.
    #[must_use]
    pub fn overflow(&self) -> Self {
        let Labels { container, error_type, .. } = self.labels();
        let error_type = if error_type.is_empty() { "" } else { OTHER };
        let labels = Labels {
            container,
            operation: OTHER,
            resource: OTHER,
            status: OTHER,
            error_type,
            ..Labels::default()
        };
        Self::new(self.protocol, self.side, labels).expect("all but the container's name are short")
    }
}

impl<'a> Labels<'a> {
    /// Container, operation, resource, status, error type, the server's address and port.
    pub fn texts(self) -> [&'a str; 7] {
        let Self { container, operation, resource, status, error_type, peer_address, peer_port } = self;
        [container, operation, resource, status, error_type, peer_address, peer_port]
    }
}

/// A key as it is written in the ledger.
#[derive(Debug, Serialize, Deserialize)]
struct KeyForm {
    #[serde(with = "crate::protocol::by_name")]
    protocol: Protocol,
    #[serde(with = "crate::protocol::by_name")]
    side: Side,
    container: Box<str>,
    operation: Box<str>,
    resource: Box<str>,
    status: Box<str>,
    error_type: Box<str>,
    peer_address: Box<str>,
    peer_port: Box<str>,
}

impl From<SeriesKey> for KeyForm {
    fn from(key: SeriesKey) -> Self {
        let [container, operation, resource, status, error_type, peer_address, peer_port] =
            key.texts().map(Into::into);
        let SeriesKey { protocol, side, .. } = key;
        Self { protocol, side, container, operation, resource, status, error_type, peer_address, peer_port }
    }
}

impl TryFrom<KeyForm> for SeriesKey {
    type Error = TextsTooLong;

    fn try_from(form: KeyForm) -> Result<Self, TextsTooLong> {
        let labels = Labels {
            container: &form.container,
            operation: &form.operation,
            resource: &form.resource,
            status: &form.status,
            error_type: &form.error_type,
            peer_address: &form.peer_address,
            peer_port: &form.peer_port,
        };
        Self::new(form.protocol, form.side, labels)
    }
}

/// A series as an agent reported it, after every check that needs no memory of what came before.
#[derive(Clone, Debug)]
pub struct CheckedSeries {
    /// The agent's id of the series within the epoch.
    pub id: u32,
    /// The container as the guest names it; not yet looked up.
    pub container_id: String,
    /// The key; its container is still empty.
    pub key: SeriesKey,
    /// Whose fault its failures are.
    pub error: ErrorClass,
    /// Cumulative values.
    pub values: super::values::Values,
}

#[cfg(test)]
mod tests {
    use super::*;

    const LABELS: Labels<'_> = Labels {
        container: "shop",
        operation: "GET",
        resource: "/ünïcode/{}",
        status: "503",
        error_type: "503",
        peer_address: "fd00::1",
        peer_port: "",
    };

    fn key(labels: Labels<'_>) -> SeriesKey {
        SeriesKey::new(Protocol::Http1, Side::Client, labels).expect("short")
    }

    #[test]
    fn a_key_gives_back_its_texts_also_from_the_ledger() {
        let key = key(LABELS);
        assert_eq!(key.labels(), LABELS);
        let written = serde_json::to_string(&key).expect("written");
        assert_eq!(serde_json::from_str::<SeriesKey>(&written).expect("read"), key);
        assert_eq!(key.in_container("").labels(), Labels { container: "", ..LABELS });
        let overflow = Labels { container: "shop", error_type: OTHER, ..Labels::default() };
        let overflow = Labels { operation: OTHER, resource: OTHER, status: OTHER, ..overflow };
        assert_eq!(key.overflow().labels(), overflow);
    }

    #[test]
    fn texts_of_the_same_letters_are_different_keys() {
        assert_ne!(key(Labels { operation: "GE", resource: "T/", ..LABELS }), key(LABELS));
        assert_ne!(
            key(Labels { operation: "a", ..Labels::default() }),
            key(Labels { container: "a", ..Labels::default() })
        );
    }

    #[test]
    fn texts_beyond_the_offsets_are_refused() {
        let long = "x".repeat(70_000);
        let labels = Labels { resource: &long, ..LABELS };
        assert_eq!(SeriesKey::new(Protocol::Http1, Side::Server, labels), Err(TextsTooLong));
    }
}
