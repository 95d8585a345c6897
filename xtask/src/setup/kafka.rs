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
    fetch_once(&jars, &wanted, |unfinished| download(version, &directory, unfinished))?;
    Ok(jars)
}

/// Fetches a folder that lacks a file. It has its name once all of it is there: what an interrupted download left is fetched again.
fn fetch_once(folder: &Path, wanted: &[String], fetch: impl FnOnce(&Path) -> Result<()>) -> Result<()> {
    if wanted.iter().all(|name| folder.join(name).exists()) {
        return Ok(());
    }
    let unfinished = folder.with_extension("unfinished");
    for left in [folder, &unfinished] {
        if left.exists() {
            fs::remove_dir_all(left).with_context(|| format!("remove {}", left.display()))?;
        }
    }
    fs::create_dir_all(&unfinished).with_context(|| format!("make {}", unfinished.display()))?;
    fetch(&unfinished)?;
    fs::rename(&unfinished, folder).with_context(|| format!("make {}", folder.display()))
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_download_that_was_interrupted_is_made_again() {
        let directory = tempfile::tempdir().expect("directory");
        let (folder, wanted) = (directory.path().join("jars"), ["a.jar".to_owned()]);
        let fetch = |ends_well: bool| {
            let mut fetched = false;
            let result = fetch_once(&folder, &wanted, |unfinished| {
                fetched = true;
                fs::write(unfinished.join("a.jar"), "")?;
                anyhow::ensure!(ends_well, "interrupted");
                Ok(fs::write(unfinished.join("b.jar"), "")?)
            });
            (fetched, result.is_ok())
        };
        assert_eq!(fetch(false), (true, false));
        assert_eq!(fetch(true), (true, true));
        assert!(folder.join("b.jar").exists());
        assert_eq!(fetch(true), (false, true), "once");
    }
}
