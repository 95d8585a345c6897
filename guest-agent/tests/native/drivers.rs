//! Clients of databases, caches and brokers by the drivers that programs of each language really use: exact counts on
//! both sides.
//!
//! The programs are in `drivers/`. Each makes a table with a name of its own, inserts five rows, selects seven times
//! and fails once; those of Redis, Kafka and HTTP do the like. Drivers that are large, or that come from a registry,
//! run with `cargo xtask test --all`.

use std::{
    collections::BTreeMap,
    io::{Read, Write as _},
    net::TcpStream,
    path::Path,
    process::Command,
    sync::{Arc, Mutex, PoisonError},
};

use porthole_agent_api::{agent::Protocol, agent::Side};

use self::way::Way;
pub use self::way::{PYTHON, pip, source};
use porthole_trials::{CannotRun, Outcome, Trial, needs};

use crate::{
    harness::Agent,
    running::{self, Running, quiet},
};

mod way;

/// A language's driver.
struct Driver {
    /// Of the language; also the name of the table.
    name: &'static str,
    /// The protocol that the program uses.
    protocol: &'static str,
    way: Way,
    /// What must be there.
    needs: &'static [&'static str],
    /// It is only there with `--all`.
    large: bool,
}

const BY_PYTHON: Way = Way::Script(PYTHON, "db.py");
const PHP: Way = Way::Script("/usr/bin/php", "db.php");
const RUBY: Way = Way::Script("/usr/bin/ruby", "db.rb");
const C: Way = Way::Compiled(
    "cc",
    "db.c",
    &["-I/usr/include/mariadb", "-I/usr/include/postgresql", "-lmariadb", "-lpq", "-lhiredis"],
);
const C_HEADERS: &[&str] =
    &["/usr/include/mariadb/mysql.h", "/usr/include/postgresql/libpq-fe.h", "/usr/include/hiredis/hiredis.h"];
const GO_SOURCES: &[&str] = &[
    "/usr/share/gocode/src/github.com/go-sql-driver/mysql",
    "/usr/share/gocode/src/github.com/lib/pq",
    "/usr/share/gocode/src/github.com/gomodule/redigo",
];
const JARS: &[&str] = &["/usr/share/java/mariadb-java-client.jar", "/usr/share/java/postgresql.jar"];

const fn small(
    name: &'static str,
    protocol: &'static str,
    way: Way,
    needs: &'static [&'static str],
) -> Driver {
    Driver { name, protocol, way, needs, large: false }
}

const fn large(
    name: &'static str,
    protocol: &'static str,
    way: Way,
    needs: &'static [&'static str],
) -> Driver {
    Driver { name, protocol, way, needs, large: true }
}

impl Driver {
    /// Runs the program against a server.
    fn ask(&self, port: u16) -> Result<(), CannotRun> {
        let (directory, port) = (tempfile::tempdir_in("/tmp").expect("directory"), port.to_string());
        if let Way::Fpm = self.way {
            return self.ask_page(&directory, &port);
        }
        let mut command = self.way.command(&directory.path().join(self.name))?;
        let output = command.args([self.protocol, &port, self.name]).output().expect("a client");
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{} of {}: {said}", self.protocol, self.name);
        Ok(())
    }

    /// Lets a PHP page send the statements, behind nginx and FPM.
    fn ask_page(&self, directory: &tempfile::TempDir, port: &str) -> Result<(), CannotRun> {
        let versions = ["/usr/sbin/php-fpm8.2", "/usr/sbin/php-fpm8.4"];
        let fpm = versions.into_iter().find(|path| Path::new(path).exists());
        let fpm = fpm.ok_or_else(|| CannotRun::because("php-fpm is not installed"))?;
        let root = directory.path().display();
        let settings = format!(
            "[global]\nerror_log = {root}/log\ndaemonize = no\n[www]\nuser = root\nlisten = {root}/fpm\n\
             pm = static\npm.max_children = 1\n"
        );
        std::fs::write(directory.path().join("conf"), settings).expect("written");
        let mut command = Command::new(fpm);
        command
            .args(["--nodaemonize", "--allow-to-run-as-root", "--fpm-config"])
            .arg(directory.path().join("conf"));
        let _pool = Running::by_socket(command, &directory.path().join("fpm"));
        let script = source("db.php");
        let nginx = running::nginx(&format!(
            "location / {{ fastcgi_pass unix:{root}/fpm; fastcgi_param SCRIPT_FILENAME {};
             fastcgi_param QUERY_STRING $query_string; fastcgi_param REQUEST_METHOD $request_method; }}",
            script.display()
        ))?;
        let mut stream = TcpStream::connect(("127.0.0.1", nginx.port)).expect("connected");
        let query = format!("protocol={}&port={port}&name={}", self.protocol, self.name);
        write!(stream, "GET /{}?{query} HTTP/1.0\r\n\r\n", self.name).expect("sent");
        let mut page = String::new();
        stream.read_to_string(&mut page).expect("a page");
        assert!(page.starts_with("HTTP/1.1 200 ") && page.ends_with("done"), "{page}");
        Ok(())
    }
}

/// Exchanges of a side by operation and status, of a table or of a protocol without.
fn found(agent: &Agent, side: Side, protocol: Protocol, resource: &str) -> BTreeMap<(String, String), u64> {
    let mut found = BTreeMap::new();
    for series in agent.series(side, resource) {
        if series.key.protocol.enum_value() == Ok(protocol) {
            let key = (series.key.operation.clone(), series.key.status.clone());
            *found.entry(key).or_default() += series.duration.count;
        }
    }
    found
}

/// The drivers of one protocol, and the server that they share.
struct Suite {
    protocol: Protocol,
    start: fn() -> Result<Running, CannotRun>,
    /// The resource under which a driver's exchanges are found.
    resource: fn(&str) -> String,
    /// The requests that each program sends: operation, status, number.
    expected: &'static [(&'static str, &'static str, u64)],
    drivers: Vec<Driver>,
}

impl Suite {
    /// A test for each driver. The server is started by the first that runs, and ends with the last.
    fn tests(self) -> Vec<Trial> {
        let Self { protocol, start, resource, expected, drivers } = self;
        let server = Arc::new(Mutex::new(None::<Running>));
        let test = |driver: Driver| {
            let server = Arc::clone(&server);
            let name = format!("drivers::{}_of_{}_is_counted", driver.protocol, driver.name);
            Trial::new(name, move || {
                if driver.large {
                    needs::time()?;
                }
                needs::root()?;
                driver.needs.iter().try_for_each(|path| needs::file(path))?;
                let mut server = server.lock().unwrap_or_else(PoisonError::into_inner);
                let server = match &mut *server {
                    Some(server) => server,
                    none => none.insert(start()?),
                };
                assert_counted(&driver, server, protocol, &resource(driver.name), expected)
            })
        };
        drivers.into_iter().map(test).collect()
    }
}

/// Runs a driver, and compares what was counted of it with what it sends.
fn assert_counted(
    driver: &Driver,
    server: &Running,
    protocol: Protocol,
    resource: &str,
    expected: &[(&str, &str, u64)],
) -> Outcome {
    let mut agent = Agent::start(&[])?;
    driver.ask(server.port)?;
    agent.catch_up();
    for side in [Side::SIDE_SERVER, Side::SIDE_CLIENT] {
        let found = found(&agent, side, protocol, resource);
        for (operation, status, count) in expected {
            let key = ((*operation).to_owned(), (*status).to_owned());
            assert_eq!(found.get(&key), Some(count), "{operation} {status}, {side:?}: {found:?}");
        }
    }
    Ok(())
}

/// The tests of this file.
pub fn tests() -> Vec<Trial> {
    [mysql(), postgresql(), redis(), kafka(), http()].into_iter().flat_map(Suite::tests).collect()
}

fn mysql() -> Suite {
    Suite {
        protocol: Protocol::PROTOCOL_MYSQL,
        start: mysql_server,
        resource: str::to_owned,
        expected: &[("CREATE", "", 1), ("INSERT", "", 5), ("SELECT", "", 7), ("UPDATE", "1054", 1)],
        drivers: vec![
            small("python", "mysql", BY_PYTHON, &["/usr/lib/python3/dist-packages/pymysql"]),
            large("mysqlclient", "mysqlclient", BY_PYTHON, &["/usr/lib/python3/dist-packages/MySQLdb"]),
            large("php", "mysql", PHP, &["/usr/bin/php", "/etc/php"]),
            large("fpm", "mysql", Way::Fpm, &[]),
            large("ruby", "mysql", RUBY, &["/usr/share/doc/ruby-mysql2"]),
            large("c", "mysql", C, C_HEADERS),
            large(
                "cxx",
                "mysql",
                Way::Compiled("c++", "mysql.cc", &["-lmysqlcppconn"]),
                &["/usr/include/mysql_driver.h"],
            ),
            large("go", "mysql", Way::Go, GO_SOURCES),
            large("java", "mysql", Way::JavaPackaged("Db.java", JARS), JARS),
            large("node", "mysql", Way::Node("mysql2"), &[]),
            large("rust", "mysql", Way::Cargo, &[]),
        ],
    }
}

fn postgresql() -> Suite {
    Suite {
        protocol: Protocol::PROTOCOL_POSTGRESQL,
        start: running::postgres,
        resource: str::to_owned,
        expected: &[("CREATE", "", 1), ("INSERT", "", 5), ("SELECT", "", 7), ("UPDATE", "42703", 1)],
        drivers: vec![
            small("python", "postgresql", BY_PYTHON, &["/usr/lib/python3/dist-packages/psycopg2"]),
            large("php", "postgresql", PHP, &["/usr/bin/php", "/etc/php"]),
            large("fpm", "postgresql", Way::Fpm, &[]),
            large("ruby", "postgresql", RUBY, &["/usr/share/doc/ruby-pg"]),
            large("c", "postgresql", C, C_HEADERS),
            large(
                "cxx",
                "postgresql",
                Way::Compiled("c++", "db.cc", &["-lpqxx", "-lpq"]),
                &["/usr/include/pqxx/pqxx"],
            ),
            large("go", "postgresql", Way::Go, GO_SOURCES),
            large("java", "postgresql", Way::JavaPackaged("Db.java", JARS), JARS),
            large("node", "postgresql", Way::Node("pg"), &[]),
            large("rust", "postgresql", Way::Cargo, &[]),
        ],
    }
}

fn redis() -> Suite {
    Suite {
        protocol: Protocol::PROTOCOL_REDIS,
        start: running::redis,
        resource: |_| String::new(),
        expected: &[("SET", "", 5), ("GET", "", 7), ("LPUSH", "WRONGTYPE", 1)],
        drivers: vec![
            small("python", "redis", BY_PYTHON, &["/usr/lib/python3/dist-packages/redis"]),
            large("php", "redis", PHP, &["/usr/bin/php", "/etc/php"]),
            large("fpm", "redis", Way::Fpm, &[]),
            large("ruby", "redis", RUBY, &["/usr/share/doc/ruby-redis"]),
            large("c", "redis", C, C_HEADERS),
            large(
                "cxx",
                "redis",
                Way::Compiled("c++", "redis.cc", &["-lPocoRedis", "-lPocoNet", "-lPocoFoundation"]),
                &["/usr/include/Poco/Redis/Client.h"],
            ),
            large("go", "redis", Way::Go, GO_SOURCES),
            large("java", "redis", Way::JavaDownloaded("Cache.java"), &[]),
            large("node", "redis", Way::Node("redis"), &[]),
            large("rust", "redis", Way::Cargo, &[]),
        ],
    }
}

fn kafka() -> Suite {
    Suite {
        protocol: Protocol::PROTOCOL_KAFKA,
        start: running::kafka,
        resource: str::to_owned,
        expected: &[("Produce", "", 5)],
        drivers: vec![
            large("python", "kafka", BY_PYTHON, &["/usr/lib/python3/dist-packages/kafka"]),
            large(
                "c",
                "kafka",
                Way::Compiled("cc", "produce.c", &["-lrdkafka"]),
                &["/usr/include/librdkafka/rdkafka.h"],
            ),
            large(
                "cxx",
                "kafka",
                Way::Compiled("c++", "produce.cc", &["-lrdkafka++"]),
                &["/usr/include/librdkafka/rdkafkacpp.h"],
            ),
            large("go", "kafka", Way::GoModule, &[]),
            large("java", "kafka", Way::JavaDownloaded("Produce.java"), &[]),
            large("node", "kafka", Way::Node("kafkajs"), &[]),
            large("rust", "kafka", Way::Cargo, &[]),
        ],
    }
}

fn http() -> Suite {
    Suite {
        protocol: Protocol::PROTOCOL_HTTP1,
        start: http_server,
        resource: |name| format!("/asked-by-{name}"),
        expected: &[("GET", "200", 7), ("GET", "404", 3)],
        drivers: vec![large("fpm", "http", Way::Fpm, &["/usr/share/doc/php-curl"])],
    }
}

/// A database server with the database that the programs use.
fn mysql_server() -> Result<Running, CannotRun> {
    let server = running::mariadb()?;
    let create = ["--no-defaults", "-uroot", "-S", &server.path("s"), "-e", "CREATE DATABASE d"];
    assert!(quiet("mariadb", &create));
    Ok(server)
}

/// A web server that knows the paths of the page.
fn http_server() -> Result<Running, CannotRun> {
    running::nginx("location /asked-by-fpm { if ($arg_missing) { return 404; } return 200 hello; }")
}
