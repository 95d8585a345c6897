//! HTTP servers and clients of several languages, each with what its people use: exact counts on both sides.
//!
//! The programs are in `languages/`; each has a server and a client. Those whose toolchains are large run with
//! `cargo xtask test --all`, which installs them.

use std::{
    collections::BTreeMap,
    io::{BufRead, BufReader},
    net::TcpStream,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use porthole_agent_api::agent::Side;

use porthole_trials::{CannotRun, Outcome, Trial, needs, trials};

use crate::{
    harness::{Agent, wait_for},
    running::free_port,
};

/// The tests of this file.
pub fn tests() -> Vec<Trial> {
    trials![
        python_is_counted,
        c_is_counted,
        cxx_is_counted,
        node_is_counted,
        ruby_is_counted,
        java_is_counted,
        go_is_counted,
        php_is_counted,
    ]
}

/// Where the programs are.
fn source(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/native/languages").join(name)
}

/// A server that ends with the test.
pub struct Server(pub Child);

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A toolchain that is large: it is there only where `--all` has installed it.
pub fn large(toolchain: Result<(), CannotRun>) -> Result<(), CannotRun> {
    toolchain.or_else(|missing| needs::time().and(Err(missing)))
}

/// Runs a compiler.
pub fn compile(command: &mut Command) {
    let output = command.output().expect("a compiler");
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
}

/// Builds a program of Go, with its cache beside it.
pub fn go_build(source: &Path, binary: &Path) -> Command {
    let mut command = Command::new("go");
    command
        .env("GOCACHE", binary.with_file_name("cache"))
        .env("GOFLAGS", "-mod=mod")
        .env("GO111MODULE", "off");
    command.args(["build", "-o"]).arg(binary).arg(source);
    command
}

/// Starts a server that prints its port.
pub fn serve(command: &mut Command) -> (Server, String) {
    let mut child =
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().expect("a server");
    let output = child.stdout.take().expect("piped");
    let server = Server(child);
    let mut port = String::new();
    BufReader::new(output).read_line(&mut port).expect("a port");
    (server, port.trim().to_owned())
}

/// Runs the client, and asserts that the agent has counted what it sends: seven times what is there, three
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
fn interpreted(interpreter: &str, file: &str, language: &str) -> Outcome {
    let mut agent = Agent::start(&[])?;
    let program = source(file);
    let (_server, port) = serve(Command::new(interpreter).arg(&program).arg("server"));
    assert_counted(&mut agent, language, Command::new(interpreter).arg(&program), &port);
    Ok(())
}

/// Server and client of a language whose program is compiled first.
fn compiled(build: impl FnOnce(&Path) -> Command, language: &str) -> Outcome {
    let directory = tempfile::tempdir().expect("directory");
    let binary = directory.path().join("program");
    compile(&mut build(&binary));
    let mut agent = Agent::start(&[])?;
    let (_server, port) = serve(Command::new(&binary).arg("server"));
    assert_counted(&mut agent, language, &mut Command::new(&binary), &port);
    Ok(())
}

fn python_is_counted() -> Outcome {
    needs::program("python3")?;
    interpreted("python3", "web.py", "python")
}

fn c_is_counted() -> Outcome {
    needs::program("cc")?;
    let build = |binary: &Path| {
        let mut command = Command::new("cc");
        command.arg("-o").arg(binary).arg(source("web.c"));
        command
    };
    compiled(build, "c")
}

fn cxx_is_counted() -> Outcome {
    large(needs::program("c++").and_then(|()| needs::file("/usr/include/httplib.h")))?;
    let build = |binary: &Path| {
        // As its package was built (`pkg-config --cflags cpp-httplib`): the classes differ else.
        let built = ["OPENSSL", "ZLIB", "BROTLI"].map(|part| format!("-DCPPHTTPLIB_{part}_SUPPORT"));
        let mut command = Command::new("c++");
        command.args(built).arg("-o").arg(binary).arg(source("web.cc")).arg("-lcpp-httplib");
        command
    };
    compiled(build, "cxx")
}

fn node_is_counted() -> Outcome {
    large(needs::program("node"))?;
    interpreted("node", "web.js", "node")
}

fn ruby_is_counted() -> Outcome {
    large(needs::program("ruby"))?;
    interpreted("ruby", "web.rb", "ruby")
}

fn java_is_counted() -> Outcome {
    large(needs::program("java"))?;
    interpreted("java", "Web.java", "java")
}

fn go_is_counted() -> Outcome {
    large(needs::program("go"))?;
    compiled(|binary| go_build(&source("web.go"), binary), "go")
}

fn php_is_counted() -> Outcome {
    large(needs::program("php"))?;
    let mut agent = Agent::start(&[])?;
    // The built-in server does not choose a port by itself.
    let port = free_port().to_string();
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
    Ok(())
}
