//! Servers as they come from the distribution, under their own load generators.

use std::{
    fs,
    process::{Child, Command, Stdio},
};

use porthole_agent_api::agent::Side;

use crate::harness::{Agent, not_run, wait_for};

/// A server that ends with the test.
struct Server(Child);

impl Server {
    /// Starts a server and waits until it listens; `None` when its program is missing, after saying so.
    fn start(program: &str, arguments: &[String], port: u16) -> Option<Self> {
        let child = Command::new(program)
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn();
        let Ok(child) = child else { return not_run(&format!("{program} is not installed")) };
        let server = Self(child);
        wait_for("the server listens", || std::net::TcpStream::connect(("127.0.0.1", port)).ok());
        Some(server)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let pid = libc::pid_t::try_from(self.0.id()).expect("a pid");
        // Not by SIGKILL: nginx has a worker to take along.
        // SAFETY: a child of ours that was not waited for.
        unsafe { libc::kill(pid, libc::SIGTERM) };
        let _ = self.0.wait();
    }
}

fn free_port() -> u16 {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("bound");
    listener.local_addr().expect("an address").port()
}

fn run(program: &str, arguments: &[String]) -> Option<()> {
    let status = Command::new(program).args(arguments).stdout(Stdio::null()).stderr(Stdio::null()).status();
    let Ok(status) = status else { return not_run(&format!("{program} is not installed")) };
    assert!(status.success(), "{program}");
    Some(())
}

fn words(text: &str) -> Vec<String> {
    text.split_whitespace().map(str::to_owned).collect()
}

/// Exchanges of an operation: by servers, and by clients.
fn by_operation(agent: &Agent, operation: &str) -> (u64, u64) {
    [Side::SIDE_SERVER, Side::SIDE_CLIENT]
        .map(|side| {
            let all = agent.series(side, "").into_iter();
            all.filter(|series| series.key.operation == operation).map(|series| series.duration.count).sum()
        })
        .into()
}

/// A Redis server without data.
pub struct Redis {
    pub port: u16,
    _server: Server,
    _directory: tempfile::TempDir,
}

/// Starts one; `None` when it is not installed, after saying so.
pub fn redis() -> Option<Redis> {
    let directory = tempfile::tempdir().expect("directory");
    let port = free_port();
    let arguments =
        format!("--port {port} --bind 127.0.0.1 --appendonly no --dir {}", directory.path().display());
    let mut arguments = words(&arguments);
    arguments.extend(["--save".to_owned(), String::new()]);
    let server = Server::start("redis-server", &arguments, port)?;
    Some(Redis { port, _server: server, _directory: directory })
}

/// Commands of redis-benchmark, at a depth of pipelining; the command is one that nothing else here uses.
fn redis_counts(command: &str, depth: u64) {
    const COMMANDS: u64 = 8_000;
    let Some(mut agent) = Agent::start(&["--ring-kib", "16384", "--cpu-share", "0"]) else { return };
    let Some(Redis { port, .. }) = &redis() else { return };
    let load = format!("-p {port} -c 4 -n {COMMANDS} -P {depth} -q {command} absent 0 1");
    if run("redis-benchmark", &words(&load)).is_none() {
        return;
    }
    agent.catch_up();
    assert_eq!(agent.counters.events_lost, 0, "the ring has room for all of it");
    assert_eq!(by_operation(&agent, &command.to_uppercase()), (COMMANDS, COMMANDS), "{:?}", agent.counters);
}

#[test]
fn every_command_of_redis_benchmark_is_counted() {
    redis_counts("substr", 1);
}

#[test]
fn every_pipelined_command_of_redis_benchmark_is_counted() {
    redis_counts("getrange", 16);
}

#[test]
fn every_file_that_nginx_serves_is_counted() {
    const REQUESTS: usize = 300;
    let Some(mut agent) = Agent::start(&["--ring-kib", "16384", "--cpu-share", "0"]) else { return };
    let directory = tempfile::tempdir_in("/tmp").expect("directory");
    let root = directory.path().display().to_string();
    fs::create_dir(directory.path().join("www")).expect("made");
    fs::write(directory.path().join("www/by-nginx"), vec![b'x'; 50_000]).expect("written");
    let port = free_port();
    let configuration = format!(
        "user root; worker_processes 1; daemon off; pid {root}/pid; error_log {root}/error; events {{}}
         http {{ access_log off; sendfile on; client_body_temp_path {root}/a; proxy_temp_path {root}/b;
         fastcgi_temp_path {root}/c; uwsgi_temp_path {root}/d; scgi_temp_path {root}/e;
         server {{ listen 127.0.0.1:{port}; root {root}/www; }} }}"
    );
    fs::write(directory.path().join("conf"), configuration).expect("written");
    let Some(_server) = Server::start("nginx", &words(&format!("-c {root}/conf -p {root}")), port) else {
        return;
    };
    for path in ["by-nginx", "by-nginx-not"] {
        let mut arguments = vec!["-s".to_owned()];
        for _ in 0..REQUESTS {
            arguments.extend(words(&format!("-o /dev/null http://127.0.0.1:{port}/{path}")));
        }
        if run("curl", &arguments).is_none() {
            return;
        }
    }
    let all = REQUESTS as u64;
    for (path, status) in [("/by-nginx", "200"), ("/by-nginx-not", "404")] {
        assert_eq!(agent.counts(path), (all, all), "{path}");
        for side in [Side::SIDE_SERVER, Side::SIDE_CLIENT] {
            assert!(agent.series(side, path).iter().all(|series| series.key.status == status));
        }
    }
    let sizes = agent.series(Side::SIDE_SERVER, "/by-nginx")[0].response_bytes;
    assert!(sizes >= 50_000 * all, "{sizes}");
}
