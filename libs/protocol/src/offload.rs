//! Protocols whose exchanges the kernel programs aggregate.

use crate::Protocol;

/// A protocol in the kernel programs. Code that dispatches on it matches exhaustively.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Offload {
    /// HTTP/1.0 and HTTP/1.1.
    Http1,
    /// Redis.
    Redis,
    /// MySQL and MariaDB.
    Mysql,
    /// PostgreSQL.
    Postgresql,
}

impl Offload {
    /// Every one.
    pub const ALL: [Self; 4] = [Self::Http1, Self::Redis, Self::Mysql, Self::Postgresql];

    /// Number in the records and maps that kernel and agent share.
    pub const fn number(self) -> u16 {
        match self {
            Self::Http1 => 1,
            Self::Redis => 2,
            Self::Mysql => 3,
            Self::Postgresql => 4,
        }
    }

    /// The protocol of a number; `None` for one that this build does not know.
    pub const fn from_number(number: u16) -> Option<Self> {
        match number {
            1 => Some(Self::Http1),
            2 => Some(Self::Redis),
            3 => Some(Self::Mysql),
            4 => Some(Self::Postgresql),
            _ => None,
        }
    }

    /// The protocol in user space.
    pub const fn protocol(self) -> Protocol {
        match self {
            Self::Http1 => Protocol::Http1,
            Self::Redis => Protocol::Redis,
            Self::Mysql => Protocol::Mysql,
            Self::Postgresql => Protocol::Postgresql,
        }
    }

    /// Whether a request is a statement of SQL, which the kernel knows by a hash, behind a login that the agent reads.
    pub const fn is_sql(self) -> bool {
        match self {
            Self::Http1 | Self::Redis => false,
            Self::Mysql | Self::Postgresql => true,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_lead_to_protocols_and_back() {
        for offload in Offload::ALL {
            assert_eq!(Offload::from_number(offload.number()), Some(offload));
            assert_eq!(offload.protocol().row().offload, Some(offload), "the row says so too");
        }
        let rows = Protocol::ALL.iter().filter(|protocol| protocol.row().offload.is_some());
        assert_eq!(rows.count(), Offload::ALL.len());
        assert_eq!(Offload::from_number(0), None);
        assert_eq!(Offload::from_number(77), None);
    }
}
