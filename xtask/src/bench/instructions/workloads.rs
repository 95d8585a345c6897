//! The workloads: each a server with its load, and the files that they need in the guest.

use std::{
    fmt::Write as _,
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Context, Result};
use clap::ValueEnum;
use porthole_bench_guest::{Calls, ECHO, Greeting, Load, Server, Workload as Planned};
use porthole_testbed::command;

use crate::{bench::instructions::image::Image, setup::Need, workspace::Workspace};

/// How long the making of a program or of a database may take.
const DEADLINE: Duration = Duration::from_mins(10);

/// Requests in one write where they are pipelined.
const DEPTH: u64 = 16;

/// Where the sources of servers and clients are.
const SOURCES: &str = "xtask/bench-guest/programs";

/// Where Debian's packages put Go's libraries.
const GO_LIBRARIES: &str = "/usr/share/gocode";

/// A request of 40 bytes.
const SMALL_REQUEST: &str = "GET /hello HTTP/1.1\r\nHost: porthole1\r\n\r\n";

/// What is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Workload {
    /// nginx, a request of 40 bytes, a short answer.
    Nginx,
    /// The same, 16 requests in one write.
    NginxPipelined,
    /// nginx, 15 request headers with cookies, ids in the path, a query; 12 response headers, a body of 4 KB.
    NginxRealistic,
    /// The same, 16 requests in one write.
    NginxRealisticPipelined,
    /// redis-server, `GET`.
    Redis,
    /// The same, 16 commands in one write.
    RedisPipelined,
    /// mariadbd, select of one row by primary key, as text.
    Mariadb,
    /// A unary call of gRPC, server and client of Google's library for Go.
    Grpc,
    /// Go's net/http with about 100,000 instructions of work for each request.
    Go,
    /// Python's http.server with as much.
    Python,
    /// Messages of 64 bytes to and fro over TCP, of no protocol that the agent knows.
    Unknown,
    /// Writes to `/dev/null`.
    Null,
    /// Writes to and reads from a pipe.
    Pipe,
    /// Writes to a file in memory.
    File,
}

impl Workload {
    /// Its name on the command line and in the results.
    pub fn name(self) -> String {
        self.to_possible_value().map_or_else(String::new, |value| value.get_name().to_owned())
    }

    /// The packages with its server and client.
    pub fn needs(self) -> &'static [Need] {
        match self {
            Self::Nginx | Self::NginxPipelined | Self::NginxRealistic | Self::NginxRealisticPipelined => {
                Need::GUEST_NGINX
            }
            Self::Redis | Self::RedisPipelined => Need::GUEST_REDIS,
            Self::Mariadb => Need::GUEST_MARIADB,
            Self::Grpc => Need::GUEST_GRPC,
            Self::Go => Need::GUEST_GO,
            Self::Python => Need::GUEST_PYTHON,
            Self::Unknown | Self::Null | Self::Pipe | Self::File => &[],
        }
    }

    /// Exchanges for each request: one at each end.
    pub fn exchanges(self) -> u64 {
        match self {
            Self::Unknown | Self::Null | Self::Pipe | Self::File => 0,
            _ => 2,
        }
    }

    /// By which share of its instructions the cheapest repetition of a request differs when anything else in the guest
    /// does. Go's scheduler decides by chance who runs next, and gRPC's writer sends more or less at once accordingly;
    /// MariaDB and Python are measured once.
    pub fn noise(self) -> f64 {
        match self {
            Self::Grpc => 0.03,
            Self::Go => 0.005,
            Self::Mariadb => 0.007,
            Self::Python => 0.003,
            _ => 0.002,
        }
    }

    /// How often it is measured, each time with a server and clients of its own: where the kernel's allocator happens to
    /// put a process's buffers adds some 600 instructions to each of its requests, or none, and what Go's scheduler
    /// came to does not change while a process runs. A second mariadbd cannot open the same database.
    pub fn repetitions(self) -> u16 {
        match self {
            Self::Grpc | Self::Go => 8,
            Self::Nginx
            | Self::NginxPipelined
            | Self::NginxRealistic
            | Self::NginxRealisticPipelined
            | Self::Redis
            | Self::Unknown => 4,
            Self::RedisPipelined => 2,
            Self::Mariadb | Self::Python | Self::Null | Self::Pipe | Self::File => 1,
        }
    }

    /// Requests in one write.
    fn depth(self) -> u64 {
        match self {
            Self::NginxPipelined | Self::NginxRealisticPipelined | Self::RedisPipelined => DEPTH,
            _ => 1,
        }
    }

    /// Requests that are measured, so that a run takes some hundred million instructions.
    fn requests(self) -> u64 {
        match self {
            Self::Nginx
            | Self::NginxPipelined
            | Self::NginxRealistic
            | Self::NginxRealisticPipelined
            | Self::Redis
            | Self::Grpc
            | Self::Mariadb => 2_000,
            Self::Unknown => 4_000,
            Self::RedisPipelined => 32_000,
            Self::Go => 1_000,
            Self::Python => 200,
            Self::Null | Self::Pipe | Self::File => 20_000,
        }
    }

    /// The plan for the guest, with what it needs put into the image. `directory` is for files in between.
    pub fn plan(
        self,
        workspace: &Workspace,
        directory: &Path,
        port: u16,
        image: &mut Image,
    ) -> Result<Planned> {
        let (server, load) = match self {
            Self::Nginx | Self::NginxPipelined => {
                (Some(nginx(image, port)?), self.http(SMALL_REQUEST, "hello"))
            }
            Self::NginxRealistic | Self::NginxRealisticPipelined => {
                (Some(nginx(image, port)?), self.http(&realistic_request(), "x-request-cost"))
            }
            Self::Redis | Self::RedisPipelined => {
                // No key has this name: the answer to each is the same.
                (
                    Some(redis(image, port)?),
                    self.stream(Greeting::None, b"*2\r\n$3\r\nGET\r\n$9\r\nkey:#####\r\n", "$-1"),
                )
            }
            Self::Mariadb => {
                let server = mariadb(directory, image, port)?;
                let statement = b"\x03SELECT c FROM bench.rows WHERE id=###";
                let length = u8::try_from(statement.len()).context("a short statement")?;
                let request = [&[length, 0, 0, 0], statement.as_slice()].concat();
                (Some(server), self.stream(Greeting::Mysql, &request, "row "))
            }
            Self::Grpc => {
                let program = go(workspace, directory, image, "grpc")?;
                let server =
                    Server { command: vec![program.clone(), "server".into(), port.to_string()], port };
                (Some(server), Load::Program(vec![program, "client".into(), port.to_string()]))
            }
            Self::Go => {
                let program = go(workspace, directory, image, "service")?;
                let server = Server { command: vec![program, port.to_string()], port };
                (Some(server), self.http(SMALL_REQUEST, "200 OK"))
            }
            Self::Python => (Some(python(workspace, image, port)?), self.http(SMALL_REQUEST, "200 OK")),
            Self::Unknown => {
                let server = Server { command: vec!["/init".into(), ECHO.into(), port.to_string()], port };
                (Some(server), self.stream(Greeting::None, &[0xf7; 64], ""))
            }
            Self::Null => (None, Load::Calls(Calls::Null)),
            Self::Pipe => (None, Load::Calls(Calls::Pipe)),
            Self::File => (None, Load::Calls(Calls::File)),
        };
        let requests = self.requests();
        Ok(Planned {
            name: self.name(),
            server,
            load,
            warm_up: requests / 5,
            requests,
            exchanges: self.exchanges(),
        })
    }

    fn http(self, request: &str, expected: &str) -> Load {
        self.stream(Greeting::None, request.as_bytes(), expected)
    }

    fn stream(self, greeting: Greeting, request: &[u8], expected: &str) -> Load {
        let depth = self.depth();
        Load::Stream { greeting, request: request.to_vec(), depth, expected: expected.to_owned() }
    }
}

/// A request as a browser behind a gateway sends it: 15 headers.
fn realistic_request() -> String {
    let headers = [
        "Host: shop.example.com",
        "User-Agent: Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/126.0 Safari/537.36",
        "Accept: application/json, text/plain, */*",
        "Accept-Language: en-GB,en;q=0.9,de;q=0.8",
        "Accept-Encoding: gzip, deflate, br, zstd",
        "Referer: https://shop.example.com/account/orders",
        "Cookie: session=5f1d7a3e9b2c4d6f8a0b1c2d3e4f5a6b; theme=dark; consent=analytics%3D0%26ads%3D0; cart=9c2e; locale=en-GB",
        "Authorization: Bearer eyJhbGciOiJFUzI1NiJ9.eyJzdWIiOiI0MiIsImV4cCI6MTc2MDAwMDAwMH0.c2lnbmF0dXJlLW9mLXRoZS10b2tlbg",
        "X-Request-Id: 7b9f6c1e-2d34-4a58-9c60-1f2e3d4c5b6a",
        "X-Forwarded-For: 203.0.113.7, 198.51.100.12",
        "X-Forwarded-Proto: https",
        "Traceparent: 00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
        "Sec-Fetch-Mode: cors",
        "Cache-Control: no-cache",
        "Connection: keep-alive",
    ];
    format!(
        "GET /api/v1/users/######/orders/########?page=2&sort=created HTTP/1.1\r\n{}\r\n\r\n",
        headers.join("\r\n")
    )
}

/// nginx, one worker: a short answer, and below `/api` one with 12 headers and a body of 4 KB.
fn nginx(image: &mut Image, port: u16) -> Result<Server> {
    let program = image.program("nginx")?;
    // nginx takes no parameter of 4 KB.
    let quarter = "0123456789abcdef".repeat(64);
    let text = format!(
        "worker_processes 1; daemon off; user root; pid /run/nginx-{port}.pid; error_log stderr crit;\n\
         events {{ worker_connections 64; }}\n\
         http {{ access_log off; keepalive_requests 1000000000; keepalive_timeout 1d; client_body_temp_path /run/{port};\n\
         proxy_temp_path /run/{port}; fastcgi_temp_path /run/{port}; uwsgi_temp_path /run/{port}; scgi_temp_path /run/{port};\n\
         large_client_header_buffers 4 32k; default_type application/json;\n\
         server {{ listen 127.0.0.1:{port}; location / {{ return 200 \"hello\\n\"; }}\n\
         location /api {{\n\
         add_header cache-control no-store; add_header x-request-id 7b9f6c1e-2d34-4a58-9c60-1f2e3d4c5b6a;\n\
         add_header x-content-type-options nosniff; add_header x-frame-options DENY; add_header vary accept-encoding;\n\
         add_header strict-transport-security max-age=31536000; add_header x-request-cost 7;\n\
         set $quarter \"{quarter}\"; return 200 \"$quarter$quarter$quarter$quarter\"; }} }} }}\n"
    );
    let configuration = format!("/etc/nginx-{port}.conf");
    image.write(&configuration, text.into_bytes());
    let command = [program.as_str(), "-e", "stderr", "-c", &configuration].map(str::to_owned).to_vec();
    Ok(Server { command, port })
}

fn redis(image: &mut Image, port: u16) -> Result<Server> {
    let program = image.program("redis-server")?;
    let port_text = port.to_string();
    let words = [
        &program,
        "--port",
        &port_text,
        "--bind",
        "127.0.0.1",
        "--save",
        "",
        "--appendonly",
        "no",
        "--dir",
        "/run",
    ];
    Ok(Server { command: words.map(str::to_owned).to_vec(), port })
}

/// mariadbd with a table of 900 rows. It lets root in without a password.
fn mariadb(directory: &Path, image: &mut Image, port: u16) -> Result<Server> {
    let program = image.program("mariadbd")?;
    let data = directory.join("mariadb");
    if data.exists() {
        fs::remove_dir_all(&data).context("remove the database of before")?;
    }
    fs::create_dir_all(&data).context("make a directory for the database")?;
    let common = [
        "--no-defaults",
        "--user=root",
        "--innodb-log-file-size=4M",
        "--innodb-buffer-pool-size=32M",
        "--innodb-flush-method=fsync",
        "--innodb-use-native-aio=0",
        "--skip-log-bin",
        "--skip-grant-tables",
    ];
    let statements = directory.join("mariadb.sql");
    let mut text = "CREATE DATABASE bench;\nUSE bench;\n\
                    CREATE TABLE `rows` (id INT PRIMARY KEY, c CHAR(120) NOT NULL) ENGINE=InnoDB;\n"
        .to_owned();
    // The ids in requests have three digits; a server that bootstraps takes no statement over 60,000 bytes.
    for first in (100..1000).step_by(100) {
        let rows: Vec<String> = (first..first + 100).map(|id| format!("({id},'row {id:0116}')")).collect();
        let _ = writeln!(text, "INSERT INTO `rows` VALUES {};", rows.join(","));
    }
    fs::write(&statements, text).context("write statements")?;
    let script = format!(
        "exec {program} {} --datadir={} --bootstrap < {}",
        common.join(" "),
        data.display(),
        statements.display()
    );
    command::succeed(Command::new("sh").args(["-c", &script]), DEADLINE)?;
    image.tree("/mariadb", &data)?;
    for part in ["/usr/share/mysql/english", "/usr/share/mysql/charsets"] {
        image.tree(part, Path::new(part))?;
    }
    let mut command = vec![program];
    command.extend(common.map(str::to_owned));
    command.extend(
        [
            "--datadir=/mariadb",
            "--bind-address=127.0.0.1",
            "--socket=/run/mariadb",
            "--pid-file=/run/mariadb.pid",
        ]
        .map(str::to_owned),
    );
    command.push(format!("--port={port}"));
    Ok(Server { command, port })
}

/// Builds one of our programs in Go, without a C library; gives its path in the guest.
fn go(workspace: &Workspace, directory: &Path, image: &mut Image, name: &str) -> Result<String> {
    let program = directory.join(name);
    let mut build = Command::new("go");
    build.arg("build").arg("-o").arg(&program).arg(workspace.root.join(SOURCES).join(format!("{name}.go")));
    // Only what the distribution has: nothing of the network, nothing of a module that happens to be around.
    build.envs([
        ("GO111MODULE", "off"),
        ("GOTOOLCHAIN", "local"),
        ("GOPATH", GO_LIBRARIES),
        ("CGO_ENABLED", "0"),
    ]);
    command::succeed(&mut build, DEADLINE)?;
    let path = format!("/bin/{name}");
    image.put(&path, &program, 0o755)?;
    Ok(path)
}

/// Python with the modules that the service loads.
fn python(workspace: &Workspace, image: &mut Image, port: u16) -> Result<Server> {
    let program = image.program("python3")?;
    let source = workspace.root.join(SOURCES).join("service.py");
    let listed = command::succeed(Command::new(&program).args(["-I", "-S"]).arg(&source), DEADLINE)?.text();
    for path in listed.lines().map(PathBuf::from) {
        if path.extension().is_some_and(|ending| ending == "so") {
            image.libraries(&path)?;
        }
        image.same(&path)?;
    }
    image.put("/service.py", &source, 0o644)?;
    let command = [&program, "-I", "-S", "/service.py", &port.to_string()].map(str::to_owned).to_vec();
    Ok(Server { command, port })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_small_request_has_40_bytes_and_the_realistic_one_15_headers() {
        assert_eq!(SMALL_REQUEST.len(), 40);
        assert_eq!(realistic_request().matches("\r\n").count(), 1 + 15 + 1);
    }

    #[test]
    fn pipelined_requests_fill_their_writes() {
        for workload in Workload::value_variants() {
            assert_eq!(workload.requests() % workload.depth(), 0, "{workload:?}");
            assert_eq!(workload.requests() / 5 % workload.depth(), 0, "{workload:?}");
        }
    }
}
