//! The exporter's process: started with a configuration of its own, watched through proc(5), killed when it is dropped.

use std::{
    fs,
    net::SocketAddr,
    path::Path,
    process::{Child, Command, Stdio},
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use tokio::time::{Instant, sleep};

/// Longest wait for a condition.
const PATIENCE: Duration = Duration::from_mins(3);

/// A running exporter.
pub struct Exporter {
    process: Child,
    pub address: SocketAddr,
}

impl Exporter {
    pub fn start(program: &Path, directory: &Path, registry: &Path) -> Result<Self> {
        let address = porthole_trials::ports::free_address()?;
        let configuration = directory.join("porthole.toml");
        let text = format!(
            "[registry]\ndirectory = \"{}\"\n[exporter]\nlisten = \"{address}\"\nstate_directory = \"{}\"\n\
             exposed_mib = 2048\nexposed_mib_per_tenant = 2048\n",
            registry.display(),
            directory.join("state").display()
        );
        fs::write(&configuration, text).context("the configuration")?;
        let process = Command::new(program)
            .arg("--config")
            .arg(&configuration)
            .env("PORTHOLE_LOG", "warn")
            .stdin(Stdio::null())
            .spawn()
            .with_context(|| format!("start {}", program.display()))?;
        Ok(Self { process, address })
    }

    /// Waits until it serves.
    pub async fn ready(&self) -> Result<()> {
        wait_for("the exporter", async || Ok(tokio::net::TcpStream::connect(self.address).await.is_ok()))
            .await?;
        self.settled().await
    }

    /// Waits until it does nothing.
    pub async fn settled(&self) -> Result<()> {
        let mut before = self.cpu_time()?;
        wait_for("an idle exporter", async || {
            sleep(Duration::from_millis(2_500)).await;
            let now = self.cpu_time()?;
            let used = now.saturating_sub(std::mem::replace(&mut before, now));
            Ok(used < Duration::from_millis(150))
        })
        .await
    }

    /// CPU time of all its threads, those that have ended included.
    pub fn cpu_time(&self) -> Result<Duration> {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.process.id()))?;
        let (_, fields) = stat.rsplit_once(") ").context("/proc/pid/stat")?;
        let fields: Vec<&str> = fields.split(' ').collect();
        // utime and stime, the 14th and 15th field (proc(5)), in ticks of 10 ms.
        let ticks = |at: usize| fields.get(at).and_then(|field| field.parse::<u64>().ok());
        let both = ticks(11).zip(ticks(12)).context("/proc/pid/stat")?;
        Ok(Duration::from_millis(10 * (both.0 + both.1)))
    }

    /// Resident memory.
    pub fn resident_bytes(&self) -> Result<u64> {
        self.status("VmRSS")
    }

    /// The most that was ever resident.
    pub fn peak_bytes(&self) -> Result<u64> {
        self.status("VmHWM")
    }

    fn status(&self, name: &str) -> Result<u64> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.process.id()))?;
        let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        let kib = line.and_then(|line| line.trim().strip_suffix(" kB")?.parse::<u64>().ok());
        Ok(1024 * kib.with_context(|| format!("{name} of /proc/pid/status"))?)
    }
}

impl Drop for Exporter {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Waits until a condition holds.
pub async fn wait_for(what: &str, mut holds: impl AsyncFnMut() -> Result<bool>) -> Result<()> {
    let began = Instant::now();
    while !holds().await? {
        ensure!(began.elapsed() < PATIENCE, "waited in vain for {what}");
        sleep(Duration::from_millis(50)).await;
    }
    Ok(())
}
