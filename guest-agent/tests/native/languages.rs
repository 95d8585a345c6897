//! HTTP servers and clients of several languages, each with what its people use: exact counts on both sides.
//!
//! The programs are in `languages/`; each serves and asks. Those whose toolchains are large run with
//! `cargo xtask test --all`, which installs them.

use std::{
    collections::BTreeMap,
    io::{BufRead, BufReader, Write as _},
    net::TcpStream,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use porthole_agent_api::agent::Side;

use crate::harness::{Agent, not_run, wait_for};

/// Where the programs are.
fn source(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/native/languages").join(name)
}

/// A server that ends with the test.
struct Server(Child);

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Whether a program is there; says so when it is not. Large ones are expected only where time does not matter.
fn installed(program: &str, large: bool) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    if std::env::split_paths(&path).any(|directory| directory.join(program).exists()) {
        return true;
    }
    let why = format!("{program} is not installed; `sudo -E cargo xtask test --all` installs it");
    if large && std::env::var_os("PORTHOLE_TEST_ALL").is_none() {
        let _ = writeln!(std::io::stderr(), "NOT RUN: {why}");
    } else {
        not_run::<()>(&why);
    }
    false
}

/// Runs a compiler.
fn compile(command: &mut Command) {
    let output = command.output().expect("a compiler");
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
}

/// Starts a server that prints its port.
fn serve(command: &mut Command) -> (Server, String) {
    let mut child = command
        .arg("server")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("a server");
    let output = child.stdout.take().expect("piped");
    let server = Server(child);
    let mut port = String::new();
    BufReader::new(output).read_line(&mut port).expect("a port");
    (server, port.trim().to_owned())
}

/// Lets the client ask, and asserts that the agent has counted what it is known to ask: seven times what is there, three
/// times what is not.
fn assert_counted(agent: &mut Agent, language: &str, client: &mut Command, port: &str) {
    let output = client.args(["client", port]).output().expect("a client");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    agent.catch_up();
    for side in [Side::SIDE_SERVER, Side::SIDE_CLIENT] {
        for (path, status, count) in [("ok", "200", 7), ("missing", "404", 3)] {
            let mut found: BTreeMap<(String, String), u64> = BTreeMap::new();
            for series in agent.series(side, &format!("/{language}-{path}")) {
                let key = (series.key.operation.clone(), series.key.status.clone());
                *found.entry(key).or_default() += series.duration.count;
            }
            let expected = BTreeMap::from([(("GET".to_owned(), status.to_owned()), count)]);
            assert_eq!(found, expected, "{language}, {path}, {side:?}");
        }
    }
}

/// Server and client of a language whose programs are run by an interpreter.
fn interpreted(interpreter: &str, file: &str, language: &str, large: bool) {
    if !installed(interpreter, large) {
        return;
    }
    let Some(mut agent) = Agent::start(&[]) else { return };
    let program = source(file);
    let (_server, port) = serve(Command::new(interpreter).arg(&program));
    assert_counted(&mut agent, language, Command::new(interpreter).arg(&program), &port);
}

/// Server and client of a language whose program is compiled first.
fn compiled(build: impl FnOnce(&Path) -> Option<()>, language: &str) {
    let directory = tempfile::tempdir().expect("directory");
    let binary = directory.path().join("program");
    if build(&binary).is_none() {
        return;
    }
    let Some(mut agent) = Agent::start(&[]) else { return };
    let (_server, port) = serve(&mut Command::new(&binary));
    assert_counted(&mut agent, language, &mut Command::new(&binary), &port);
}

#[test]
fn python_is_counted() {
    interpreted("python3", "web.py", "python", false);
}

#[test]
fn c_is_counted() {
    let build = |binary: &Path| {
        installed("cc", false).then(|| compile(Command::new("cc").arg("-o").arg(binary).arg(source("web.c"))))
    };
    compiled(build, "c");
}

#[test]
fn cxx_is_counted() {
    let build = |binary: &Path| {
        // As its package was built (`pkg-config --cflags cpp-httplib`): the classes differ else.
        let built = ["OPENSSL", "ZLIB", "BROTLI"].map(|part| format!("-DCPPHTTPLIB_{part}_SUPPORT"));
        let mut command = Command::new("c++");
        command.args(built).arg("-o").arg(binary).arg(source("web.cc")).arg("-lcpp-httplib");
        installed("/usr/include/httplib.h", true).then(|| compile(&mut command))
    };
    compiled(build, "cxx");
}

#[test]
fn node_is_counted() {
    interpreted("node", "web.js", "node", true);
}

#[test]
fn ruby_is_counted() {
    interpreted("ruby", "web.rb", "ruby", true);
}

#[test]
fn java_is_counted() {
    interpreted("java", "Web.java", "java", true);
}

#[test]
fn go_is_counted() {
    let build = |binary: &Path| {
        let cache = binary.parent()?.join("cache");
        let mut command = Command::new("go");
        command.env("GOCACHE", cache).env("GOFLAGS", "-mod=mod").env("GO111MODULE", "off");
        installed("go", true)
            .then(|| compile(command.args(["build", "-o"]).arg(binary).arg(source("web.go"))))
    };
    compiled(build, "go");
}

#[test]
fn php_is_counted() {
    if !installed("php", true) {
        return;
    }
    let Some(mut agent) = Agent::start(&[]) else { return };
    // The built-in server does not choose a port by itself.
    let port = std::net::TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr());
    let port = port.expect("a free port").port().to_string();
    let address = format!("127.0.0.1:{port}");
    let server = Command::new("php")
        .args(["-S", &address])
        .arg(source("web.php"))
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn();
    let _server = Server(server.expect("php"));
    wait_for("php listens", || TcpStream::connect(&address).ok());
    assert_counted(&mut agent, "php", Command::new("php").arg(source("web.php")), &port);
}
