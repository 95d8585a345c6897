//! A server under measurement: how it is started, and how its own count is read.

use std::{fs, net::SocketAddr, path::Path, process::Command, time::Duration};

use anyhow::{Context, Result, ensure};
use porthole_testbed::{command, daemon::Daemon, exporter::free_address, http, wait};

use crate::{
    bench::{
        load::{self, Load, Run},
        workload::Workload,
    },
    workspace::Workspace,
};

/// About what one core does, commands a second.
const NATIVE_REDIS_RATE: u64 = 80_000;

/// How long a server may take to start, to answer, to be built.
const DEADLINE: Duration = Duration::from_mins(2);

/// A running server.
pub struct Server {
    workload: Workload,
    daemon: Daemon,
    address: SocketAddr,
    /// What [`Self::answered`] itself adds to its next answer.
    asking: u64,
}

impl Server {
    /// Starts the server of a workload, with its files in a directory.
    pub fn start(workload: Workload, workspace: &Workspace, directory: &Path) -> Result<Self> {
        let address = free_address()?;
        let port = address.port();
        let mut command = match workload {
            Workload::Nginx => nginx(directory, port)?,
            Workload::Go => go(workspace, directory, port)?,
            Workload::Node => node(workspace, port),
            Workload::Redis | Workload::RedisPipelined => redis(directory, port),
            Workload::MariadbText | Workload::MariadbPrepared => mariadb(directory, port)?,
        };
        let log = directory.join("log").join(format!("{}.log", workload.name()));
        let daemon = Daemon::spawn(workload.name(), &mut command, &log)?;
        let mut server = Self { workload, daemon, address, asking: 0 };
        wait::until("the server answers", DEADLINE, || {
            server.daemon.check()?;
            server.answered().map(Some)
        })?;
        if matches!(workload, Workload::MariadbText | Workload::MariadbPrepared) {
            server.sql("CREATE DATABASE bench")?;
            let words = load::sysbench(port);
            let (program, arguments) = words.split_once(' ').context("sysbench")?;
            let mut prepare = Command::new(program);
            command::succeed(prepare.args(arguments.split(' ')).arg("prepare"), DEADLINE)?;
        }
        let first = server.answered()?;
        server.asking = server.answered()?.saturating_sub(first);
        Ok(server)
    }

    /// Loads it for about this long.
    pub fn load(&mut self, seconds: u32) -> Result<Run> {
        self.daemon.check()?;
        Load::new(self.workload, self.address.port(), seconds, NATIVE_REDIS_RATE).run()
    }

    /// Does something; returns how many requests the server has answered meanwhile, by its own count.
    pub fn answered_during<T>(&mut self, work: impl FnOnce(&mut Self) -> Result<T>) -> Result<(T, u64)> {
        let before = self.answered()?;
        let done = work(self)?;
        Ok((done, self.answered()?.saturating_sub(before + self.asking)))
    }

    /// Requests that the server counts by itself. Clients leave some out, of their first moments or their own.
    fn answered(&self) -> Result<u64> {
        let port = self.address.port().to_string();
        let text = match self.workload {
            Workload::Nginx | Workload::Go | Workload::Node => {
                let response = http::get(self.address, "/answered")?;
                ensure!(response.status == 200, "/answered answered {}", response.status);
                response.text()
            }
            Workload::Redis | Workload::RedisPipelined => {
                let mut ask = Command::new("redis-cli");
                command::succeed(ask.args(["-p", &port, "INFO", "stats"]), DEADLINE)?.text()
            }
            Workload::MariadbText | Workload::MariadbPrepared => {
                self.sql("SHOW GLOBAL STATUS WHERE Variable_name IN ('Com_select', 'Com_stmt_prepare')")?
            }
        };
        count(self.workload, &text).with_context(|| format!("how many requests it answered, in:\n{text}"))
    }

    fn sql(&self, statement: &str) -> Result<String> {
        let port = self.address.port().to_string();
        let mut ask = Command::new("mariadb");
        ask.args(["--no-defaults", "-uroot", "-h127.0.0.1", "-N", "-B", "-P", &port, "-e", statement]);
        Ok(command::succeed(&mut ask, DEADLINE)?.text())
    }

    /// Ends it.
    pub fn stop(mut self) -> Result<()> {
        self.daemon.stop().map(drop)
    }
}

/// The count in a server's own report.
fn count(workload: Workload, text: &str) -> Option<u64> {
    match workload {
        // nginx: accepted connections, handled connections, requests, below their names.
        Workload::Nginx => {
            let mut lines = text.lines().skip_while(|line| !line.starts_with("server accepts"));
            lines.nth(1)?.split_whitespace().nth(2)?.parse().ok()
        }
        Workload::Go | Workload::Node => text.trim().parse().ok(),
        Workload::Redis | Workload::RedisPipelined => {
            text.lines().find_map(|line| line.strip_prefix("total_commands_processed:"))?.trim().parse().ok()
        }
        Workload::MariadbText | Workload::MariadbPrepared => {
            text.lines().map(|line| line.split_whitespace().nth(1)?.parse::<u64>().ok()).sum()
        }
    }
}

fn nginx(directory: &Path, port: u16) -> Result<Command> {
    let shown = directory.display();
    let text = format!(
        "worker_processes 1; daemon off; user root; pid {shown}/nginx.pid; error_log {shown}/log/nginx.log;\n\
         events {{ worker_connections 1024; }}\n\
         http {{ access_log off; keepalive_requests 1000000000; client_body_temp_path {shown};\n\
         proxy_temp_path {shown}; fastcgi_temp_path {shown}; uwsgi_temp_path {shown}; scgi_temp_path {shown};\n\
         server {{ listen 127.0.0.1:{port}; location / {{ return 200 \"hello\\n\"; }}\n\
         location /answered {{ stub_status; }} }} }}\n"
    );
    let configuration = directory.join("nginx.conf");
    fs::write(&configuration, text).context("write nginx.conf")?;
    let mut command = Command::new("/usr/sbin/nginx");
    command.arg("-e").arg(directory.join("log/nginx.log")).arg("-c").arg(&configuration);
    Ok(command)
}

/// The servers whose exact counts are tested, in their languages.
const LANGUAGES: &str = "guest-agent/tests/native/languages";

fn go(workspace: &Workspace, directory: &Path, port: u16) -> Result<Command> {
    let program = directory.join("web-go");
    let mut build = Command::new("go");
    build.arg("build").arg("-o").arg(&program).arg(workspace.root.join(LANGUAGES).join("web.go"));
    // Nothing of the network, nothing of a module that happens to be around.
    build.env("GO111MODULE", "off").env("GOTOOLCHAIN", "local");
    command::succeed(&mut build, DEADLINE)?;
    let mut command = Command::new(program);
    command.arg("server").arg(port.to_string());
    Ok(command)
}

fn node(workspace: &Workspace, port: u16) -> Command {
    let mut command = Command::new("node");
    command.arg(workspace.root.join(LANGUAGES).join("web.js")).arg("server").arg(port.to_string());
    command
}

fn redis(directory: &Path, port: u16) -> Command {
    let mut command = Command::new("redis-server");
    command.args(["--port", &port.to_string(), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"]);
    command.arg("--dir").arg(directory);
    command
}

/// A database that lets root in without a password. It runs as this user, for whom alone the directory is.
fn mariadb(directory: &Path, port: u16) -> Result<Command> {
    let data = directory.join("mariadb");
    if data.exists() {
        fs::remove_dir_all(&data).context("remove the database of before")?;
    }
    let shown = data.display();
    let common = ["--no-defaults".to_owned(), "--user=root".to_owned(), format!("--datadir={shown}")];
    // Small files: the directory may be in memory.
    let small = ["--innodb-log-file-size=8M", "--innodb-buffer-pool-size=32M", "--innodb-flush-method=fsync"];
    let mut install = Command::new("mariadb-install-db");
    install.args(&common).args(small).arg("--auth-root-authentication-method=normal");
    command::succeed(&mut install, DEADLINE)?;
    let mut command = Command::new("mariadbd");
    command.args(&common).args(small).args([
        "--bind-address=127.0.0.1".to_owned(),
        format!("--port={port}"),
        format!("--socket={shown}/s"),
        format!("--pid-file={shown}/pid"),
    ]);
    Ok(command)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn servers_counts_are_read() {
        let nginx = "Active connections: 1 \nserver accepts handled requests\n 9 8 17 \nReading: 0 Writing: 1 Waiting: 0 \n";
        let redis = "# Stats\r\ntotal_connections_received:13\r\ntotal_commands_processed:8004\r\n";
        let mariadb = "Com_select\t126542\nCom_stmt_prepare\t8\n";
        for (workload, text, expected) in [
            (Workload::Nginx, nginx, 17),
            (Workload::Redis, redis, 8004),
            (Workload::MariadbPrepared, mariadb, 126_550),
            (Workload::Node, "12\n", 12),
        ] {
            assert_eq!(count(workload, text), Some(expected), "{workload:?}");
            assert_eq!(count(workload, "<html>"), None, "{workload:?}");
        }
    }
}
