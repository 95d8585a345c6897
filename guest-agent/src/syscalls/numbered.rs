//! The records of one connection, which the programs number.

use std::{borrow::Cow, net::SocketAddr};

use porthole_bpf_types::{
    kernel_key::Completed,
    offload::OffloadedConnection,
    record::{self, Plain, Record},
};
use porthole_l7::Timestamp;

/// A numbered record.
#[derive(Debug)]
pub(super) enum Numbered<'a> {
    /// Bytes moved; of a datagram perhaps with its peer.
    Chunk(record::Chunk, Cow<'a, [u8]>, Option<SocketAddr>),
    /// The programs paired an exchange that they do not aggregate.
    Completed(Box<Completed>),
    /// The agent follows the connection from here.
    Fallback(Box<OffloadedConnection>),
    /// The programs follow the connection from here.
    OfferAccepted(Timestamp),
    /// The connection was announced once more: two CPUs did so at once.
    Reopened(Timestamp),
    /// The connection ended; bytes that moved on it, by direction.
    Close(Timestamp, [u64; 2]),
}

impl<'a> Numbered<'a> {
    /// The connection, the record's number and the record; none when it is not a numbered one, or none at all.
    pub fn of(record: &Record<'a>) -> Option<(u64, u64, Self)> {
        Some(match *record {
            Record::Chunk(chunk, head, peer) => {
                (chunk.connection, chunk.sequence, Self::Chunk(chunk, Cow::Borrowed(head), peer))
            }
            Record::Completed(completed) => {
                (completed.connection, completed.sequence, Self::Completed(Box::new(completed)))
            }
            Record::Fallback(bytes) => {
                let offloaded = OffloadedConnection::read(bytes)?;
                (offloaded.connection, offloaded.sequence, Self::Fallback(Box::new(offloaded)))
            }
            Record::OfferAccepted(accepted) => {
                let at = Timestamp(accepted.timestamp);
                (accepted.connection, accepted.sequence, Self::OfferAccepted(at))
            }
            Record::Close(close) => {
                (close.connection, close.sequence, Self::Close(Timestamp(close.timestamp), close.moved))
            }
            Record::Open(_)
            | Record::Cgroup(_)
            | Record::Exit(_)
            | Record::ClientSocket(_)
            | Record::Listen(_)
            | Record::UnnamedRequest(..) => {
                return None;
            }
        })
    }

    /// When it was made, nanoseconds of the monotonic clock; 0 for a fallback, which has no time.
    pub fn time_ns(&self) -> u64 {
        match self {
            Self::Chunk(chunk, ..) => chunk.timestamp,
            Self::Completed(completed) => completed.end,
            Self::Fallback(_) => 0,
            Self::OfferAccepted(at) | Self::Reopened(at) | Self::Close(at, _) => at.0,
        }
    }

    /// The same, to be kept.
    pub fn into_owned(self) -> Numbered<'static> {
        match self {
            Self::Chunk(chunk, head, peer) => Numbered::Chunk(chunk, Cow::Owned(head.into_owned()), peer),
            Self::Completed(completed) => Numbered::Completed(completed),
            Self::Fallback(offloaded) => Numbered::Fallback(offloaded),
            Self::OfferAccepted(at) => Numbered::OfferAccepted(at),
            Self::Reopened(at) => Numbered::Reopened(at),
            Self::Close(at, moved) => Numbered::Close(at, moved),
        }
    }
}
