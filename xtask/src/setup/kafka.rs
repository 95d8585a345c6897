//! Kafka brokers and Jedis, which no distribution has: their jars from Maven Central.

use std::{
    env,
    ffi::OsString,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result};

use crate::workspace::{Workspace, run};

/// The releases that the tests run, the newest first.
const VERSIONS: [&str; 2] = ["4.0.0", "3.9.1"];

/// The release of Jedis, a client of Redis; it uses the same slf4j as Kafka.
const JEDIS: &str = "6.2.0";

/// The folders with the jars of each release's broker, of Kafka's own client and of Jedis, as a path list; downloads them
/// once.
pub fn jars(workspace: &Workspace) -> Result<OsString> {
    let folders: Vec<_> =
        VERSIONS.iter().map(|version| jars_of(workspace, version)).collect::<Result<_>>()?;
    env::join_paths(&folders).context("list the folders with Kafka's jars")
}

/// The folder of the newest release.
pub fn newest_jars(workspace: &Workspace) -> Result<PathBuf> {
    jars_of(workspace, VERSIONS[0])
}

fn jars_of(workspace: &Workspace, version: &str) -> Result<PathBuf> {
    let directory = workspace.target.join("kafka").join(version);
    let jars = directory.join("jars");
    let wanted = [format!("kafka_2.13-{version}.jar"), format!("jedis-{JEDIS}.jar")];
    if !wanted.iter().all(|name| jars.join(name).exists()) {
        fs::create_dir_all(&directory).with_context(|| format!("make {}", directory.display()))?;
        download(version, &directory, &jars)?;
    }
    Ok(jars)
}

fn download(version: &str, directory: &Path, jars: &Path) -> Result<()> {
    let project = format!(
        r#"<project xmlns="http://maven.apache.org/POM/4.0.0">
  <modelVersion>4.0.0</modelVersion>
  <groupId>porthole</groupId>
  <artifactId>kafka</artifactId>
  <version>0</version>
  <dependencies>
    <dependency>
      <groupId>org.apache.kafka</groupId>
      <artifactId>kafka_2.13</artifactId>
      <version>{version}</version>
    </dependency>
    <dependency>
      <groupId>redis.clients</groupId>
      <artifactId>jedis</artifactId>
      <version>{JEDIS}</version>
    </dependency>
  </dependencies>
</project>
"#
    );
    let file = directory.join("pom.xml");
    fs::write(&file, project).with_context(|| format!("write {}", file.display()))?;
    let mut command = Command::new("mvn");
    command
        .current_dir(directory)
        .args(["--quiet", "--batch-mode", "dependency:copy-dependencies"])
        .arg(format!("-DoutputDirectory={}", jars.display()));
    run(&mut command).context("get the jars of Kafka and Jedis")
}
