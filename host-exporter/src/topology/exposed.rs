//! Edges as scrapes show them: with the labels of service graphs (Grafana Tempo, "Service graphs").

use super::{Edge, Target, graph::Kind, shown};
use crate::{
    accumulate::{cost, golden::Golden},
    protocol::Protocol,
};

/// The edges of one tenant.
#[derive(Clone, Debug)]
pub struct TenantEdges {
    /// Whose.
    pub tenant: String,
    /// Those that scrapes have room for.
    pub edges: Vec<ExposedEdge>,
    /// The number of the others.
    pub left_out: usize,
}

/// One edge.
#[derive(Clone, Debug)]
pub struct ExposedEdge {
    /// The calling application.
    pub client: String,
    /// The application that is called, or its address and port; the name that was looked up in place of the address.
    pub server: String,
    /// Empty between applications, else what the server is.
    pub connection_type: &'static str,
    /// The protocol.
    pub protocol: Protocol,
    /// Address of a server of which the host knows no more; rules can name it by another node's exporter.
    pub address: String,
    /// Its port.
    pub port: String,
    /// What was counted since the edge is known.
    pub totals: Golden,
}

impl ExposedEdge {
    pub(super) fn of(edge: &Edge, totals: Golden) -> Self {
        let client = edge.from.clone();
        let of_kind = match Kind::of(edge.protocol) {
            Some(Kind::Database) => "database",
            Some(Kind::Broker) => "messaging_system",
            _ => "virtual_node",
        };
        let (server, connection_type) = match &edge.to {
            Target::Itself => (client.clone(), ""),
            Target::Application(name) => (name.clone(), ""),
            Target::AnotherTenant => ("another tenant".to_owned(), "virtual_node"),
            Target::Named(name) => (name.clone(), of_kind),
            Target::Address(peer, name) => (shown(peer, name.as_ref()), of_kind),
        };
        let (address, port) = match &edge.to {
            Target::Address(peer, _) => (peer.address(), peer.port()),
            _ => (String::new(), String::new()),
        };
        Self { client, server, connection_type, protocol: edge.protocol, address, port, totals }
    }

    /// Those with equal labels as one. A guest chooses the names that it looks up: one can be what another server is called.
    pub(super) fn merged(mut edges: Vec<Self>) -> Vec<Self> {
        edges.sort_by(|one, other| one.labels().cmp(&other.labels()));
        edges.dedup_by(|next, kept| {
            let is_same = next.labels() == kept.labels();
            if is_same {
                kept.totals.add(&next.totals);
            }
            is_same
        });
        edges
    }

    fn labels(&self) -> [&str; 6] {
        let Self { client, server, connection_type, protocol, address, port, totals: _ } = self;
        [client, server, connection_type, protocol.name(), address, port]
    }

    /// Bytes of its lines in a scrape as text.
    pub(super) fn bytes(&self, tenant: &str) -> usize {
        let labels = [
            ("tenant", tenant),
            ("client", self.client.as_str()),
            ("server", self.server.as_str()),
            ("connection_type", self.connection_type),
            ("protocol", self.protocol.name()),
            ("server_address", self.address.as_str()),
            ("server_port", self.port.as_str()),
        ];
        cost::exposed_edge(labels)
    }
}
