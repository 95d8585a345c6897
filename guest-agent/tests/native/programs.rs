//! Real servers and clients.

use std::{
    io::{BufRead, BufReader},
    os::unix::process::CommandExt as _,
    process::{Child, Command, Stdio},
};

use porthole_agent_api::{agent::ErrorClass, agent::Side};

use porthole_trials::{Outcome, Trial, trials};

use crate::harness::Agent;

/// The tests of this file.
pub fn tests() -> Vec<Trial> {
    trials![
        curl_and_pythons_server_agree_with_the_agent,
        a_forked_process_that_serves_is_the_same_connection,
        processes_that_share_a_port_serve_their_own_connections,
        a_descriptor_passed_to_another_process_is_the_same_connection,
    ]
}

/// A program that ends with the test, and what it forked with it: it leads a process group.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let group = libc::pid_t::try_from(self.0.id()).expect("a pid");
        // SAFETY: the group of a child that was not waited for, so that its number is not another's.
        unsafe { libc::killpg(group, libc::SIGKILL) };
        let _ = self.0.wait();
    }
}

/// Starts a Python program that prints its port first.
fn python(source: &str) -> (Running, String) {
    let mut child = Command::new("python3")
        .args(["-u", "-c", source])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .process_group(0)
        .spawn()
        .expect("python3");
    let mut port = String::new();
    BufReader::new(child.stdout.take().expect("piped")).read_line(&mut port).expect("a port");
    (Running(child), port.trim().to_owned())
}

fn curl(arguments: &[&str]) {
    let status = Command::new("curl").args(["-s", "-o", "/dev/null"]).args(arguments).status().expect("curl");
    assert!(status.success());
}

const HTTP_SERVER: &str = r#"
import http.server
class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def do_GET(self):
        found = self.path == "/python-found"
        body = b"hello" * 1000
        self.send_response(200 if found else 404)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
    do_POST = do_GET
server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
print(server.server_port)
server.serve_forever()
"#;

fn curl_and_pythons_server_agree_with_the_agent() -> Outcome {
    let mut agent = Agent::start(&[])?;
    let (_server, port) = python(HTTP_SERVER);
    let url = |path: &str| format!("http://127.0.0.1:{port}{path}");
    for _ in 0..5 {
        curl(&[&url("/python-found")]);
    }
    // Several requests on one connection.
    curl(&[&url("/python-missing"), "-o", "/dev/null", &url("/python-missing")]);
    assert_eq!(agent.counts("/python-found"), (5, 5));
    assert_eq!(agent.counts("/python-missing"), (2, 2));
    for side in [Side::SIDE_SERVER, Side::SIDE_CLIENT] {
        let [found] = agent.series(side, "/python-found")[..] else { panic!("one series") };
        assert_eq!((&found.key.status[..], &found.key.operation[..]), ("200", "GET"));
        assert!(found.response_bytes > 25_000, "{}", found.response_bytes);
        let [missing] = agent.series(side, "/python-missing")[..] else { panic!("one series") };
        assert_eq!(missing.key.status, "404");
        assert_eq!(missing.key.error.enum_value(), Ok(ErrorClass::ERROR_CLASS_CLIENT));
    }
    Ok(())
}

const PREFORK_SERVER: &str = r#"
import os, socket
listener = socket.create_server(("127.0.0.1", 0))
print(listener.getsockname()[1])
while True:
    stream, _ = listener.accept()
    if os.fork() == 0:
        # A grandchild serves what its grandparent accepted.
        if os.fork() == 0:
            while stream.recv(4096):
                stream.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
        os._exit(0)
    stream.close()
    os.wait()
"#;

/// Sends two requests to a server of several processes on each of some connections, in every way of capture. Whichever
/// process serves, each connection is one.
fn each_connection_is_one(program: &str, path: &str) -> Outcome {
    const WAYS: [&[&str]; 2] = [&[], &["--capture", "packets"]];
    for arguments in WAYS {
        let mut agent = Agent::start(arguments)?;
        let (_server, port) = python(program);
        for _ in 0..6 {
            let url = format!("http://127.0.0.1:{port}{path}");
            curl(&[&url, "-o", "/dev/null", &url]);
        }
        assert_eq!(agent.counts(path), (12, 12), "{arguments:?}");
    }
    Ok(())
}

fn a_forked_process_that_serves_is_the_same_connection() -> Outcome {
    each_connection_is_one(PREFORK_SERVER, "/forked")
}

const SHARED_PORT_SERVER: &str = r#"
import os, socket
listeners = [socket.create_server(("127.0.0.1", 0), reuse_port=True)]
port = listeners[0].getsockname()[1]
listeners += [socket.create_server(("127.0.0.1", port), reuse_port=True) for _ in range(3)]
for listener in listeners[1:]:
    if os.fork() == 0:
        break
else:
    listener = listeners[0]
    print(port)
for other in listeners:
    if other is not listener:
        other.close()
while True:
    stream, _ = listener.accept()
    while stream.recv(4096):
        stream.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
    stream.close()
"#;

fn processes_that_share_a_port_serve_their_own_connections() -> Outcome {
    each_connection_is_one(SHARED_PORT_SERVER, "/shared")
}

const PASSING_SERVER: &str = r#"
import array, os, socket
listener = socket.create_server(("127.0.0.1", 0))
print(listener.getsockname()[1])
ours, theirs = socket.socketpair()
if os.fork() == 0:
    while True:
        _, ancillary, _, _ = theirs.recvmsg(1, socket.CMSG_LEN(4))
        stream = socket.socket(fileno=array.array("i", ancillary[0][2])[0])
        while stream.recv(4096):
            stream.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
        stream.close()
while True:
    stream, _ = listener.accept()
    socket.send_fds(ours, [b"x"], [stream.fileno()])
    stream.close()
"#;

fn a_descriptor_passed_to_another_process_is_the_same_connection() -> Outcome {
    each_connection_is_one(PASSING_SERVER, "/passed")
}
