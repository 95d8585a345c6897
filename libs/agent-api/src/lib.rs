//! The contract between the agent in a guest and the host.
//!
//! - [`agent`] and [`agent_ttrpc`]: the service that the agent offers to the host, generated from `proto/agent.proto`.
//! - [`proof`]: how an agent proves to which sandbox it belongs.
//! - [`limits`]: bounds that both sides keep and the host enforces.
//! - [`dependencies`]: why connections fail.
//! - [`resources`]: what is measured of containers and guests.
//! - `testing` (feature): series for simulated agents.
//!
//! Invariant: nothing that a guest sends names a tenant. Identity is in the registry, written by the host.

#[allow(missing_docs, clippy::all, clippy::pedantic, clippy::unwrap_used, unsafe_op_in_unsafe_fn)]
mod generated {
    include!(concat!(env!("OUT_DIR"), "/mod.rs"));
}

pub mod dependencies;
mod histogram;
pub mod limits;
pub mod proof;
pub mod resources;
#[cfg(feature = "testing")]
pub mod testing;

pub use generated::{agent, agent_ttrpc};

#[cfg(test)]
mod tests {
    use porthole_protocol::{ErrorClass, Protocol, Side};
    use protobuf::Enum;

    use super::agent;

    /// The contract's values besides the one for "unspecified", and the table's.
    fn assert_same<E: Enum>(table: impl IntoIterator<Item = i32>, unspecified: Option<E>) {
        let table: Vec<i32> = table.into_iter().collect();
        let mut contract: Vec<i32> = E::VALUES.iter().map(Enum::value).collect();
        contract.retain(|&number| unspecified.is_none_or(|unspecified| unspecified.value() != number));
        assert_eq!(table, contract);
    }

    #[test]
    fn the_contract_and_the_table_of_protocols_have_the_same_numbers() {
        let wire = Protocol::ALL.iter().map(|protocol| protocol.wire());
        assert_same(wire, Some(agent::Protocol::PROTOCOL_UNSPECIFIED));
        assert_same(Side::ALL.map(Side::wire), Some(agent::Side::SIDE_UNSPECIFIED));
        assert_same::<agent::ErrorClass>(ErrorClass::ALL.map(ErrorClass::wire), None);
    }

    #[test]
    fn the_contract_and_the_table_of_protocols_have_the_same_names() {
        for protocol in Protocol::ALL {
            let name = format!("PROTOCOL_{}", protocol.name().to_uppercase());
            let value = agent::Protocol::from_str(&name).map(|value| value.value());
            assert_eq!(value, Some(protocol.wire()), "{name}");
        }
    }
}
