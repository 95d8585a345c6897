//! Real databases, by TCP and by unix sockets.

use std::{
    path::Path,
    process::{Child, Command, Stdio},
};

use porthole_proto::agent::{ErrorClass, Protocol, Side};

use crate::harness::{Agent, not_run, wait_for};

/// A server that ends with the test.
struct Server(Child);

impl Drop for Server {
    fn drop(&mut self) {
        let pid = libc::pid_t::try_from(self.0.id()).expect("a pid");
        // SAFETY: a child of ours that was not waited for.
        unsafe { libc::kill(pid, libc::SIGQUIT) };
        let _ = self.0.wait();
    }
}

/// Whether a program is there; says so when it is not.
fn installed(program: &str) -> bool {
    let there = Path::new(program).exists() || Command::new(program).arg("--version").output().is_ok();
    if !there {
        not_run::<()>(&format!("{program} is not installed"));
    }
    there
}

fn quiet(program: &str, arguments: &[&str]) -> bool {
    let mut command = Command::new(program);
    command.args(arguments).env("PGUSER", "postgres");
    command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|status| status.success())
}

/// A port on which nothing listens.
fn free_port() -> String {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("bound");
    listener.local_addr().expect("an address").port().to_string()
}

/// A directory that this user owns.
fn directory_of(user: &str) -> tempfile::TempDir {
    let directory = tempfile::tempdir().expect("directory");
    assert!(quiet("chown", &[user, directory.path().to_str().expect("text")]));
    directory
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

/// Asserts that everything was counted on both sides; where the machine was too busy, that no more was, and that the
/// loss shows.
fn assert_found(agent: &Agent, table: &str, protocol: Protocol, expected: &[(&str, &str, ErrorClass, u64)]) {
    let (found, expected) = (found(agent, table, protocol), both(expected));
    if agent.counters.events_lost == 0 {
        assert_eq!(found, expected, "{table}");
    }
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

#[test]
fn mariadbs_statements_are_counted_on_both_sides() {
    if !["mariadbd", "mariadb", "mariadb-install-db"].into_iter().all(installed) {
        return;
    }
    let Some(mut agent) = Agent::start(&[]) else { return };
    let directory = directory_of("mysql");
    let data = directory.path().to_str().expect("text");
    let (datadir, socket, port) = (format!("--datadir={data}"), format!("{data}/s"), free_port());
    let install = ["--no-defaults", "--user=mysql", &datadir, "--auth-root-authentication-method=normal"];
    assert!(quiet("mariadb-install-db", &install));
    let _server = Server(
        Command::new("mariadbd")
            .args(["--no-defaults", "--user=mysql", &datadir, "--bind-address=127.0.0.1"])
            .args([format!("--socket={socket}"), format!("--port={port}"), format!("--pid-file={data}/pid")])
            .stderr(Stdio::null())
            .spawn()
            .expect("mariadbd"),
    );
    let by_socket = ["--no-defaults", "--force", "-uroot", "-S", &socket, "-e"];
    wait_for("mariadbd answers", || {
        quiet("mariadb", &[&by_socket[..], &["SELECT 1"]].concat()).then_some(())
    });
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
}

#[test]
fn postgresqls_statements_are_counted_on_both_sides() {
    // Debian 12 and 13.
    let known = ["/usr/lib/postgresql/15/bin", "/usr/lib/postgresql/17/bin"];
    let found = known.into_iter().find(|path| Path::new(path).exists());
    let programs = std::env::var("PG_BIN").unwrap_or_else(|_| found.unwrap_or(known[0]).to_owned());
    let [initdb, postgres, psql] =
        ["initdb", "postgres", "psql"].map(|program| format!("{programs}/{program}"));
    if !installed(&postgres) {
        return;
    }
    let Some(mut agent) = Agent::start(&[]) else { return };
    let directory = directory_of("postgres");
    let data = directory.path().to_str().expect("text");
    let (database, port) = (format!("{data}/db"), free_port());
    let as_user = ["--reuid=postgres", "--regid=postgres", "--init-groups"];
    assert!(quiet("setpriv", &[&as_user[..], &[&initdb, "-D", &database, "-A", "trust"]].concat()));
    let _server = Server(
        Command::new("setpriv")
            .args(as_user)
            .args([&postgres, "-D", &database, "-p", &port, "-k", data, "-c", "listen_addresses=127.0.0.1"])
            .stderr(Stdio::null())
            .spawn()
            .expect("setpriv"),
    );
    let by_socket = ["-h", data, "-p", &port, "-c"];
    wait_for("postgres answers", || quiet(&psql, &[&by_socket[..], &["SELECT 1"]].concat()).then_some(()));
    let by_port = ["-h", "127.0.0.1", "-p", &port, "-c"];
    for (table, client) in [("by_socket", by_socket), ("by_port", by_port)] {
        let (connect, text) = client.split_at(4);
        let create = format!("CREATE TABLE public.{table} (id int, name text)");
        let file = format!("{data}/{table}.sql");
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
}
