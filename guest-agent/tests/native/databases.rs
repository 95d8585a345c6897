//! Real databases, by TCP and by unix sockets.

use porthole_agent_api::{agent::ErrorClass, agent::Protocol, agent::Side};

use porthole_trials::{Outcome, Trial, trials};

use crate::{
    harness::Agent,
    running::{self, quiet},
};

/// The tests of this file.
pub fn tests() -> Vec<Trial> {
    trials![mariadbs_statements_are_counted_on_both_sides, postgresqls_statements_are_counted_on_both_sides,]
}

/// Of one table: exchanges by side, operation and status.
fn found(agent: &Agent, table: &str, protocol: Protocol) -> Vec<(Side, String, String, ErrorClass, u64)> {
    let mut found = Vec::new();
    for side in [Side::SIDE_SERVER, Side::SIDE_CLIENT] {
        for series in agent.series(side, table) {
            assert_eq!(series.key.protocol.enum_value(), Ok(protocol));
            let key = &series.key;
            let error = key.error.enum_value().expect("known");
            found.push((side, key.operation.clone(), key.status.clone(), error, series.duration.count));
        }
    }
    found.sort_by(|a, b| (a.0 as i32, &a.1, &a.2).cmp(&(b.0 as i32, &b.1, &b.2)));
    found
}

/// Asserts that everything was counted on both sides, or that the agent reports what is missing.
fn assert_found(agent: &Agent, table: &str, protocol: Protocol, expected: &[(&str, &str, ErrorClass, u64)]) {
    let (found, expected) = (found(agent, table, protocol), both(expected));
    let counters = &agent.counters;
    if counters.events_lost == 0 && counters.unparsed == 0 {
        assert_eq!(found, expected, "{table}");
    }
    let sum = |all: &[(Side, String, String, ErrorClass, u64)]| all.iter().map(|one| one.4).sum::<u64>();
    let missing = sum(&expected) - sum(&found);
    assert!(missing <= counters.events_lost + counters.unparsed, "{missing} missing, {counters:?}");
    for (side, operation, status, error, count) in found {
        let most = expected
            .iter()
            .find(|known| (known.0, &known.1, &known.2, known.3) == (side, &operation, &status, error));
        assert!(most.is_some_and(|most| count <= most.4), "{table}: {side:?} {operation} {status} {count}");
    }
}

/// The same on both sides.
fn both(expected: &[(&str, &str, ErrorClass, u64)]) -> Vec<(Side, String, String, ErrorClass, u64)> {
    let mut both = Vec::new();
    for side in [Side::SIDE_SERVER, Side::SIDE_CLIENT] {
        for (operation, status, error, count) in expected {
            both.push((side, (*operation).to_owned(), (*status).to_owned(), *error, *count));
        }
    }
    both.sort_by(|a, b| (a.0 as i32, &a.1, &a.2).cmp(&(b.0 as i32, &b.1, &b.2)));
    both
}

/// Statements, of which some have longer results than are captured.
fn statements(mark: &str) -> String {
    let pair = |number| {
        let name = "x".repeat(600);
        format!(
            "INSERT INTO {mark} VALUES ({number}, '{name}');\nSELECT * FROM {mark} WHERE id <= {number};\n"
        )
    };
    let pairs: String = (0..30).map(pair).collect();
    format!("{pairs}UPDATE {mark} SET nothing = 1;\n")
}

fn mariadbs_statements_are_counted_on_both_sides() -> Outcome {
    let server = running::mariadb()?;
    let mut agent = Agent::start(&[])?;
    let (socket, port) = (server.path("s"), server.port.to_string());
    let by_socket = ["--no-defaults", "--force", "-uroot", "-S", &socket, "-e"];
    let by_port = ["--no-defaults", "--force", "-uroot", "-h127.0.0.1", "-P", &port, "-e"];
    for (table, client) in [("by_socket", &by_socket[..]), ("by_port", &by_port)] {
        let create = format!("CREATE DATABASE d_{table}; CREATE TABLE d_{table}.t (id int, name text)");
        assert!(quiet("mariadb", &[client, &[&create]].concat()));
        let table = format!("d_{table}.t");
        let text = statements(&table);
        quiet("mariadb", &[client, &[&text]].concat());
        agent.catch_up();
        let expected = [
            ("CREATE", "", ErrorClass::ERROR_CLASS_NONE, 1),
            ("INSERT", "", ErrorClass::ERROR_CLASS_NONE, 30),
            ("SELECT", "", ErrorClass::ERROR_CLASS_NONE, 30),
            ("UPDATE", "1054", ErrorClass::ERROR_CLASS_CLIENT, 1),
        ];
        assert_found(&agent, &table, Protocol::PROTOCOL_MYSQL, &expected);
    }
    Ok(())
}

fn postgresqls_statements_are_counted_on_both_sides() -> Outcome {
    let server = running::postgres()?;
    let mut agent = Agent::start(&[])?;
    let (data, port) = (server.path(""), server.port.to_string());
    let psql = running::postgres_program("psql");
    let by_socket = ["-h", &data, "-p", &port, "-c"];
    let by_port = ["-h", "127.0.0.1", "-p", &port, "-c"];
    for (table, client) in [("by_socket", by_socket), ("by_port", by_port)] {
        let (connect, text) = client.split_at(4);
        let create = format!("CREATE TABLE public.{table} (id int, name text)");
        let file = server.path(&format!("{table}.sql"));
        let table = format!("public.{table}");
        std::fs::write(&file, statements(&table)).expect("written");
        assert!(quiet(&psql, &[connect, text, &[&create]].concat()));
        quiet(&psql, &[connect, &["-f", &file]].concat());
        agent.catch_up();
        let expected = [
            ("CREATE", "", ErrorClass::ERROR_CLASS_NONE, 1),
            ("INSERT", "", ErrorClass::ERROR_CLASS_NONE, 30),
            ("SELECT", "", ErrorClass::ERROR_CLASS_NONE, 30),
            ("UPDATE", "42703", ErrorClass::ERROR_CLASS_CLIENT, 1),
        ];
        assert_found(&agent, &table, Protocol::PROTOCOL_POSTGRESQL, &expected);
    }
    Ok(())
}
