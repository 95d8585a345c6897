//! A real name server, by UDP and by TCP.

use std::{
    fmt::Write as _,
    fs,
    net::{TcpListener, TcpStream},
    process::{Command, Stdio},
};

use porthole_agent_api::{agent::ErrorClass, agent::Protocol, agent::Side};

use porthole_trials::{Outcome, Trial, needs, trials};

use crate::{
    harness::{Agent, EVERY_HOOKS},
    running,
};

/// The tests of this file.
pub fn tests() -> Vec<Trial> {
    trials![
        every_lookup_is_counted_on_both_sides,
        every_lookup_is_counted_from_packets,
        connections_have_the_name_that_was_looked_up,
    ]
}

fn every_lookup_is_counted_on_both_sides() -> Outcome {
    look_up(&[])
}

fn every_lookup_is_counted_from_packets() -> Outcome {
    look_up(&["--capture", "packets"])
}

/// Sends queries to a name server under an agent with these arguments.
fn look_up(arguments: &[&str]) -> Outcome {
    const LOOKUPS: u64 = 100;
    needs::program("dig")?;
    let mut agent = Agent::start(arguments)?;
    // The converged name has two labels: one zone for each way, so that they have series of their own.
    for (way, zone) in [("+notcp", "by-udp.example"), ("+tcp", "by-tcp.example")] {
        let server = running::dnsmasq(zone)?;
        let mut questions = String::new();
        for number in 0..LOOKUPS {
            let _ = writeln!(questions, "known.{zone} A\nmissing{number}.{zone} AAAA");
        }
        let directory = tempfile::tempdir().expect("directory");
        let file = directory.path().join("questions");
        fs::write(&file, questions).expect("written");
        let port = server.port.to_string();
        let status = Command::new("dig")
            .args(["@127.0.0.1", "-p", &port, way, "+tries=1", "-f"])
            .arg(&file)
            .stdout(Stdio::null())
            .status();
        assert!(status.is_ok_and(|status| status.success()));
        agent.catch_up();
        for side in [Side::SIDE_SERVER, Side::SIDE_CLIENT] {
            let mut found: Vec<_> = agent
                .series(side, zone)
                .iter()
                .map(|series| {
                    assert_eq!(series.key.protocol.enum_value(), Ok(Protocol::PROTOCOL_DNS));
                    let error = series.key.error.enum_value().expect("known");
                    (series.key.operation.as_str(), series.key.status.as_str(), error, series.duration.count)
                })
                .collect();
            found.sort_by_key(|(operation, ..)| *operation);
            let expected = [
                ("A", "NOERROR", ErrorClass::ERROR_CLASS_NONE, LOOKUPS),
                ("AAAA", "NXDOMAIN", ErrorClass::ERROR_CLASS_CLIENT, LOOKUPS),
            ];
            assert_eq!(found, expected, "{side:?} {way}");
        }
    }
    Ok(())
}

fn connections_have_the_name_that_was_looked_up() -> Outcome {
    const ZONE: &str = "by-name.example";
    needs::program("dig")?;
    for arguments in EVERY_HOOKS {
        let server = running::dnsmasq(ZONE)?;
        let mut agent = Agent::start(arguments)?;
        let [named, unnamed] =
            ["127.0.0.9:0", "127.0.0.10:0"].map(|address| TcpListener::bind(address).expect("bound"));
        let port = server.port.to_string();
        let status = Command::new("dig")
            .args(["@127.0.0.1", "-p", &port, "+notcp", &format!("near.{ZONE}"), "A"])
            .stdout(Stdio::null())
            .status();
        assert!(status.is_ok_and(|status| status.success()));
        agent.until("the lookup", |agent| (!agent.series(Side::SIDE_CLIENT, ZONE).is_empty()).then_some(()));
        for (listener, name) in [(&named, ZONE), (&unnamed, "")] {
            let address = listener.local_addr().expect("bound");
            drop(TcpStream::connect(address).expect("connected"));
            agent.until("the connection", |agent| agent.dependency(address).map(drop));
            assert_eq!(agent.dependency(address).expect("known").name, name, "{arguments:?}");
        }
    }
    Ok(())
}
