//! Statements that the kernel side counts by itself are what user space would have counted.

use std::{
    io::{Read, Write},
    net::TcpStream,
    sync::atomic::{AtomicBool, Ordering},
};

use porthole_agent_api::agent::Side;

use porthole_trials::{CannotRun, Outcome, Trial, trials};

use crate::{
    harness::Agent,
    offers::until_counted,
    offload::{Counts, Dice, EVERY_SPAN, KERNEL, USER_SPACE, assert_equal, counts},
    running::{self, Running},
};

/// The tests of this file.
pub fn tests() -> Vec<Trial> {
    trials![
        kernel_and_user_space_count_the_same_mysql_statements,
        kernel_and_user_space_count_the_same_postgresql_statements,
        mysql_statements_that_are_known_cost_no_copies,
        mysql_executions_that_are_known_cost_no_copies,
        postgresql_statements_that_are_known_cost_no_copies,
        busy_connections_of_mysql_are_taken,
        busy_connections_of_postgresql_are_taken,
    ]
}

const RAW_TRACEPOINTS: &[&str] = &["--ring-kib", "16384", "--cpu-share", "0", "--hooks", "raw-tracepoint"];

/// A connection that reads random amounts at once.
struct Wire {
    stream: TcpStream,
    /// Without, it reads what there is.
    dice: Option<Dice>,
    read: Vec<u8>,
}

impl Wire {
    fn connect(server: &Running, dice: Option<Dice>) -> Self {
        let stream = TcpStream::connect(("127.0.0.1", server.port)).expect("connected");
        stream.set_nodelay(true).expect("set");
        Self { stream, dice, read: Vec::new() }
    }

    fn take(&mut self, count: usize) -> Vec<u8> {
        while self.read.len() < count {
            let mut below = |bound| self.dice.as_mut().map_or(bound, |dice| dice.below(bound));
            let most = match below(8) {
                0 => 1 + below(16),
                1 => 1 + below(3_000),
                _ => 16_384,
            };
            let mut buffer = vec![0; most];
            let n = self.stream.read(&mut buffer).expect("answered");
            assert!(n > 0, "still open");
            self.read.extend_from_slice(&buffer[..n]);
        }
        self.read.drain(..count).collect()
    }

    fn send(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).expect("sent");
    }
}

/// A client of a database, by its protocol's own bytes.
trait Client {
    fn login(wire: Wire) -> Self;
    fn wire(&mut self) -> &mut Wire;
    /// The message of a statement.
    fn message(statement: &str) -> Vec<u8>;
    /// Reads an answer to its end.
    fn answer(&mut self);
    /// Sends what only user space follows.
    fn odd(&mut self);
    /// Executes a prepared statement that is kept.
    fn execute(&mut self, number: usize);
    /// Statements that only this database knows.
    fn own(number: usize) -> Vec<String>;

    fn ask(&mut self, statement: &str) {
        self.wire().send(&Self::message(statement));
        self.answer();
    }
}

struct Mysql {
    wire: Wire,
    deprecate_eof: bool,
    cache_metadata: bool,
    /// The server's number of the statement that is kept.
    kept: Option<[u8; 4]>,
}

impl Mysql {
    fn packet(&mut self) -> Vec<u8> {
        let head = self.wire.take(4);
        let len = usize::from(head[0]) | usize::from(head[1]) << 8 | usize::from(head[2]) << 16;
        self.wire.take(len)
    }

    fn framed(sequence: u8, payload: &[u8]) -> Vec<u8> {
        let len = u32::try_from(payload.len()).expect("short").to_le_bytes();
        [&len[..3], &[sequence], payload].concat()
    }

    fn prepare(&mut self, statement: &str, parameter: bool) -> [u8; 4] {
        self.wire.send(&Self::framed(0, &[b"\x16", statement.as_bytes()].concat()));
        let prepared = self.packet();
        let columns = usize::from(prepared[5]);
        for (definitions, follow) in [(1, parameter), (columns, true)] {
            if follow {
                for _ in 0..definitions + usize::from(!self.deprecate_eof) {
                    self.packet();
                }
            }
        }
        prepared[1..5].try_into().expect("four")
    }

    /// Reads one result; returns whether another follows.
    fn result(&mut self) -> bool {
        const MORE_RESULTS: u8 = 8;
        let is_end = |packet: &[u8]| packet[0] == 0xfe && packet.len() < 100;
        let ok_flags = |packet: &[u8]| packet[packet.len() - 4..][0];
        let first = self.packet();
        match first[0] {
            // No statement of the test's affects so many rows, or has so long a message, that the flags are at another place.
            0 => return first[3] & MORE_RESULTS != 0,
            0xff => return false,
            _ => {}
        }
        let columns =
            if first[0] == 0xfc { u16::from_le_bytes([first[1], first[2]]) } else { first[0].into() };
        if !self.cache_metadata || first.last() == Some(&1) {
            for _ in 0..columns {
                self.packet();
            }
        }
        if !self.deprecate_eof {
            assert!(is_end(&self.packet()));
        }
        loop {
            let row = self.packet();
            if row[0] == 0xff {
                return false;
            }
            if is_end(&row) {
                let flags = if row.len() == 5 { row[3] } else { ok_flags(&row) };
                return flags & MORE_RESULTS != 0;
            }
        }
    }
}

impl Client for Mysql {
    fn login(wire: Wire) -> Self {
        // `CLIENT_PROTOCOL_41`, `CLIENT_SECURE_CONNECTION`, `CLIENT_MULTI_STATEMENTS`, `CLIENT_MULTI_RESULTS`,
        // `CLIENT_PLUGIN_AUTH`; `CLIENT_DEPRECATE_EOF`; `MARIADB_CLIENT_CACHE_METADATA`, among MariaDB's own.
        const CAPABILITIES: u32 = 0x200 | 0x8000 | 0x1_0000 | 0x2_0000 | 0x8_0000;
        const DEPRECATE_EOF: u32 = 0x100_0000;
        const CACHE_METADATA: u32 = 1 << 4;
        let may = |one: u64| wire.dice.as_ref().is_none_or(|dice| dice.0 & one == 0);
        let mut client = Self { deprecate_eof: may(1), cache_metadata: may(2), kept: None, wire };
        client.packet();
        let capabilities = CAPABILITIES | if client.deprecate_eof { DEPRECATE_EOF } else { 0 };
        let own = if client.cache_metadata { CACHE_METADATA } else { 0 };
        let hello = [
            &capabilities.to_le_bytes()[..],
            &[0, 0, 0, 1, 33],
            &[0; 19],
            &own.to_le_bytes(),
            b"root\0\0mysql_native_password\0",
        ];
        client.wire.send(&Self::framed(1, &hello.concat()));
        assert_eq!(client.packet()[0], 0, "let in");
        client.ask("CREATE DATABASE IF NOT EXISTS d");
        client.ask("USE d");
        client
    }

    fn wire(&mut self) -> &mut Wire {
        &mut self.wire
    }

    fn message(statement: &str) -> Vec<u8> {
        Self::framed(0, &[b"\x03", statement.as_bytes()].concat())
    }

    fn answer(&mut self) {
        while self.result() {}
    }

    fn odd(&mut self) {
        // Prepared, executed, closed.
        let id = self.prepare("SELECT name FROM counted_t WHERE id = 1", false);
        self.wire.send(&Self::framed(0, &[b"\x17", &id[..], &[0, 1, 0, 0, 0]].concat()));
        self.answer();
        self.wire.send(&Self::framed(0, &[b"\x19", &id[..]].concat()));
    }

    fn execute(&mut self, number: usize) {
        let id = match self.kept {
            Some(id) => id,
            None => self.prepare("SELECT id, name FROM counted_t WHERE id = ?", true),
        };
        self.kept = Some(id);
        // No cursor, once; nothing is null; an integer.
        let number = u32::try_from(number).expect("small").to_le_bytes();
        let execution = [b"\x17", &id[..], &[0, 1, 0, 0, 0], &[0, 1, 3, 0], &number[..]].concat();
        self.wire.send(&Self::framed(0, &execution));
        self.answer();
    }

    fn own(number: usize) -> Vec<String> {
        vec![
            "SELECT 1 FROM counted_t LIMIT 1; SELECT 2; UPDATE counted_t SET name = 'b' WHERE id = 7".into(),
            format!("SELECT name FROM `counted_t` WHERE name = \"it's {number}\""),
        ]
    }
}

struct Postgres {
    wire: Wire,
}

impl Postgres {
    fn framed(kind: u8, content: &[u8]) -> Vec<u8> {
        let len = u32::try_from(content.len() + 4).expect("short").to_be_bytes();
        [&[kind][..], &len, content].concat()
    }
}

impl Client for Postgres {
    fn login(mut wire: Wire) -> Self {
        let parameters = b"\0\x03\0\0user\0postgres\0database\0postgres\0\0";
        wire.send(&Self::framed(0, parameters)[1..]);
        let mut client = Self { wire };
        client.answer();
        client
    }

    fn wire(&mut self) -> &mut Wire {
        &mut self.wire
    }

    fn message(statement: &str) -> Vec<u8> {
        Self::framed(b'Q', &[statement.as_bytes(), &[0]].concat())
    }

    fn answer(&mut self) {
        loop {
            let head = self.wire.take(5);
            let len = u32::from_be_bytes(head[1..5].try_into().expect("four"));
            self.wire.take(len as usize - 4);
            if head[0] == b'Z' {
                return;
            }
        }
    }

    fn odd(&mut self) {
        let messages = [
            Self::framed(b'P', b"\0SELECT name FROM counted_t WHERE id = 1\0\0\0"),
            Self::framed(b'B', &[0; 8]),
            Self::framed(b'E', &[0; 5]),
            Self::framed(b'S', b""),
        ];
        self.wire.send(&messages.concat());
        self.answer();
        self.ask("SELECT 1 FROM counted_t LIMIT 1; SELECT 2; COMMIT");
    }

    fn execute(&mut self, number: usize) {
        self.ask(&format!("SELECT id FROM counted_t WHERE id = {number}"));
    }

    fn own(number: usize) -> Vec<String> {
        vec![
            // Only the server's tag has the operation of these.
            "ABORT".into(),
            "SET application_name = 'reports itself'".into(),
            format!("SELECT \"name\" FROM \"counted_t\" WHERE name = E'it\\'s {number}'"),
            "DO $$ BEGIN RAISE NOTICE 'it''s a notice'; END $$".into(),
            format!("SELECT id / (id - {number}) FROM counted_t ORDER BY id"),
        ]
    }
}

/// Sends one statement after the other on several connections; statements are the same each time.
fn traffic<C: Client>(server: &Running, agent: &mut Agent) {
    let mut dice = Dice(99);
    let mut clients: Vec<C> = (1..9).map(|seed| C::login(Wire::connect(server, Some(Dice(seed))))).collect();
    clients[0].ask("DROP TABLE IF EXISTS counted_t");
    clients[0].ask("CREATE TABLE counted_t (id INTEGER PRIMARY KEY, name VARCHAR(200))");
    for id in 0..200 {
        clients[0].ask(&format!("INSERT INTO counted_t VALUES ({id}, '{}')", "n".repeat(id)));
    }
    for round in 0..10 {
        // What comes next finds the connections in the kernel, if anything does.
        agent.catch_up();
        agent.catch_up();
        for number in 0..100 * clients.len() {
            let client = dice.below(clients.len());
            let client = &mut clients[client];
            match dice.below(40) {
                0 if round % 3 == 1 => client.odd(),
                0 if round % 3 == 2 => {
                    // Cut between two calls.
                    let message = C::message("SELECT name FROM counted_t WHERE id = 8");
                    let cut = 1 + dice.below(message.len() - 1);
                    client.wire().send(&message[..cut]);
                    std::thread::yield_now();
                    client.wire().send(&message[cut..]);
                    client.answer();
                }
                1 if round % 3 == 1 => {
                    // Longer than what the kernel looks at.
                    client.ask(&format!("SELECT {} FROM counted_t WHERE id = 5", ["id"; 400].join(", ")));
                }
                2..6 => {
                    let own = C::own(number);
                    client.ask(&own[dice.below(own.len())]);
                }
                6 => client.ask("SELECT nothing FROM counted_t"),
                7 => client.ask(&format!("INSERT INTO counted_t VALUES ({}, 'there')", number % 200)),
                8 => client
                    .ask(&format!("SELECT a.* FROM counted_t a, counted_t b LIMIT {}", dice.below(2_000))),
                9 => {
                    // Ended before another connection would have to wait for it.
                    for statement in ["BEGIN", "SELECT nothing FROM counted_t", "COMMIT"] {
                        client.ask(statement);
                    }
                }
                10 => client.ask("COMMIT"),
                20..24 => client.execute(number % 300),
                11 => client.ask(&format!("/* trace {number} */ SELECT name FROM counted_t WHERE id = 1")),
                12 => client.ask(&format!("SELECT * FROM counted_t WHERE id < {}", dice.below(200))),
                13..20 => {
                    // A table of this connection alone, so that none waits.
                    client.ask(&format!("SELECT count(*) FROM counted_t WHERE name = 'it''s {number}'"));
                }
                _ => client.ask(&format!("SELECT name FROM counted_t WHERE id = {}", number % 300)),
            }
        }
    }
    for client in &mut clients {
        // Shows that the answer before has ended, where its end was not captured.
        client.ask("COMMIT");
    }
    agent.catch_up();
}

/// What was counted of the traffic: exchanges and sizes of requests, sizes of answers, and events that were lost.
fn counted<C: Client>(
    server: impl Fn() -> Result<Running, CannotRun>,
    arguments: &[&str],
) -> Result<(Counts, u64, u64), CannotRun> {
    let server = server()?;
    let mut agent = Agent::start(arguments)?;
    traffic::<C>(&server, &mut agent);
    // Other tests send requests to their servers, too, while these start.
    let mut found = counts(&agent, |operation, resource| {
        let own = ["BEGIN", "COMMIT", "ROLLBACK", "DO", "SET"].contains(&operation);
        resource == "counted_t" || (resource.is_empty() && own)
    });
    // Where long answers come in small pieces user space finds their end a few bytes too early or too late.
    let bytes = found.values_mut().map(|counts| std::mem::take(&mut counts.2)).sum();
    Ok((found, bytes, agent.counters.events_lost))
}

/// Runs in which both ways lose something may differ, and are repeated.
fn assert_counted_alike<C: Client>(server: impl Fn() -> Result<Running, CannotRun>) -> Outcome {
    for arguments in [KERNEL, EVERY_SPAN, RAW_TRACEPOINTS] {
        for attempt in 0.. {
            let (expected, bytes, lost) = counted::<C>(&server, USER_SPACE)?;
            assert!(expected.values().map(|counts| counts.0).sum::<u64>() > 10_000, "{expected:#?}");
            let (found, same, also_lost) = counted::<C>(&server, arguments)?;
            if found == expected && same.abs_diff(bytes) < bytes / 1_000 {
                break;
            }
            if lost + also_lost == 0 || attempt == 4 {
                assert_equal(&found, &expected);
                panic!("{bytes} bytes, {same} by the kernel");
            }
        }
    }
    Ok(())
}

fn kernel_and_user_space_count_the_same_mysql_statements() -> Outcome {
    assert_counted_alike::<Mysql>(running::mariadb)
}

fn kernel_and_user_space_count_the_same_postgresql_statements() -> Outcome {
    assert_counted_alike::<Postgres>(running::postgres)
}

/// Repeats one request, in one way or the other.
fn assert_no_copies<C: Client>(server: &Running, ask: fn(&mut C, usize)) -> Outcome {
    const MANY: u64 = 5_000;
    let mut agent = Agent::start(KERNEL)?;
    let mut client = C::login(Wire::connect(server, None));
    client.ask("CREATE TABLE counted_t (id INTEGER PRIMARY KEY, name VARCHAR(9))");
    let mut number = 0;
    let mut ask = || {
        number += 1;
        ask(&mut client, number);
    };
    let mut done = until_counted(&mut agent, &mut ask, 100);
    let before = agent.counters.bytes_copied;
    for _ in 0..MANY {
        ask();
    }
    done += MANY;
    agent.catch_up();
    let copied = agent.counters.bytes_copied - before;
    assert!(copied < MANY, "{copied} bytes for {MANY} statements at both ends");
    for side in [Side::SIDE_SERVER, Side::SIDE_CLIENT] {
        let selects = agent.series(side, "counted_t").into_iter().filter(|one| one.key.operation == "SELECT");
        assert_eq!(selects.map(|one| one.duration.count).sum::<u64>(), done, "{side:?}");
    }
    Ok(())
}

fn query<C: Client>(client: &mut C, number: usize) {
    client.ask(&format!("SELECT id FROM counted_t WHERE id = {number}"));
}

fn mysql_statements_that_are_known_cost_no_copies() -> Outcome {
    let server = running::mariadb()?;
    assert_no_copies::<Mysql>(&server, query)
}

fn mysql_executions_that_are_known_cost_no_copies() -> Outcome {
    let server = running::mariadb()?;
    assert_no_copies::<Mysql>(&server, Mysql::execute)
}

fn postgresql_statements_that_are_known_cost_no_copies() -> Outcome {
    let server = running::postgres()?;
    assert_no_copies::<Postgres>(&server, query)
}

/// Ends the client, whatever the test's outcome.
struct Asking<'a>(&'a AtomicBool);

impl Drop for Asking<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Connections on which the next question follows each answer at once.
fn assert_busy_ones_are_taken<C: Client>(server: &Running) -> Outcome {
    let mut agent = Agent::start(KERNEL)?;
    C::login(Wire::connect(server, None)).ask("CREATE TABLE counted_t (id INTEGER PRIMARY KEY)");
    let done = AtomicBool::new(false);
    let asked: usize = std::thread::scope(|scope| {
        let ask = || {
            let mut client = C::login(Wire::connect(server, None));
            let mut number = 0;
            while !done.load(Ordering::Relaxed) {
                number += 1;
                query(&mut client, number);
            }
            number
        };
        let clients: Vec<_> = (0..4).map(|_| scope.spawn(ask)).collect();
        let asking = Asking(&done);
        let mut before = agent.counters.clone();
        agent.until("the kernel counts", |agent| {
            let now = &agent.counters;
            let exchanges = now.exchanges - before.exchanges;
            let copied = now.bytes_copied - before.bytes_copied;
            if exchanges < 1_000 {
                return None;
            }
            before = now.clone();
            (copied < exchanges).then_some(())
        });
        drop(asking);
        clients.into_iter().map(|client| client.join().expect("sent")).sum()
    });
    agent.catch_up();
    for side in [Side::SIDE_SERVER, Side::SIDE_CLIENT] {
        let selects = agent.series(side, "counted_t").into_iter().filter(|one| one.key.operation == "SELECT");
        let counted = selects.map(|one| one.duration.count).sum::<u64>();
        let lost = agent.counters.events_lost + agent.counters.unparsed;
        let asked = asked as u64;
        assert!(counted <= asked && counted + lost >= asked, "{side:?}: {counted} of {asked}, {lost} lost");
    }
    Ok(())
}

fn busy_connections_of_mysql_are_taken() -> Outcome {
    let server = running::mariadb()?;
    assert_busy_ones_are_taken::<Mysql>(&server)
}

fn busy_connections_of_postgresql_are_taken() -> Outcome {
    let server = running::postgres()?;
    assert_busy_ones_are_taken::<Postgres>(&server)
}
