//! Between which ends a packet goes, and to which flow it belongs.

use std::net::{IpAddr, SocketAddr};

use crate::{
    ip::{Datagram, Transport},
    network::Network,
};

/// Where a packet was captured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Vantage {
    /// On a link.
    Link,
    /// At the socket that sent it.
    Sender,
    /// At the socket that received it.
    Receiver,
}

/// The ends of a flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Ends {
    /// The local end; of a flow on a link the one that opened it, as far as is known.
    pub near: SocketAddr,
    /// The other one.
    pub far: SocketAddr,
}

/// Ordered by ends, then networks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Key {
    pub transport: Transport,
    /// Of a flow at a socket the local end first; on a link in the order of the addresses, the same for both directions.
    pub ends: [SocketAddr; 2],
    pub network: Network,
}

/// Source, destination and where a packet was captured.
#[derive(Clone, Copy)]
pub(crate) struct Route {
    pub network: Network,
    pub source: SocketAddr,
    pub destination: SocketAddr,
    pub vantage: Vantage,
}

impl Route {
    pub fn new(
        (vantage, network): (Vantage, Network),
        datagram: &Datagram<'_>,
        source: u16,
        destination: u16,
    ) -> Self {
        let end = |address: IpAddr, port| SocketAddr::new(address.to_canonical(), port);
        Self {
            network,
            source: end(datagram.source, source),
            destination: end(datagram.destination, destination),
            vantage,
        }
    }

    pub fn key(&self, transport: Transport) -> Key {
        let (source, destination) = (self.source, self.destination);
        let in_order = match self.vantage {
            Vantage::Sender => true,
            Vantage::Receiver => false,
            Vantage::Link => source <= destination,
        };
        let ends = if in_order { [source, destination] } else { [destination, source] };
        Key { transport, ends, network: self.network }
    }

    /// The client's end of a connection of which the beginning was not captured: clients' ports are the higher ones as
    /// a rule, and the answer to a SYN shows it.
    pub fn client(&self, answers_syn: bool) -> SocketAddr {
        let from_server = answers_syn || self.source.port() < self.destination.port();
        if from_server { self.destination } else { self.source }
    }

    /// The ends of a flow that `opener` began.
    pub fn ends(&self, opener: SocketAddr) -> Ends {
        let near = match self.vantage {
            Vantage::Sender => self.source,
            Vantage::Receiver => self.destination,
            Vantage::Link => opener,
        };
        Ends { near, far: if near == self.source { self.destination } else { self.source } }
    }

    /// Index of the direction.
    pub fn from(&self, ends: Ends) -> usize {
        match self.vantage {
            Vantage::Sender => 0,
            Vantage::Receiver => 1,
            Vantage::Link => usize::from(self.source != ends.near),
        }
    }
}
