//! A real name server, by UDP and by TCP.

use std::{
    fmt::Write as _,
    fs,
    process::{Child, Command, Stdio},
};

use porthole_agent_api::{agent::ErrorClass, agent::Protocol, agent::Side};

use crate::harness::{Agent, not_run, wait_for};

/// A name server that ends with the test.
struct Server(Child);

impl Server {
    /// Knows `known.<zone>`, and that nothing else is in the zone.
    fn start(port: u16, zone: &str) -> Option<Self> {
        let child = Command::new("dnsmasq")
            .args([
                "--keep-in-foreground",
                "--conf-file=/dev/null",
                "--no-resolv",
                "--no-hosts",
                "--user=root",
            ])
            .args(["--listen-address=127.0.0.1", "--bind-interfaces", "--pid-file="])
            .args([format!("--port={port}"), format!("--local=/{zone}/")])
            .args([format!("--host-record=known.{zone},10.1.2.3")])
            .stderr(Stdio::null())
            .spawn();
        let Ok(child) = child else {
            return not_run("dnsmasq is not installed");
        };
        Some(Self(child))
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn every_lookup_is_counted_on_both_sides() {
    look_up(&[]);
}

#[test]
fn every_lookup_is_counted_from_packets() {
    look_up(&["--capture", "packets"]);
}

/// Asks a name server under an agent with these arguments.
fn look_up(arguments: &[&str]) {
    const LOOKUPS: u64 = 100;
    if Command::new("dig").arg("-v").output().is_err() {
        not_run::<()>("dig is not installed");
        return;
    }
    let Some(mut agent) = Agent::start(arguments) else { return };
    let port = {
        let free = std::net::TcpListener::bind("127.0.0.1:0").expect("bound");
        free.local_addr().expect("an address").port()
    };
    // The converged name has two labels: one zone for each way, so that they are told apart.
    for (way, zone) in [("+notcp", "by-udp.example"), ("+tcp", "by-tcp.example")] {
        let Some(_server) = Server::start(port, zone) else { return };
        wait_for("dnsmasq answers", || std::net::TcpStream::connect(("127.0.0.1", port)).ok());
        let mut questions = String::new();
        for number in 0..LOOKUPS {
            let _ = writeln!(questions, "known.{zone} A\nmissing{number}.{zone} AAAA");
        }
        let directory = tempfile::tempdir().expect("directory");
        let file = directory.path().join("questions");
        fs::write(&file, questions).expect("written");
        let port = port.to_string();
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
}
