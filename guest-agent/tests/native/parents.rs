//! Below which request a server's calls are put, with 100 requests at a time: what is claimed is right.
//!
//! The servers are in `parents/`, each with what its people use. Each request has a length of its own, which the server's call for
//! it has, too: spans have sizes, so they show which call was made for which request.

use std::{
    collections::HashMap,
    io::Write,
    net::{SocketAddr, TcpListener},
    path::{Path, PathBuf},
    process::Command,
    thread,
    time::Duration,
};

use porthole_agent_api::agent::{ParentCertainty, Side, Span};

use porthole_trials::{CannotRun, Outcome, Trial, needs, trials};

mod client;

use self::client::{Client, Kind};
use crate::{
    harness::Agent,
    http,
    languages::{compile, go_build, large, serve},
    running,
};

/// The tests of this file.
pub fn tests() -> Vec<Trial> {
    trials![
        calls_of_python_threads_are_below_their_requests,
        calls_of_an_event_loop_of_python_are_below_its_only_request,
        calls_of_nginx_are_below_its_only_request,
        calls_of_goroutines_are_below_their_requests,
        calls_of_go_to_mysql_are_below_their_requests,
        calls_of_go_to_postgresql_are_below_their_requests,
        calls_of_go_to_redis_are_below_their_requests,
        calls_of_gos_http_client_are_below_its_only_request,
        calls_of_node_are_below_its_only_request,
        calls_of_java_threads_are_below_their_requests,
        calls_of_java_virtual_threads_are_below_its_only_request,
        calls_for_a_response_that_ends_with_its_connection_are_below_no_other_request,
        calls_of_a_server_of_http2_are_below_its_only_request,
        calls_of_a_server_of_grpc_are_below_its_only_request,
    ]
}

/// Requests at a time, and of each connection. The longest one fits into nginx's buffer: what it reads in two calls is not aggregated.
const CONNECTIONS: usize = 100;
const REQUESTS: usize = 9;

/// What is called: it takes some time, another one for each request. Not so little that there are more spans than the agent keeps.
fn backend() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("bound");
    let address = listener.local_addr().expect("address");
    thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.expect("accepted");
            thread::spawn(move || {
                while let Some(head) = http::read_head(&mut stream) {
                    thread::sleep(Duration::from_millis(100 + (head.len() * 7919 % 80) as u64));
                    if stream.write_all(http::OK).is_err() {
                        return;
                    }
                }
            });
        }
    });
    address
}

/// Sends each request of a round once, many at a time.
fn send(agent: &mut Agent, (port, kind): (u16, Kind), connections: usize) {
    let clients = (0..connections).map(|client| {
        thread::spawn(move || {
            let mut connected = Client::connect(port, kind);
            for round in 0..REQUESTS {
                connected.send(round * connections + client);
            }
        })
    });
    for client in clients.collect::<Vec<_>>() {
        while !client.is_finished() {
            agent.next_batch();
        }
        client.join().expect("no panic");
    }
}

/// How many calls there are below the right request, below another one, below one whose span was lost, and below none.
#[derive(Debug, Default)]
struct Parents {
    right: usize,
    wrong: usize,
    lost: usize,
    none: usize,
    /// Of all of them, those that an event loop made for the only request that it had, those that goroutines made, and those that a
    /// process made for the only request that it had.
    by_task: usize,
    by_goroutine: usize,
    by_process: usize,
}

/// The same with many requests at a time, and with one.
#[derive(Debug)]
struct Measured {
    many: Parents,
    one: Parents,
}

/// Sends requests to a server at this port, which calls the other one; `agent` is there since before the server.
fn measure(agent: &mut Agent, what: &str, port: u16, backend: SocketAddr) -> Measured {
    measure_by(agent, what, (port, Kind::Kept), backend)
}

/// The same with requests of a kind.
fn measure_by(agent: &mut Agent, what: &str, (port, kind): (u16, Kind), backend: SocketAddr) -> Measured {
    // The programs know by then what recurs.
    send(agent, (port, kind), CONNECTIONS);
    agent.catch_up();
    agent.spans.clear();
    Client::connect(port, kind).send(0);
    agent.catch_up();
    let shortest_of = |of: &dyn Fn(&Span) -> bool| {
        let spans = agent.spans.iter().filter(|span| of(span));
        spans.map(|span| span.request_bytes).min().expect("a request and a call")
    };
    let front = format!("127.0.0.1:{port}");
    let shortest =
        [shortest_of(&|span| span.local == front), shortest_of(&|span| span.remote == backend.to_string())];
    let mut of = |connections: usize| {
        agent.spans.clear();
        send(agent, (port, kind), connections);
        agent.catch_up();
        let parents = parents(agent, port, backend, shortest);
        let calls = parents.right + parents.wrong + parents.lost + parents.none;
        // Spans of what else runs on this machine can take the place of some.
        assert!(calls > 0, "{parents:?}");
        parents
    };
    let measured = Measured { many: of(CONNECTIONS), one: of(1) };
    println!("{what}: {measured:?}, {} spans dropped", agent.counters.spans_dropped);
    measured
}

/// Below which requests to a port the calls are; the shortest one of each has this length.
fn parents(agent: &Agent, port: u16, backend: SocketAddr, [shortest_request, shortest]: [u64; 2]) -> Parents {
    let series: HashMap<u32, Side> = [Side::SIDE_SERVER, Side::SIDE_CLIENT]
        .into_iter()
        .flat_map(|side| agent.all(side).into_iter().map(move |series| (series.id, side)))
        .collect();
    let of = |side: Side| {
        let is = |span: &&Span| series.get(&span.series_id) == Some(&side);
        agent.spans.iter().filter(is).collect::<Vec<_>>()
    };
    let front = format!("127.0.0.1:{port}");
    let number = |span: &Span, shortest: u64| span.request_bytes - shortest;
    let servers: HashMap<u64, u64> = of(Side::SIDE_SERVER)
        .into_iter()
        .filter(|span| span.local == front)
        .map(|span| (span.number, number(span, shortest_request)))
        .collect();
    let calls: Vec<&Span> =
        of(Side::SIDE_CLIENT).into_iter().filter(|span| span.remote == backend.to_string()).collect();
    let mut parents = Parents::default();
    for call in &calls {
        if call.parent == 0 {
            // What is longer was made for no request.
            parents.none += usize::from(number(call, shortest) < (CONNECTIONS * REQUESTS) as u64);
            continue;
        }
        let certainty = call.certainty.enum_value_or_default();
        assert_ne!(certainty, ParentCertainty::PARENT_CERTAINTY_UNSPECIFIED);
        parents.by_task += usize::from(certainty == ParentCertainty::PARENT_CERTAINTY_TASK);
        parents.by_goroutine += usize::from(certainty == ParentCertainty::PARENT_CERTAINTY_GOROUTINE);
        parents.by_process += usize::from(certainty == ParentCertainty::PARENT_CERTAINTY_PROCESS);
        match servers.get(&call.parent) {
            Some(&request) if request == number(call, shortest) => parents.right += 1,
            Some(_) => parents.wrong += 1,
            None => parents.lost += 1,
        }
    }
    parents
}

/// An agent that reports every exchange.
fn agent() -> Result<Agent, CannotRun> {
    Agent::start(&["--span-interval-ms", "0", "--spans-per-second", "1000000"])
}

fn source(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/native/parents").join(name)
}

/// The same of a program that prints its port.
fn of_program(what: &str, program: impl FnOnce(&str) -> Command) -> Result<Measured, CannotRun> {
    of_program_by(what, Kind::Kept, program)
}

/// The same with requests of a kind.
fn of_program_by(
    what: &str,
    kind: Kind,
    program: impl FnOnce(&str) -> Command,
) -> Result<Measured, CannotRun> {
    let mut agent = agent()?;
    let backend = backend();
    let (_server, port) = serve(&mut program(&backend.port().to_string()));
    Ok(measure_by(&mut agent, what, (port.parse().expect("a port"), kind), backend))
}

/// All calls that were seen are below their requests, whose spans can be lost.
fn assert_found(measured: &Measured) {
    for parents in [&measured.many, &measured.one] {
        let others = parents.wrong + parents.by_task;
        assert_eq!(others, 0, "{measured:?}");
        assert!(parents.right > 9 * (parents.none + parents.lost), "{measured:?}");
    }
}

/// No call is below a request that it was not made for; with one request at a time they are below it.
fn assert_only_one_is_found(measured: &Measured) {
    assert_eq!(measured.many.wrong + measured.one.wrong, 0, "{measured:?}");
    assert!(measured.one.by_task > 0, "{measured:?}");
}

/// The same where only the process shows it: with one request at a time all calls are below theirs.
fn assert_only_one_is_found_by_process(measured: &Measured) {
    let one = &measured.one;
    assert_eq!(measured.many.wrong + one.wrong, 0, "{measured:?}");
    assert!(one.by_process == one.right + one.lost && one.right > 9 * (one.none + one.lost), "{measured:?}");
}

fn calls_of_python_threads_are_below_their_requests() -> Outcome {
    needs::program("python3")?;
    let program =
        |backend: &str| arguments("python3", &[&source("threads.py").display().to_string(), backend]);
    assert_found(&of_program("Python, threads", program)?);
    Ok(())
}

fn arguments(program: &str, arguments: &[&str]) -> Command {
    let mut command = Command::new(program);
    command.args(arguments);
    command
}

fn calls_of_an_event_loop_of_python_are_below_its_only_request() -> Outcome {
    needs::program("python3")?;
    let program = |backend: &str| arguments("python3", &[&source("loop.py").display().to_string(), backend]);
    assert_only_one_is_found(&of_program("Python, asyncio", program)?);
    Ok(())
}

fn calls_of_nginx_are_below_its_only_request() -> Outcome {
    let mut agent = agent()?;
    let backend = backend();
    let proxy = format!(
        "location / {{ proxy_pass http://{backend}; proxy_http_version 1.1; proxy_set_header Connection \"\"; }}"
    );
    let nginx = running::nginx(&proxy)?;
    assert_only_one_is_found(&measure(&mut agent, "nginx", nginx.port, backend));
    Ok(())
}

/// A program in Go, and the directory that it is in. Go's library is compiled, too.
fn go(name: &str) -> Result<(tempfile::TempDir, PathBuf), CannotRun> {
    needs::time()?;
    needs::program("go")?;
    let directory = tempfile::tempdir().expect("directory");
    let binary = directory.path().join("front");
    compile(go_build(&source(name), &binary).env("GOPATH", "/usr/share/gocode"));
    Ok((directory, binary))
}

fn calls_of_gos_http_client_are_below_its_only_request() -> Outcome {
    let (_directory, binary) = go("front.go")?;
    let program = |backend: &str| arguments(&binary.display().to_string(), &[backend]);
    assert_only_one_is_found_by_process(&of_program("Go, net/http", program)?);
    Ok(())
}

/// All calls that were seen are below their requests, by the goroutine that made them.
fn assert_found_by_goroutine(measured: &Measured) {
    assert_found(measured);
    for parents in [&measured.many, &measured.one] {
        assert_eq!(parents.by_goroutine, parents.right + parents.lost, "{measured:?}");
    }
}

fn calls_of_goroutines_are_below_their_requests() -> Outcome {
    let (_directory, binary) = go("goroutines.go")?;
    let program = |backend: &str| arguments(&binary.display().to_string(), &[backend]);
    assert_found_by_goroutine(&of_program("Go, a client of its own", program)?);
    Ok(())
}

/// A program in Go with a driver, which calls a server.
fn of_driver(
    (program, driver): (&str, &str),
    packages: &[&str],
    server: impl FnOnce() -> Result<running::Running, CannotRun>,
) -> Outcome {
    needs::root()?;
    for package in packages {
        needs::file(&format!("/usr/share/gocode/src/github.com/{package}"))?;
    }
    let (_directory, binary) = go(program)?;
    let mut agent = agent()?;
    let called = server()?;
    let mut front = arguments(&binary.display().to_string(), &[&called.port.to_string(), driver]);
    let (_server, port) = serve(&mut front);
    let backend = SocketAddr::from(([127, 0, 0, 1], called.port));
    let what = format!("Go, {driver}");
    assert_found_by_goroutine(&measure(&mut agent, &what, port.parse().expect("a port"), backend));
    Ok(())
}

/// What `database.go` imports.
const SQL_DRIVERS: [&str; 2] = ["go-sql-driver/mysql", "lib/pq"];

fn calls_of_go_to_mysql_are_below_their_requests() -> Outcome {
    of_driver(("database.go", "mysql"), &SQL_DRIVERS, running::mariadb)
}

/// PostgreSQL has a process for each connection.
fn calls_of_go_to_postgresql_are_below_their_requests() -> Outcome {
    of_driver(("database.go", "postgres"), &SQL_DRIVERS, running::postgres)
}

fn calls_of_go_to_redis_are_below_their_requests() -> Outcome {
    of_driver(("cache.go", "redigo"), &["gomodule/redigo"], running::redis)
}

fn calls_of_node_are_below_its_only_request() -> Outcome {
    large(needs::program("node"))?;
    let program = |backend: &str| arguments("node", &[&source("front.js").display().to_string(), backend]);
    assert_only_one_is_found(&of_program("Node, node:http", program)?);
    Ok(())
}

/// The server in Java, with threads of this kind.
fn java(java: &str, what: &str, kind: &str) -> Result<Measured, CannotRun> {
    let program =
        |backend: &str| arguments(java, &[&source("Front.java").display().to_string(), backend, kind]);
    of_program(what, program)
}

fn calls_of_java_threads_are_below_their_requests() -> Outcome {
    large(needs::program("java"))?;
    assert_found(&java("java", "Java, threads", "threads")?);
    Ok(())
}

/// A JDK with virtual threads, from 21 on.
const VIRTUAL: &str = "/usr/lib/jvm/temurin-25-jdk-amd64/bin/java";

fn calls_of_java_virtual_threads_are_below_its_only_request() -> Outcome {
    large(needs::file(VIRTUAL))?;
    assert_only_one_is_found_by_process(&java(VIRTUAL, "Java, virtual threads", "virtual")?);
    Ok(())
}

fn calls_for_a_response_that_ends_with_its_connection_are_below_no_other_request() -> Outcome {
    needs::program("python3")?;
    let program = |backend: &str| {
        arguments("python3", &[&source("threads.py").display().to_string(), backend, "HTTP/1.0"])
    };
    let Measured { many, one } = of_program_by("Python, without Content-Length", Kind::Closed, program)?;
    assert_eq!(many.wrong + one.wrong, 0, "{many:?} {one:?}");
    Ok(())
}

fn calls_of_a_server_of_http2_are_below_its_only_request() -> Outcome {
    large(needs::program("node"))?;
    let program = |backend: &str| arguments("node", &[&source("http2.js").display().to_string(), backend]);
    assert_only_one_is_found_by_process(&of_program_by("Node, node:http2", Kind::Http2, program)?);
    Ok(())
}

fn calls_of_a_server_of_grpc_are_below_its_only_request() -> Outcome {
    needs::file("/usr/share/gocode/src/google.golang.org/grpc")?;
    let (_directory, binary) = go("grpc.go")?;
    let program = |backend: &str| arguments(&binary.display().to_string(), &[backend]);
    assert_only_one_is_found_by_process(&of_program_by("Go, grpc-go", Kind::Http2, program)?);
    Ok(())
}
