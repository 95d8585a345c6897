//! Connections that containers make, by the address that they go to: attempts that failed and why, how long the others took, and
//! how connections ended.
//!
//! An attempt that fails moves no byte, so no exchange shows it. Values are cumulative since the agent's start, whatever the epoch, or
//! since the address came again: addresses of which nothing came for a while make room for others.

use std::net::IpAddr;

use foldhash::HashMap;
use porthole_agent_api::{
    agent,
    dependencies::{DEPENDENCIES_MAX, Failure, UNUSED},
};
use porthole_bpf_types::record::{ClientSocket, client_event};
use porthole_histogram::Histogram;

use super::{containers::ContainerIndex, marks::Marks, peer::Peer};

/// [`UNUSED`] in nanoseconds.
const UNUSED_NS: u64 = UNUSED.as_secs() * 1_000_000_000;

/// Stands for the addresses that have no entry of their own.
const OTHER: &str = "other";

/// What is known of the connections to one address.
#[derive(Debug, Default)]
struct Dependency {
    container_id: String,
    /// As in a series' key.
    peer: String,
    /// For which the container got the address from a name server; empty where that was not seen.
    name: String,
    made: Histogram,
    failed: [u64; Failure::ALL.len()],
    broken: [u64; Failure::ALL.len()],
    retransmitted: u64,
    round_trip_us: u32,
    /// [`Dependencies::version`] of the first change.
    begun: u64,
    /// The same of the last one.
    changed: u64,
}

/// The addresses that containers connect to: as many as fit, and one more of each container for the rest.
#[derive(Debug, Default)]
pub struct Dependencies {
    entries: HashMap<(ContainerIndex, Peer), Dependency>,
    version: u64,
    marks: Marks,
    overflowed: u64,
    dropped: u64,
}

impl Dependencies {
    /// Takes what became of a container's connection; `name` gives the name for which the container looked its address up.
    pub fn record<'a>(
        &mut self,
        socket: &ClientSocket,
        container: ContainerIndex,
        container_id: &str,
        name: impl FnOnce(IpAddr) -> Option<&'a str>,
    ) {
        let peer = Peer::internet(socket.family, socket.remote, socket.remote_port);
        let Peer::Internet(address) = peer else { return };
        let version = self.version + 1;
        let Some(entry) = self.find_or_make(container, peer, container_id) else {
            self.dropped += 1;
            return;
        };
        // The entry of all others has no name.
        if entry.peer != OTHER
            && let Some(name) = name(address.ip()).filter(|name| entry.name != *name)
        {
            entry.name = name.to_owned();
        }
        match socket.event {
            client_event::MADE => entry.made.record(socket.elapsed_ns),
            client_event::FAILED => entry.failed[Failure::of(socket.error) as usize] += 1,
            client_event::ENDED => {
                if socket.error != 0 {
                    entry.broken[Failure::of(socket.error) as usize] += 1;
                }
                entry.retransmitted = entry.retransmitted.saturating_add(socket.retransmitted.into());
                if socket.round_trip_us > 0 {
                    entry.round_trip_us = socket.round_trip_us;
                }
            }
            _ => return,
        }
        entry.changed = version;
        self.version = version;
    }

    /// Time has passed. Call it every few seconds.
    pub fn observe(&mut self, now_ns: u64) {
        self.marks.observe(self.version, now_ns, UNUSED_NS);
    }

    /// What came of connections to addresses that have no entry of their own, and counts under `other`.
    pub fn overflowed(&self) -> u64 {
        self.overflowed
    }

    /// The same that counts nowhere.
    pub fn dropped(&self) -> u64 {
        self.dropped
    }

    fn find_or_make(
        &mut self,
        container: ContainerIndex,
        peer: Peer,
        container_id: &str,
    ) -> Option<&mut Dependency> {
        let mut key = (container, peer);
        let mut text = String::new();
        if !self.entries.contains_key(&key) {
            // The last places are for what has none of its own.
            if self.has_room(DEPENDENCIES_MAX - DEPENDENCIES_MAX / 8) {
                text = key.1.to_string();
            } else {
                (key.1, text) = (Peer::Unknown, OTHER.to_owned());
                if !self.entries.contains_key(&key) && !self.has_room(DEPENDENCIES_MAX) {
                    return None;
                }
                self.overflowed += 1;
            }
        }
        let begun = self.version + 1;
        let new = || Dependency {
            container_id: container_id.to_owned(),
            peer: text,
            begun,
            ..Dependency::default()
        };
        Some(self.entries.entry(key).or_insert_with(new))
    }

    /// Whether there are fewer than `most`, once those that are unused have made room.
    fn has_room(&mut self, most: usize) -> bool {
        if self.entries.len() >= most && self.marks.older > 0 {
            let older = std::mem::take(&mut self.marks.older);
            self.entries.retain(|_, entry| entry.changed > older);
        }
        self.entries.len() < most
    }

    /// Grows with each change.
    pub fn version(&self) -> u64 {
        self.version
    }

    /// Those that changed after `version`, in the form of the wire.
    pub fn changed_since(&self, version: u64) -> Vec<agent::Dependency> {
        let mut changed: Vec<_> = self.entries.values().filter(|entry| entry.changed > version).collect();
        changed.sort_unstable_by_key(|entry| entry.changed);
        changed.into_iter().map(Dependency::to_wire).collect()
    }
}

impl Dependency {
    fn to_wire(&self) -> agent::Dependency {
        agent::Dependency {
            container_id: self.container_id.clone(),
            peer: self.peer.clone(),
            name: self.name.clone(),
            made: Some(agent::Histogram::from(&self.made)).into(),
            failed: self.failed.to_vec(),
            broken: self.broken.to_vec(),
            retransmitted_segments: self.retransmitted,
            round_trip_us: self.round_trip_us,
            begun: self.begun,
            ..agent::Dependency::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn socket(event: u32, error: u32, host: u32) -> ClientSocket {
        let mut remote = [0; 16];
        remote[..4].copy_from_slice(&host.to_be_bytes());
        let base = ClientSocket { family: 2, remote, remote_port: 5432, ..ClientSocket::default() };
        ClientSocket { event, error, elapsed_ns: 2_000_000, round_trip_us: 150, retransmitted: 3, ..base }
    }

    fn record(dependencies: &mut Dependencies, event: u32, error: u32, host: u32) {
        dependencies.record(&socket(event, error, host), ContainerIndex(1), "shop-1", |_| None);
    }

    #[test]
    fn an_address_has_the_name_that_its_container_looked_up() {
        let mut dependencies = Dependencies::default();
        let connect = |dependencies: &mut Dependencies, host: u32, name: Option<&'static str>| {
            dependencies.record(&socket(client_event::MADE, 0, host), ContainerIndex(1), "shop-1", |_| name);
        };
        for (name, expected) in [
            (None, ""),
            (Some("a.example"), "a.example"),
            (None, "a.example"),
            (Some("b.example"), "b.example"),
        ] {
            connect(&mut dependencies, 1, name);
            assert_eq!(dependencies.changed_since(0)[0].name, expected);
        }
        for host in 2..2_000 {
            connect(&mut dependencies, host, Some("c.example"));
        }
        let all = dependencies.changed_since(0);
        assert!(all.iter().any(|one| one.peer == OTHER && one.name.is_empty()));
    }

    #[test]
    fn each_address_has_its_attempts_and_ends_by_reason() {
        let mut dependencies = Dependencies::default();
        for (event, error, host) in [
            (client_event::MADE, 0, 0x0a00_0001),
            (client_event::FAILED, 111, 0x0a00_0001),
            (client_event::FAILED, 0, 0x0a00_0001),
            (client_event::ENDED, 104, 0x0a00_0001),
            (client_event::ENDED, 0, 0x0a00_0001),
            (client_event::FAILED, 110, 0x0a00_0002),
        ] {
            record(&mut dependencies, event, error, host);
        }
        let all = dependencies.changed_since(0);
        let [first, second] = &all[..] else { panic!("{all:?}") };
        assert_eq!((first.container_id.as_str(), first.peer.as_str()), ("shop-1", "10.0.0.1:5432"));
        assert_eq!((first.made.count, first.retransmitted_segments, first.round_trip_us), (1, 6, 150));
        let of = |counts: &[u64], failure| counts[failure as usize];
        assert_eq!(of(&first.failed, Failure::Refused), 1);
        assert_eq!(of(&first.failed, Failure::Abandoned), 1);
        assert_eq!((of(&first.broken, Failure::Reset), first.broken.iter().sum::<u64>()), (1, 1));
        assert_eq!(of(&second.failed, Failure::TimedOut), 1);
        let version = dependencies.version();
        record(&mut dependencies, client_event::MADE, 0, 0x0a00_0002);
        let changed = dependencies.changed_since(version);
        assert_eq!(changed.iter().map(|one| one.peer.as_str()).collect::<Vec<_>>(), ["10.0.0.2:5432"]);
    }

    #[test]
    fn addresses_beyond_the_bound_are_counted_together() {
        let mut dependencies = Dependencies::default();
        for host in 0..2_000 {
            record(&mut dependencies, client_event::FAILED, 111, 0x0a00_0000 + host);
        }
        let all = dependencies.changed_since(0);
        assert!(all.len() <= DEPENDENCIES_MAX, "{}", all.len());
        assert_eq!(all.iter().flat_map(|one| &one.failed).sum::<u64>(), 2_000);
        assert!(all.iter().any(|one| one.peer == "other"));
        assert_eq!((dependencies.overflowed(), dependencies.dropped()), (2_000 - 224, 0));
    }

    #[test]
    fn addresses_of_which_nothing_came_for_a_while_make_room() {
        let mut dependencies = Dependencies::default();
        let unused = u64::try_from(UNUSED.as_nanos()).expect("fits");
        for host in 0..300 {
            record(&mut dependencies, client_event::MADE, 0, 0x0a00_0000 + host);
        }
        let before = dependencies.changed_since(1).swap_remove(0);
        for time in 1..=3 {
            dependencies.observe(time * unused);
            record(&mut dependencies, client_event::MADE, 0, 0x0a00_0000);
        }
        let version = dependencies.version();
        record(&mut dependencies, client_event::MADE, 0, 0x0a00_1000);
        assert_eq!(dependencies.changed_since(version).len(), 1);
        let all = dependencies.changed_since(0);
        assert_eq!(
            all.iter().map(|one| one.peer.as_str()).collect::<Vec<_>>(),
            ["10.0.0.0:5432", "10.0.16.0:5432"]
        );
        assert_eq!(all[0].made.count, 4, "in use all the time");
        // One that was forgotten begins anew, though its count is what it was.
        assert_eq!((before.peer.as_str(), before.made.count), ("10.0.0.1:5432", 1));
        record(&mut dependencies, client_event::MADE, 0, 0x0a00_0001);
        let all = dependencies.changed_since(0);
        let again = all.iter().find(|one| one.peer == before.peer).expect("it came again");
        assert_eq!(again.made.count, 1);
        assert!(again.begun > before.begun);
    }
}
