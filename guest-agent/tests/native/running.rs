//! Real servers, started for one test.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use porthole_trials::{CannotRun, needs, ports::free_address};

use crate::harness::wait_for;

/// A server that ends with the test, and its directory with it.
pub struct Running {
    child: Child,
    /// The signal that ends it at once.
    signal: libc::c_int,
    pub port: u16,
    pub directory: tempfile::TempDir,
}

impl Running {
    fn start(mut command: Command, signal: libc::c_int, port: u16, directory: tempfile::TempDir) -> Self {
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn();
        Self { child: child.expect("a server"), signal, port, directory }
    }

    /// A server that listens on a unix socket and ends at once on SIGTERM.
    pub fn by_socket(command: Command, socket: &Path) -> Self {
        let directory = tempfile::tempdir().expect("directory");
        let running = Self::start(command, libc::SIGTERM, 0, directory);
        wait_for("the server listens", || std::os::unix::net::UnixStream::connect(socket).ok());
        running
    }

    /// The path of a file in its directory.
    pub fn path(&self, name: &str) -> String {
        self.directory.path().join(name).display().to_string()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let pid = libc::pid_t::try_from(self.child.id()).expect("a pid");
        // SAFETY: a child of ours that was not waited for.
        unsafe { libc::kill(pid, self.signal) };
        let _ = self.child.wait();
    }
}

/// Runs a program to its end; whether it succeeded.
pub fn quiet(program: &str, arguments: &[&str]) -> bool {
    let mut command = Command::new(program);
    command.args(arguments).env("PGUSER", "postgres");
    command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|status| status.success())
}

/// A port on which nothing listens.
pub fn free_port() -> u16 {
    free_address().expect("an address").port()
}

/// A directory that this user owns.
fn directory_of(user: &str) -> Result<tempfile::TempDir, CannotRun> {
    needs::root()?;
    let directory = tempfile::tempdir().expect("directory");
    assert!(quiet("chown", &[user, directory.path().to_str().expect("text")]));
    Ok(directory)
}

fn listens(port: u16) {
    wait_for("the server listens", || std::net::TcpStream::connect(("127.0.0.1", port)).ok());
}

/// A web server with these locations; it also listens on the socket `s` of its directory's path.
pub fn nginx(locations: &str) -> Result<Running, CannotRun> {
    needs::program("nginx")?;
    let (directory, port) = (tempfile::tempdir_in("/tmp").expect("directory"), free_port());
    let root = directory.path().display();
    let configuration = format!(
        "user root; worker_processes 1; daemon off; pid {root}/pid; error_log {root}/error; events {{}}
         http {{ access_log off; keepalive_requests 10000000; client_body_temp_path {root}/a;
         proxy_temp_path {root}/b; fastcgi_temp_path {root}/c; uwsgi_temp_path {root}/d; scgi_temp_path {root}/e;
         server {{ listen 127.0.0.1:{port}; {locations} }} }}"
    );
    fs::write(directory.path().join("conf"), configuration).expect("written");
    let mut command = Command::new("nginx");
    command.arg("-c").arg(directory.path().join("conf")).arg("-p").arg(directory.path());
    // Not by SIGKILL: it has a worker to take along.
    let running = Running::start(command, libc::SIGTERM, port, directory);
    listens(port);
    Ok(running)
}

/// A proxy in front of this server, in mode `http` or `tcp`, that lets the kernel move what it can.
pub fn haproxy(mode: &str, server: std::net::SocketAddr) -> Result<Running, CannotRun> {
    needs::program("haproxy")?;
    let (directory, port) = (tempfile::tempdir().expect("directory"), free_port());
    let configuration = format!(
        "defaults\n mode {mode}\n timeout connect 60s\n timeout client 60s\n timeout server 60s\n \
         option splice-request\n option splice-response\n\
         listen all\n bind 127.0.0.1:{port}\n server only {server}\n"
    );
    fs::write(directory.path().join("conf"), configuration).expect("written");
    let mut command = Command::new("haproxy");
    command.arg("-db").arg("-f").arg(directory.path().join("conf"));
    let running = Running::start(command, libc::SIGTERM, port, directory);
    Ok(running)
}

/// A database that lets root in without a password, by TCP and by the socket `s` in its directory.
pub fn mariadb() -> Result<Running, CannotRun> {
    for program in ["mariadbd", "mariadb", "mariadb-install-db"] {
        needs::program(program)?;
    }
    let (directory, port) = (directory_of("mysql")?, free_port());
    let data = directory.path().to_str().expect("text");
    let (datadir, socket) = (format!("--datadir={data}"), format!("{data}/s"));
    let install = ["--no-defaults", "--user=mysql", &datadir, "--auth-root-authentication-method=normal"];
    assert!(quiet("mariadb-install-db", &install));
    let mut command = Command::new("mariadbd");
    command.args(["--no-defaults", "--user=mysql", &datadir, "--bind-address=127.0.0.1"]).args([
        format!("--socket={socket}"),
        format!("--port={port}"),
        format!("--pid-file={data}/pid"),
    ]);
    let running = Running::start(command, libc::SIGQUIT, port, directory);
    let ask = ["--no-defaults", "-uroot", "-S", &socket, "-e", "SELECT 1"];
    wait_for("mariadbd answers", || quiet("mariadb", &ask).then_some(()));
    Ok(running)
}

/// A database without authentication, by TCP and by a socket in its directory.
pub fn postgres() -> Result<Running, CannotRun> {
    let initdb = postgres_program("initdb");
    needs::program(&postgres_program("postgres"))?;
    let (directory, port) = (directory_of("postgres")?, free_port());
    let data = directory.path().to_str().expect("text");
    let (database, number) = (format!("{data}/db"), port.to_string());
    let as_user = ["--reuid=postgres", "--regid=postgres", "--init-groups"];
    assert!(quiet("setpriv", &[&as_user[..], &[&initdb, "-D", &database, "-A", "trust"]].concat()));
    let mut command = Command::new("setpriv");
    command
        .args(as_user)
        .args([&postgres_program("postgres"), "-D", &database, "-p", &number, "-k", data])
        .args(["-c", "listen_addresses=127.0.0.1"]);
    let data = data.to_owned();
    let running = Running::start(command, libc::SIGQUIT, port, directory);
    let psql = postgres_program("psql");
    let ask = ["-h", &data, "-p", &number, "-c", "SELECT 1"];
    wait_for("postgres answers", || quiet(&psql, &ask).then_some(()));
    Ok(running)
}

/// The path of one of PostgreSQL's programs: Debian 12's or 13's, or those in `PG_BIN`.
pub fn postgres_program(name: &str) -> String {
    let known = ["/usr/lib/postgresql/15/bin", "/usr/lib/postgresql/17/bin"];
    let found = known.into_iter().find(|path| Path::new(path).exists());
    let programs = std::env::var("PG_BIN").unwrap_or_else(|_| found.unwrap_or(known[0]).to_owned());
    format!("{programs}/{name}")
}

/// A cache.
pub fn redis() -> Result<Running, CannotRun> {
    needs::program("redis-server")?;
    let (directory, port) = (tempfile::tempdir().expect("directory"), free_port());
    let mut command = Command::new("redis-server");
    command
        .args(["--port", &port.to_string(), "--bind", "127.0.0.1", "--appendonly", "no", "--save", ""])
        .arg("--dir")
        .arg(directory.path());
    let running = Running::start(command, libc::SIGTERM, port, directory);
    listens(port);
    Ok(running)
}

/// A name server that knows `known.<zone>`, and that nothing else is in the zone.
pub fn dnsmasq(zone: &str) -> Result<Running, CannotRun> {
    needs::program("dnsmasq")?;
    let (directory, port) = (tempfile::tempdir().expect("directory"), free_port());
    let mut command = Command::new("dnsmasq");
    command
        .args(["--keep-in-foreground", "--conf-file=/dev/null", "--no-resolv", "--no-hosts", "--user=root"])
        .args(["--listen-address=127.0.0.1", "--bind-interfaces", "--pid-file="])
        .args([format!("--port={port}"), format!("--local=/{zone}/")])
        .arg(format!("--host-record=known.{zone},10.1.2.3"))
        .arg(format!("--host-record=near.{zone},127.0.0.9"));
    let running = Running::start(command, libc::SIGKILL, port, directory);
    listens(port);
    Ok(running)
}

/// The folders with the jars of Kafka's releases, the newest first; beside that one's are those of clients in Java.
pub fn kafka_releases() -> Result<Vec<PathBuf>, CannotRun> {
    needs::time()?;
    let folders = std::env::var_os("PORTHOLE_KAFKA_JARS");
    let folders: Vec<PathBuf> = folders.iter().flat_map(std::env::split_paths).collect();
    if folders.is_empty() {
        return Err(CannotRun::because("PORTHOLE_KAFKA_JARS names no folder with a broker's jars"));
    }
    Ok(folders)
}

/// The newest release's.
pub fn kafka_jars() -> Result<String, CannotRun> {
    Ok(kafka_releases()?[0].display().to_string())
}

/// A broker that creates topics on their first use.
pub fn kafka() -> Result<Running, CannotRun> {
    Ok(kafka_of(&kafka_releases()?[0], None))
}

/// A broker, and the port at which it requires a login: `shop` with the password `s3cret`, by PLAIN or SCRAM-SHA-256.
pub struct Kafka {
    pub server: Running,
    pub login_port: u16,
}

/// A broker of this release that takes records of some megabytes.
pub fn kafka_with_logins(jars: &Path) -> Result<Kafka, CannotRun> {
    needs::program("java")?;
    let login_port = free_port();
    let server = kafka_of(jars, Some(login_port));
    listens(login_port);
    Ok(Kafka { server, login_port })
}

/// A broker of this release, with a port for logins if one is given.
fn kafka_of(jars: &Path, login: Option<u16>) -> Running {
    let (directory, port, controller) = (tempfile::tempdir().expect("directory"), free_port(), free_port());
    let (root, properties) = (directory.path().display(), directory.path().join("server.properties"));
    let logins = login.map(|port| format!(",SASL_PLAINTEXT://127.0.0.1:{port}")).unwrap_or_default();
    let modules = "org.apache.kafka.common.security";
    let text = format!(
        "process.roles=broker,controller\nnode.id=1\ncontroller.quorum.voters=1@127.0.0.1:{controller}\n\
         listeners=PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller}{logins}\n\
         advertised.listeners=PLAINTEXT://127.0.0.1:{port}{logins}\ncontroller.listener.names=CONTROLLER\n\
         listener.security.protocol.map=CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT,SASL_PLAINTEXT:SASL_PLAINTEXT\n\
         sasl.enabled.mechanisms=PLAIN,SCRAM-SHA-256\n\
         listener.name.sasl_plaintext.plain.sasl.jaas.config={modules}.plain.PlainLoginModule required \
         user_shop=\"s3cret\";\n\
         listener.name.sasl_plaintext.scram-sha-256.sasl.jaas.config={modules}.scram.ScramLoginModule required;\n\
         log.dirs={root}/logs\noffsets.topic.num.partitions=1\noffsets.topic.replication.factor=1\n\
         transaction.state.log.replication.factor=1\ntransaction.state.log.min.isr=1\n\
         group.initial.rebalance.delay.ms=0\nauto.create.topics.enable=true\nnum.partitions=1\n\
         message.max.bytes=8000000\n"
    );
    fs::write(&properties, text).expect("written");
    let (classes, properties) = (format!("{}/*", jars.display()), properties.display().to_string());
    let user = "SCRAM-SHA-256=[name=shop,password=s3cret]";
    let format = ["kafka.tools.StorageTool", "format", "-t", "MkU3OEVBNTcwNTJENDM2Qg", "-c", &properties];
    assert!(quiet("java", &[&["-Xmx256m", "-cp", &classes][..], &format, &["--add-scram", user]].concat()));
    let mut command = Command::new("java");
    command.args(["-Xmx512m", "-cp", &classes, "kafka.Kafka", &properties]);
    let running = Running::start(command, libc::SIGKILL, port, directory);
    listens(port);
    running
}
