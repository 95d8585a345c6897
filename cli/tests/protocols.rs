//! The table of protocols against everything that lists protocols: mappings, documents, fuzz targets, recordings. A
//! protocol that is missing anywhere fails here.

#[path = "../../libs/config/tests/support/reference.rs"]
mod reference;

use std::path::{Path, PathBuf};

use porthole_agent_api::agent;
use porthole_exporter::instrument::INSTRUMENTS;
use porthole_l7::{Connection, ScopeId, Side};
use porthole_protocol::{Offload, Part, Protocol, Row, Transport};

const PROTOCOLS: &str = include_str!("../../docs/protocols.md");
const METRICS: &str = include_str!("../../docs/metrics.md");

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// The names of the files in a folder of the repository.
fn files(folder: &str) -> Vec<String> {
    let entries = std::fs::read_dir(root().join(folder)).unwrap_or_else(|error| panic!("{folder}: {error}"));
    entries.map(|entry| entry.expect("entry").file_name().to_string_lossy().into_owned()).collect()
}

fn prometheus(name: &str) -> String {
    name.replace('.', "_")
}

#[test]
fn every_protocol_has_a_number_in_the_agents_contract() {
    use protobuf::Enum;
    for protocol in Protocol::ALL {
        let wire = agent::Protocol::from_i32(protocol.wire());
        assert_ne!(wire.unwrap_or_default(), agent::Protocol::PROTOCOL_UNSPECIFIED, "{protocol:?}");
        assert_eq!(Protocol::from_wire(protocol.wire()), Some(*protocol));
    }
}

#[test]
fn every_protocol_has_a_parser() {
    for protocol in Protocol::ALL {
        let transports = match protocol.row().transport {
            Transport::Stream => &[porthole_l7::Transport::Stream][..],
            Transport::DatagramAndStream => {
                &[porthole_l7::Transport::Datagram, porthole_l7::Transport::Stream]
            }
        };
        for &transport in transports {
            let connection = Connection::known(ScopeId(0), transport, protocol.parser(), Side::Server);
            assert!(connection.is_some(), "{protocol:?}");
        }
    }
}

#[test]
fn every_protocol_that_the_kernel_aggregates_says_so() {
    use porthole_bpf_types::offload::protocol;
    for (number, offload) in [
        (protocol::HTTP1, Offload::Http1),
        (protocol::REDIS, Offload::Redis),
        (protocol::MYSQL, Offload::Mysql),
        (protocol::POSTGRESQL, Offload::Postgresql),
    ] {
        assert_eq!(Offload::from_number(number), Some(offload));
        assert_eq!(offload.protocol().row().offload, Some(offload));
    }
    let rows = Protocol::ALL.iter().filter(|protocol| protocol.row().offload.is_some());
    assert_eq!(rows.count(), Offload::ALL.len());
}

#[test]
fn every_protocol_is_exposed_by_its_instruments() {
    for &protocol in Protocol::ALL {
        let row = protocol.row();
        for (name, side) in [(row.server_instrument, Side::Server), (row.client_instrument, Side::Client)] {
            let instrument = INSTRUMENTS.iter().find(|instrument| instrument.name == prometheus(name));
            let recorded = &instrument.unwrap_or_else(|| panic!("{protocol:?}: no {name}")).recorded;
            let of_protocol = recorded.iter().filter(|recorded| recorded.protocol == protocol);
            assert_eq!(of_protocol.filter(|recorded| recorded.side == side).count(), 1, "{protocol:?}");
        }
    }
}

#[test]
fn every_protocol_is_described() {
    let (_, table) = PROTOCOLS.split_once("\n| protocol | an exchange is |").expect("the table");
    let rows: Vec<_> = table.lines().skip(2).take_while(|line| line.starts_with('|')).collect();
    let described: Vec<Vec<String>> = rows
        .into_iter()
        .map(|line| line.trim_matches('|').split(" | ").map(|cell| cell.trim().to_owned()).collect())
        .collect();
    for protocol in Protocol::ALL {
        let row = protocol.row();
        let found = described.iter().find(|cells| cells[0] == row.title);
        let cells = found.unwrap_or_else(|| panic!("docs/protocols.md has no row `{}`", row.title));
        let meanings = [row.operation, row.resource, row.status].map(|part| part.meaning);
        assert_eq!(&cells[2..], meanings, "docs/protocols.md: {}", row.title);
    }
    assert_eq!(described.len(), Protocol::ALL.len(), "docs/protocols.md describes others as well");
}

#[test]
fn every_protocol_is_in_the_reference_of_metrics() {
    let words: Vec<&str> = METRICS.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_')).collect();
    let rows = reference::rows(METRICS);
    for protocol in Protocol::ALL {
        assert!(words.contains(&protocol.name()), "docs/metrics.md does not name `{}`", protocol.name());
        let row = protocol.row();
        for instrument in [row.server_instrument, row.client_instrument] {
            let family = format!("{}_seconds", prometheus(instrument));
            let found = rows.iter().find(|cells| reference::code(&cells[0]) == family);
            let cells = found.unwrap_or_else(|| panic!("docs/metrics.md has no `{family}`"));
            let documented: Vec<String> = cells[2].split(',').map(reference::code).collect();
            for attribute in attributes(row) {
                let label = prometheus(attribute);
                assert!(documented.contains(&label), "docs/metrics.md: {family} without `{label}`");
            }
        }
    }
}

/// The attributes by which a protocol's exchanges are labelled.
fn attributes(row: &'static Row) -> impl Iterator<Item = &'static str> {
    let parts: [Part; 3] = [row.operation, row.resource, row.status];
    parts.into_iter().filter_map(|part| part.attribute).chain(row.system.map(|(attribute, _)| attribute))
}

#[test]
fn every_parser_has_a_fuzz_target() {
    let targets = files("libs/l7/fuzz/fuzz_targets");
    let manifest = std::fs::read_to_string(root().join("libs/l7/fuzz/Cargo.toml")).expect("manifest");
    for protocol in Protocol::ALL {
        let name = protocol.parser().name();
        assert!(targets.contains(&format!("{name}.rs")), "no fuzz target `{name}`");
        assert!(
            manifest.contains(&format!("name = \"{name}\"")),
            "fuzz target `{name}` is not in the manifest"
        );
    }
}

#[test]
fn every_protocol_has_a_recording() {
    let recordings = files("tests/recordings");
    for protocol in Protocol::ALL {
        let name = protocol.name();
        let of_protocol =
            |file: &&String| file.strip_prefix(name).is_some_and(|rest| rest.starts_with(['-', '.']));
        assert!(recordings.iter().any(|file| of_protocol(&file)), "no recording of `{name}`");
    }
}
