//! Debian packages: only what is missing, listed beforehand, and no service is started.

use std::{
    fs::{self, OpenOptions},
    io::Write,
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, bail};

use crate::{
    report,
    workspace::{require_root, run},
};

/// Where apt keeps what the distribution has.
const PACKAGE_LISTS: &str = "/var/lib/apt/lists";

/// Run by packages' scripts before they start a service; exit code 101 forbids it (Debian's
/// `invoke-rc.d`, "policy-rc.d interface").
const POLICY: &str = "/usr/sbin/policy-rc.d";

/// A package, and a file of it, by which it is found also where it was installed by other means.
#[derive(Clone, Copy, Debug)]
pub struct Need {
    package: &'static str,
    proof: &'static [&'static str],
    why: &'static str,
}

/// Why a driver is wanted.
const DRIVER: &str = "a driver whose calls are counted";

const fn need(package: &'static str, proof: &'static [&'static str], why: &'static str) -> Need {
    Need { package, proof, why }
}

/// Loads web servers.
const WRK: Need = need("wrk", &["wrk"], "loads it");

/// Gets what only Maven's repository has.
const MAVEN: Need = need("maven", &["mvn"], "gets a Kafka broker");

impl Need {
    /// To build programs and images.
    pub const BUILD: &'static [Self] = &[
        need("build-essential", &["cc"], "links Rust programs"),
        need("dpkg", &["dpkg-deb"], "unpacks the guest's kernel package"),
        need("xz-utils", &["xz"], "unpacks kernel modules"),
        need("zstd", &["zstd"], "unpacks kernel modules"),
    ];

    /// To build and check the dashboards.
    pub const WEB: &'static [Self] = &[
        need("nodejs", &["node"], "builds the dashboards"),
        need("npm", &["npm"], "gets the dashboards' packages"),
    ];

    /// To run sandboxes, applications and Prometheus.
    pub const RUN: &'static [Self] = &[
        need("containerd", &["containerd", "ctr"], "starts the containers"),
        need("runc", &["runc"], "the ordinary runtime, to compare with"),
        need("qemu-system-x86", &["qemu-system-x86_64"], "runs the guests"),
        need(
            "qemu-system-common",
            &["/usr/lib/qemu/virtiofsd", "/usr/libexec/virtiofsd"],
            "shares file systems with the guests",
        ),
        need("iproute2", &["ip", "tc"], "network namespaces"),
        need("mmdebstrap", &["mmdebstrap"], "makes the container image"),
        need("prometheus", &["prometheus", "promtool"], "scrapes the exporter"),
    ];

    /// To run a broker of Kafka beside that.
    pub const RUN_KAFKA: &'static [Self] = &[MAVEN];

    /// To measure nginx.
    pub const BENCH_NGINX: &'static [Self] =
        &[need("nginx-light", &["/usr/sbin/nginx"], "a server to measure"), WRK];

    /// To measure a server in Go.
    pub const BENCH_GO: &'static [Self] = &[need("golang-go", &["go"], "builds a server to measure"), WRK];

    /// To measure a server in Node.js.
    pub const BENCH_NODE: &'static [Self] = &[need("nodejs", &["node"], "runs a server to measure"), WRK];

    /// To measure Redis.
    pub const BENCH_REDIS: &'static [Self] = &[
        need("redis-server", &["redis-server"], "a server to measure"),
        need("redis-tools", &["redis-benchmark", "redis-cli"], "loads it"),
    ];

    /// To measure MariaDB.
    pub const BENCH_MARIADB: &'static [Self] = &[
        need("mariadb-server", &["mariadbd", "mariadb-install-db"], "a server to measure"),
        need("mariadb-client", &["mariadb"], "asks it what it has answered"),
        need("sysbench", &["sysbench", "/usr/share/sysbench/oltp_point_select.lua"], "loads it"),
    ];

    /// To count instructions in a guest.
    pub const GUEST: &'static [Self] = &[
        need("qemu-system-x86", &["qemu-system-x86_64"], "runs the guest"),
        need("iproute2", &["ip"], "brings up the guest's network"),
        need("libc-bin", &["ldd"], "says which libraries a server needs"),
    ];

    /// A web server in that guest.
    pub const GUEST_NGINX: &'static [Self] =
        &[need("nginx-light", &["/usr/sbin/nginx"], "a server to measure")];

    /// A key-value store in that guest.
    pub const GUEST_REDIS: &'static [Self] =
        &[need("redis-server", &["redis-server"], "a server to measure")];

    /// A database in that guest.
    pub const GUEST_MARIADB: &'static [Self] =
        &[need("mariadb-server", &["mariadbd"], "a server to measure")];

    /// A server in Go in that guest.
    pub const GUEST_GO: &'static [Self] = &[need("golang-go", &["go"], "builds a server to measure")];

    /// A server and client of gRPC in that guest.
    pub const GUEST_GRPC: &'static [Self] = &[
        need("golang-go", &["go"], "builds a server to measure"),
        need(
            "golang-google-grpc-dev",
            &["/usr/share/gocode/src/google.golang.org/grpc"],
            "Google's library for gRPC",
        ),
    ];

    /// A server in Python in that guest.
    pub const GUEST_PYTHON: &'static [Self] =
        &[need("python3", &["/usr/bin/python3"], "runs a server to measure")];

    /// To build programs in Go that tests need.
    pub const GO: &'static [Self] =
        &[need("golang-go", &["go"], "builds a collector, a backend of traces, a proxy")];

    /// To test beside that.
    pub const TEST: &'static [Self] = &[
        need("prometheus-alertmanager", &["prometheus-alertmanager"], "sends alerts on"),
        need("bind9-dnsutils", &["dig"], "asks the name server"),
        need("chromium", &["chromium"], "opens the dashboards"),
        need("cpio", &["cpio"], "reads the guests' initial file systems"),
        need("systemd", &["systemd-analyze"], "reads the unit in Kata's disk image"),
        need("curl", &["curl"], "asks in a container that ends at once"),
        need("dnsmasq-base", &["dnsmasq"], "a name server to count the questions of"),
        need("haproxy", &["/usr/sbin/haproxy"], "a proxy that lets the kernel move what it forwards"),
        need("nginx-light", &["/usr/sbin/nginx"], "a server to count the requests of"),
        need("redis-server", &["redis-server"], "a server to count the commands of"),
        need("redis-tools", &["redis-benchmark"], "asks it"),
        need("tshark", &["tshark"], "counts in capture files, to compare with"),
        need("mariadb-client", &["mariadb"], "asks the database"),
        need("mariadb-server", &["mariadbd", "mariadb-install-db"], "a database to count the statements of"),
        need(
            "postgresql",
            &["/usr/lib/postgresql/15/bin/postgres", "/usr/lib/postgresql/17/bin/postgres"],
            "a database to count the statements of",
        ),
        need("python3-asyncpg", &["/usr/lib/python3/dist-packages/asyncpg"], DRIVER),
        need("python3-grpcio", &["/usr/lib/python3/dist-packages/grpc"], DRIVER),
        need("python3-psycopg", &["/usr/lib/python3/dist-packages/psycopg"], DRIVER),
        need("python3-psycopg2", &["/usr/lib/python3/dist-packages/psycopg2"], DRIVER),
        need("python3-pymysql", &["/usr/lib/python3/dist-packages/pymysql"], DRIVER),
        need("python3-redis", &["/usr/lib/python3/dist-packages/redis"], DRIVER),
        need(
            "python3-prometheus-client",
            &["/usr/lib/python3/dist-packages/prometheus_client/openmetrics/parser.py"],
            "reads OpenMetrics strictly",
        ),
    ];

    /// What some releases of the distribution lack; tests without it are ignored.
    pub const TEST_WHERE_THERE_IS_ONE: &'static [Self] =
        &[need("victoria-metrics", &["victoria-metrics"], "stores what Prometheus in agent mode writes")];

    /// To test what takes large toolchains too.
    pub const TEST_ALL: &'static [Self] = &[
        need("nodejs", &["node"], "a language whose servers and clients are tested"),
        need("golang-go", &["go"], "a language whose servers and clients are tested"),
        need("default-jdk-headless", &["java"], "a language whose servers and clients are tested"),
        need("php-cli", &["php"], "a language whose servers and clients are tested"),
        need("ruby", &["ruby"], "a language whose servers and clients are tested"),
        need("ruby-webrick", &["/usr/share/doc/ruby-webrick"], "Ruby's usual small server"),
        need("npm", &["npm"], "gets drivers for Node.js"),
        MAVEN,
        need("python3-pip", &["/usr/lib/python3/dist-packages/pip"], "gets drivers for Python"),
        need("php-fpm", &["/usr/sbin/php-fpm8.2", "/usr/sbin/php-fpm8.4"], "PHP behind nginx"),
        need("php-curl", &["/usr/share/doc/php-curl"], DRIVER),
        need("php-mysql", &["/usr/share/doc/php-mysql"], DRIVER),
        need("php-pgsql", &["/usr/share/doc/php-pgsql"], DRIVER),
        need("php-redis", &["/usr/share/doc/php-redis"], DRIVER),
        need("python3-mysqldb", &["/usr/lib/python3/dist-packages/MySQLdb"], DRIVER),
        need("python3-kafka", &["/usr/lib/python3/dist-packages/kafka"], DRIVER),
        need("ruby-mysql2", &["/usr/share/doc/ruby-mysql2"], DRIVER),
        need("ruby-pg", &["/usr/share/doc/ruby-pg"], DRIVER),
        need("ruby-redis", &["/usr/share/doc/ruby-redis"], DRIVER),
        need("libmariadb-dev", &["/usr/include/mariadb/mysql.h"], DRIVER),
        need("libpq-dev", &["/usr/include/postgresql/libpq-fe.h"], DRIVER),
        need("libcpp-httplib-dev", &["/usr/include/httplib.h"], "a usual small server and client of C++"),
        need("libmysqlcppconn-dev", &["/usr/include/mysql_driver.h"], DRIVER),
        need("libpoco-dev", &["/usr/include/Poco/Redis/Client.h"], DRIVER),
        need("libpqxx-dev", &["/usr/include/pqxx/pqxx"], DRIVER),
        need("libhiredis-dev", &["/usr/include/hiredis/hiredis.h"], DRIVER),
        need("librdkafka-dev", &["/usr/include/librdkafka/rdkafka.h"], DRIVER),
        need("libmariadb-java", &["/usr/share/java/mariadb-java-client.jar"], DRIVER),
        need("libpostgresql-jdbc-java", &["/usr/share/java/postgresql.jar"], DRIVER),
        need(
            "golang-github-go-sql-driver-mysql-dev",
            &["/usr/share/gocode/src/github.com/go-sql-driver/mysql"],
            DRIVER,
        ),
        need("golang-github-lib-pq-dev", &["/usr/share/gocode/src/github.com/lib/pq"], DRIVER),
        need(
            "golang-github-gomodule-redigo-dev",
            &["/usr/share/gocode/src/github.com/gomodule/redigo"],
            DRIVER,
        ),
    ];

    fn is_there(&self) -> bool {
        let found = |proof: &&str| {
            if proof.starts_with('/') { Path::new(proof).exists() } else { in_path(proof).is_some() }
        };
        // Paths are alternatives, names are all needed.
        if self.proof.iter().all(|proof| proof.starts_with('/')) {
            self.proof.iter().any(found)
        } else {
            self.proof.iter().all(found)
        }
    }
}

/// A program in the PATH or in the system's directories.
fn in_path(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let system = ["/usr/sbin", "/usr/bin", "/sbin", "/bin"].map(PathBuf::from);
    std::env::split_paths(&path)
        .chain(system)
        .map(|directory| directory.join(program))
        .find(|path| path.is_file())
}

/// Installs what is missing of these.
pub fn install(needs: &[Need]) -> Result<()> {
    let missing: Vec<_> = needs.iter().filter(|need| !need.is_there()).collect();
    if missing.is_empty() {
        return Ok(());
    }
    let names: Vec<_> = missing.iter().map(|need| need.package).collect();
    if in_path("apt-get").is_none() {
        bail!(
            "missing: {}; this is no Debian-like machine, so please install them yourself",
            names.join(", ")
        );
    }
    eprintln!("==> going to install distribution packages; their services will not be started:");
    for need in &missing {
        report::note(&format!("{:20} {}", need.package, need.why));
    }
    require_root("installing packages")?;
    report::step("install packages", || {
        let _policy = Policy::forbid_services()?;
        refresh_index()?;
        let mut install = apt();
        install.args(["--quiet", "--yes", "--no-install-recommends", "install"]).args(&names);
        run(&mut install)
    })?;
    let absent: Vec<_> = missing.iter().filter(|need| !need.is_there()).map(|need| need.package).collect();
    if !absent.is_empty() {
        bail!("installed, but without the expected programs: {}", absent.join(", "));
    }
    Ok(())
}

/// Installs what is missing of these, as far as the distribution has it.
pub fn install_available(needs: &[Need]) -> Result<()> {
    let missing: Vec<_> = needs.iter().filter(|need| !need.is_there()).collect();
    if !missing.is_empty() && in_path("apt-get").is_some() && !has_package_lists(Path::new(PACKAGE_LISTS)) {
        // What is missing is of use, and not needed: neither is the index.
        if let Err(error) = report::step("refresh the package index", refresh_index) {
            report::note(&format!("what the distribution has is not known: {error:#}"));
        }
    }
    let mut available = Vec::new();
    for need in missing {
        if is_known(need.package) {
            available.push(*need);
        } else {
            report::note(&format!("the distribution has no {}: it {}", need.package, need.why));
        }
    }
    install(&available)
}

/// Whether apt has lists of what the distribution has. Images of containers come without.
fn has_package_lists(directory: &Path) -> bool {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    entries.into_iter().any(|entry| entry.file_name().to_string_lossy().contains("_Packages"))
}

/// Whether the package lists have it.
fn is_known(package: &str) -> bool {
    let found = Command::new("apt-cache").args(["show", package]).output();
    found.is_ok_and(|found| found.status.success())
}

fn refresh_index() -> Result<()> {
    run(apt().args(["--quiet", "update"])).context("the package index could not be refreshed")
}

fn apt() -> Command {
    let mut command = Command::new("apt-get");
    // The last two: never prompt, never restart what runs.
    command
        .env("DEBIAN_FRONTEND", "noninteractive")
        .env("NEEDRESTART_MODE", "l")
        .env("NEEDRESTART_SUSPEND", "1");
    command.args(["-o", "Dpkg::Options::=--force-confold", "-o", "DPkg::Lock::Timeout=120"]);
    command
}

/// Forbids the start of services until it is dropped. A policy that is there already is not touched: it is the
/// machine's own, and stays in charge.
struct Policy {
    ours: bool,
}

impl Policy {
    fn forbid_services() -> Result<Self> {
        let file = OpenOptions::new().write(true).create_new(true).mode(0o755).open(POLICY);
        match file {
            Ok(mut file) => {
                let policy = Self { ours: true };
                file.write_all(b"#!/bin/sh\n# Written by `cargo xtask`, which removes it when it has installed.\nexit 101\n")
                    .with_context(|| format!("write {POLICY}"))?;
                Ok(policy)
            }
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {
                report::note(&format!(
                    "{POLICY} exists and stays as it is: it decides whether services start"
                ));
                Ok(Self { ours: false })
            }
            Err(error) => Err(error).with_context(|| format!("create {POLICY}")),
        }
    }
}

impl Drop for Policy {
    fn drop(&mut self) {
        if self.ours
            && let Err(error) = fs::remove_file(POLICY)
        {
            eprintln!("warning: remove {POLICY} yourself, it forbids starting services: {error}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn package_lists_are_told_from_a_directory_that_was_emptied() {
        let directory = tempfile::tempdir().expect("directory");
        let lists = directory.path();
        assert!(!has_package_lists(&lists.join("absent")));
        for name in ["lock", "deb.example_dists_trixie_InRelease"] {
            fs::write(lists.join(name), "").expect("written");
        }
        assert!(!has_package_lists(lists));
        fs::write(lists.join("deb.example_dists_trixie_main_binary-amd64_Packages.lz4"), "")
            .expect("written");
        assert!(has_package_lists(lists));
    }
}
