//! Clients of databases, caches and brokers by the drivers that programs of each language really use: exact counts on
//! both sides.
//!
//! The programs are in `drivers/`. Each makes a table with a name of its own, inserts five rows, asks seven times and
//! fails once; those of Redis, Kafka and HTTP do the like. Drivers that are large, or that come from a registry, run with
//! `cargo xtask test --all`.

use std::{
    collections::BTreeMap,
    io::{Read, Write as _},
    net::TcpStream,
    path::Path,
    process::Command,
};

use porthole_agent_api::{agent::Protocol, agent::Side};

use self::way::{Way, source};
use crate::{
    harness::{Agent, not_run},
    running::{self, Running, quiet},
};

mod way;

/// A language's driver.
struct Driver {
    /// Of the language; also the name of the table.
    name: &'static str,
    /// What the program is to speak.
    protocol: &'static str,
    way: Way,
    /// What must be there.
    needs: &'static [&'static str],
    /// It is only there with `--all`.
    large: bool,
}

const PYTHON: Way = Way::Script("/usr/bin/python3", "db.py");
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

/// The folder with the jars that come from Maven Central, and the class path of them all.
fn downloaded_jars() -> (&'static [&'static str], &'static [&'static str]) {
    // Without it the variable is what is missing.
    let folder = std::env::var("PORTHOLE_KAFKA_JARS").unwrap_or_else(|_| "PORTHOLE_KAFKA_JARS".to_owned());
    let jars: &str = format!("{folder}/*").leak();
    (vec![&*folder.leak()].leak(), vec![jars].leak())
}

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
    fn missing<T>(&self, why: &str) -> Option<T> {
        not_run(&format!(
            "{} of {}: {why}; `sudo -E cargo xtask test --all` installs it",
            self.protocol, self.name
        ))
    }

    /// Lets it ask; whether it could.
    fn ask(&self, port: u16) -> bool {
        let (directory, port) = (tempfile::tempdir_in("/tmp").expect("directory"), port.to_string());
        if let Some(missing) = self.needs.iter().find(|path| !Path::new(path).exists()) {
            return self.missing::<()>(&format!("{missing} is not there")).is_some();
        }
        if let Way::Fpm = self.way {
            return self.ask_page(&directory, &port).is_some();
        }
        let mut command = match self.way.command(&directory.path().join(self.name)) {
            Ok(command) => command,
            Err(why) => return self.missing::<()>(&why).is_some(),
        };
        let output = command.args([self.protocol, &port, self.name]).output().expect("a client");
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{} of {}: {said}", self.protocol, self.name);
        true
    }

    /// Lets a page ask, behind nginx and FPM.
    fn ask_page(&self, directory: &tempfile::TempDir, port: &str) -> Option<()> {
        let fpm = ["/usr/sbin/php-fpm8.2", "/usr/sbin/php-fpm8.4"]
            .into_iter()
            .find(|path| Path::new(path).exists());
        let Some(fpm) = fpm else { return self.missing("php-fpm is not installed") };
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
        Some(())
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

/// Lets each driver ask, and compares what was found of it with what it is known to ask.
fn assert_counted(
    drivers: &[Driver],
    server: &Running,
    protocol: Protocol,
    resource: fn(&str) -> String,
    expected: &[(&str, &str, u64)],
) {
    let Some(mut agent) = Agent::start(&[]) else { return };
    let all = std::env::var_os("PORTHOLE_TEST_ALL").is_some();
    let (run, left_out): (Vec<_>, Vec<_>) = drivers.iter().partition(|driver| all || !driver.large);
    if !left_out.is_empty() {
        let names: Vec<_> = left_out.iter().map(|driver| driver.name).collect();
        let names = names.join(", ");
        let _ = writeln!(
            std::io::stderr(),
            "NOT RUN: {protocol:?} of {names}; `sudo -E cargo xtask test --all` runs them"
        );
    }
    for driver in run {
        let resource = resource(driver.name);
        let sides = [Side::SIDE_SERVER, Side::SIDE_CLIENT];
        let before = sides.map(|side| found(&agent, side, protocol, &resource));
        if !driver.ask(server.port) {
            continue;
        }
        agent.catch_up();
        for (side, before) in sides.into_iter().zip(&before) {
            let after = found(&agent, side, protocol, &resource);
            for (operation, status, count) in expected {
                let key = ((*operation).to_owned(), (*status).to_owned());
                let of = |counts: &BTreeMap<_, u64>| counts.get(&key).copied().unwrap_or_default();
                let what = format!("{} of {}, {side:?}: {after:?}", driver.protocol, driver.name);
                assert_eq!(of(&after) - of(before), *count, "{operation} {status}, {what}");
            }
        }
    }
}

#[test]
fn mysql_drivers_are_counted() {
    let drivers = [
        small("python", "mysql", PYTHON, &["/usr/lib/python3/dist-packages/pymysql"]),
        large("mysqlclient", "mysqlclient", PYTHON, &["/usr/lib/python3/dist-packages/MySQLdb"]),
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
        large("java", "mysql", Way::Java("Db.java", JARS), JARS),
        large("node", "mysql", Way::Node("mysql2"), &[]),
        large("rust", "mysql", Way::Cargo, &[]),
    ];
    let Some(server) = running::mariadb() else { return };
    let create = ["--no-defaults", "-uroot", "-S", &server.path("s"), "-e", "CREATE DATABASE d"];
    assert!(quiet("mariadb", &create));
    let expected = [("CREATE", "", 1), ("INSERT", "", 5), ("SELECT", "", 7), ("UPDATE", "1054", 1)];
    assert_counted(&drivers, &server, Protocol::PROTOCOL_MYSQL, str::to_owned, &expected);
}

#[test]
fn postgresql_drivers_are_counted() {
    let drivers = [
        small("python", "postgresql", PYTHON, &["/usr/lib/python3/dist-packages/psycopg2"]),
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
        large("java", "postgresql", Way::Java("Db.java", JARS), JARS),
        large("node", "postgresql", Way::Node("pg"), &[]),
        large("rust", "postgresql", Way::Cargo, &[]),
    ];
    let Some(server) = running::postgres() else { return };
    let expected = [("CREATE", "", 1), ("INSERT", "", 5), ("SELECT", "", 7), ("UPDATE", "42703", 1)];
    assert_counted(&drivers, &server, Protocol::PROTOCOL_POSTGRESQL, str::to_owned, &expected);
}

#[test]
fn redis_drivers_are_counted() {
    let (folder, jars) = downloaded_jars();
    let drivers = [
        small("python", "redis", PYTHON, &["/usr/lib/python3/dist-packages/redis"]),
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
        large("java", "redis", Way::Java("Cache.java", jars), folder),
        large("node", "redis", Way::Node("redis"), &[]),
        large("rust", "redis", Way::Cargo, &[]),
    ];
    let Some(server) = running::redis() else { return };
    let expected = [("SET", "", 5), ("GET", "", 7), ("LPUSH", "WRONGTYPE", 1)];
    assert_counted(&drivers, &server, Protocol::PROTOCOL_REDIS, |_| String::new(), &expected);
}

#[test]
fn kafka_drivers_are_counted() {
    let (folder, jars) = downloaded_jars();
    let drivers = [
        large("python", "kafka", PYTHON, &["/usr/lib/python3/dist-packages/kafka"]),
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
        large("java", "kafka", Way::Java("Produce.java", jars), folder),
        large("node", "kafka", Way::Node("kafkajs"), &[]),
        large("rust", "kafka", Way::Cargo, &[]),
    ];
    let Some(server) = running::kafka() else { return };
    let expected = [("Produce", "", 5)];
    assert_counted(&drivers, &server, Protocol::PROTOCOL_KAFKA, str::to_owned, &expected);
}

#[test]
fn http_of_pages_is_counted() {
    let drivers = [large("fpm", "http", Way::Fpm, &["/usr/share/doc/php-curl"])];
    let locations = "location /asked-by-fpm { if ($arg_missing) { return 404; } return 200 hello; }";
    let Some(server) = running::nginx(locations) else { return };
    let expected = [("GET", "200", 7), ("GET", "404", 3)];
    let resource = |name: &str| format!("/asked-by-{name}");
    assert_counted(&drivers, &server, Protocol::PROTOCOL_HTTP1, resource, &expected);
}
