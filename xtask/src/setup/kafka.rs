//! A Kafka broker and Jedis, which no distribution has: their jars from Maven Central.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result};

use crate::workspace::{Workspace, run};

/// The release that the tests run.
const VERSION: &str = "4.0.0";

/// The release of Jedis, a client of Redis; it asks for the same slf4j as Kafka.
const JEDIS: &str = "6.2.0";

/// The folder with the jars of a broker, of Kafka's own client and of Jedis; downloads them once.
pub fn jars(workspace: &Workspace) -> Result<PathBuf> {
    let directory = workspace.target.join("kafka");
    let jars = directory.join("jars");
    let wanted = [format!("kafka_2.13-{VERSION}.jar"), format!("jedis-{JEDIS}.jar")];
    if !wanted.iter().all(|name| jars.join(name).exists()) {
        fs::create_dir_all(&directory).with_context(|| format!("make {}", directory.display()))?;
        download(&directory, &jars)?;
    }
    Ok(jars)
}

fn download(directory: &Path, jars: &Path) -> Result<()> {
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
      <version>{VERSION}</version>
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
