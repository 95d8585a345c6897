//! Recordings of real clients and servers.

use std::collections::BTreeMap;

use porthole_bpf_host::{agent::monitor::Mode, differential::Call};
use porthole_l7::{Direction, Side};

use crate::support::{Differences, turns};

macro_rules! recording {
    ($name:literal) => {
        ($name, include_str!(concat!("../../../../tests/recordings/", $name, ".txt")))
    };
}

/// Those of protocols that the programs parse.
const RECORDINGS: &[(&str, &str)] = &[
    recording!("mysql-mariadb-connector-python"),
    recording!("mysql-mariadb-program"),
    recording!("mysql-mariadb-pymysql"),
    recording!("postgresql-asyncpg"),
    recording!("postgresql-pg8000"),
    recording!("postgresql-programs"),
    recording!("postgresql-psycopg"),
];

/// Bytes of a connection up to which it is cut at each; of a longer one at so many.
const CUTS_MAX: usize = 300;

/// The connections of a recording, seen from one end.
fn connections(text: &str, observed: Side) -> Vec<Vec<Call>> {
    let mut all: BTreeMap<u32, Vec<Call>> = BTreeMap::new();
    for line in text.lines().filter(|line| !line.starts_with('#') && !line.is_empty()) {
        let words: Vec<&str> = line.split(' ').collect();
        let [number, _, way, hex] = words[..] else { panic!("a line of four words: {line}") };
        let bytes =
            (0..hex.len() / 2).map(|at| u8::from_str_radix(&hex[2 * at..2 * at + 2], 16).expect("hex"));
        let from_client = way == ">";
        let ingress = from_client == (observed == Side::Server);
        let direction = if ingress { Direction::Ingress } else { Direction::Egress };
        let calls = all.entry(number.parse().expect("a number")).or_default();
        calls.push(Call::new(direction, bytes.collect::<Vec<u8>>()));
    }
    all.into_values().collect()
}

#[test]
fn recordings_give_the_same_exchanges_however_their_calls_are_cut() {
    let mut differences = Differences::default();
    for (name, text) in RECORDINGS {
        let mut taken = 0;
        for observed in [Side::Server, Side::Client] {
            for (index, calls) in connections(text, observed).iter().enumerate() {
                let total: usize = calls.iter().map(|call| call.bytes.len()).sum();
                let stride = total.div_ceil(CUTS_MAX);
                let what = format!("{name}, connection {index}");
                differences.compare_however_cut(observed, calls, stride, &what);
                taken += turns(Mode::Offered, observed, calls)[0];
            }
        }
        assert!(taken > 0, "the programs followed no connection of {name}");
    }
    differences.assert_none();
}
