//! A program in a jail has nothing but what the jail gives it: read from `/proc` of one that runs.

use std::{
    fs,
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::{Context as _, Result, ensure};
use porthole_microvm::vm::{
    cgroup,
    jail::{Jail, Network, Root, User},
    privileges, process,
    system::Linux,
};
use porthole_trials::{Outcome, needs, trials};
use tokio::process::{Child, Command};

/// Owns nothing, and is in no sandbox.
const USER: u32 = 0x7fff_fffe;

const OOM_SCORE: i16 = 345;

fn main() -> ExitCode {
    porthole_trials::run(trials![
        a_program_in_a_jail_has_only_what_it_was_given,
        a_file_server_has_the_capabilities_of_one_and_no_others,
        a_program_whose_jail_cannot_be_made_does_not_run,
    ])
}

/// A program in a jail, and its control groups, which are removed with it.
struct Jailed {
    child: Child,
    groups: cgroup::Plan,
    name: String,
    writable: PathBuf,
    scratch: tempfile::TempDir,
}

impl Drop for Jailed {
    fn drop(&mut self) {
        let _ = self.child.start_kill();
        while matches!(self.child.try_wait(), Ok(None)) {
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
        cgroup::remove(&Linux, &self.groups.missing);
    }
}

impl Jailed {
    /// Runs `sleep` in a jail that was changed; to be called in a runtime.
    fn run(change: impl FnOnce(&mut Jail)) -> Result<Self> {
        let scratch = tempfile::tempdir()?;
        let (mount_point, writable) = (scratch.path().join("root"), scratch.path().join("writable"));
        fs::create_dir(&mount_point)?;
        fs::create_dir(&writable)?;
        let name = format!("porthole-jail-{}", std::process::id());
        let groups = cgroup::plan(&Linux, &format!("/{name}"))?;
        let mut jail = Jail {
            user: Some(User { id: USER, groups: Vec::new() }),
            root: Some(Root { mount_point, writable: vec![writable.clone()], ..Root::default() }),
            network: Network::Empty,
            own_processes: true,
            capability_bounds: 0,
            oom_score: OOM_SCORE,
            limits: privileges::device_limits(),
            control_groups: groups.make(&Linux)?,
            seccomp: Some(privileges::device_filter()?),
            inherited: Vec::new(),
        };
        change(&mut jail);
        let mut command = Command::new("/bin/sleep");
        let spawned = process::spawn(command.arg("600"), jail);
        match spawned {
            Ok(child) => Ok(Self { child, groups, name, writable, scratch }),
            Err(error) => {
                cgroup::remove(&Linux, &groups.missing);
                Err(error.into())
            }
        }
    }

    fn read(&self, file: &str) -> Result<String> {
        let path = format!("/proc/{}/{file}", self.child.id().context("it has ended")?);
        fs::read_to_string(&path).with_context(|| format!("read {path}"))
    }

    /// A field of its `status`, its words joined by blanks.
    fn status(&self, field: &str) -> Result<String> {
        let text = self.read("status")?;
        let line = text.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':'));
        let words: Vec<_> = line.with_context(|| format!("no {field}"))?.split_whitespace().collect();
        Ok(words.join(" "))
    }

    fn capabilities(&self, set: &str) -> Result<u64> {
        u64::from_str_radix(&self.status(set)?, 16).context("a set of capabilities")
    }

    fn namespace(&self, kind: &str) -> Result<PathBuf> {
        Ok(fs::read_link(format!("/proc/{}/ns/{kind}", self.child.id().context("it has ended")?))?)
    }
}

/// Runs a test in a runtime, on the thread whose end would end the programs.
fn in_runtime(test: impl FnOnce() -> Result<()>) -> Outcome {
    needs::root()?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let _inside = runtime.enter();
    test()
}

fn a_program_in_a_jail_has_only_what_it_was_given() -> Outcome {
    in_runtime(|| {
        let jailed = Jailed::run(|_| {})?;
        let own = [USER; 4].map(|user| user.to_string()).join(" ");
        ensure!(jailed.status("Uid")? == own && jailed.status("Gid")? == own, "{}", jailed.read("status")?);
        ensure!(jailed.status("Groups")?.is_empty(), "it is in groups {}", jailed.status("Groups")?);
        for set in ["CapPrm", "CapEff", "CapInh", "CapAmb", "CapBnd"] {
            ensure!(jailed.capabilities(set)? == 0, "it has {:#x} in {set}", jailed.capabilities(set)?);
        }
        ensure!(jailed.status("NoNewPrivs")? == "1", "it can gain privileges");
        ensure!(jailed.status("Seccomp")? == "2", "it has no seccomp filter");
        let score = jailed.read("oom_score_adj")?;
        ensure!(score.trim() == OOM_SCORE.to_string(), "its score is {score}");
        for (resource, limit) in [
            ("Max core file size", 0),
            ("Max file size", 0),
            ("Max open files", 4096),
            ("Max processes", 512),
        ] {
            let limits = jailed.read("limits")?;
            let line = limits.lines().find_map(|line| line.strip_prefix(resource)).context("a resource")?;
            let values: Vec<_> = line.split_whitespace().take(2).collect();
            ensure!(values == [limit.to_string(), limit.to_string()], "{resource}: {line}");
        }
        for kind in ["mnt", "net", "pid"] {
            let of_test = fs::read_link(format!("/proc/self/ns/{kind}"))?;
            ensure!(jailed.namespace(kind)? != of_test, "it is in the host's {kind} namespace");
        }
        is_in_its_groups(&jailed)?;
        sees_its_root_alone(&jailed)
    })
}

/// Its memory and its time are accounted to its own group in every hierarchy.
fn is_in_its_groups(jailed: &Jailed) -> Result<()> {
    let groups = jailed.read("cgroup")?;
    let elsewhere: Vec<_> = groups.lines().filter(|line| !line.ends_with(&jailed.name)).collect();
    let mounted = fs::read_to_string("/proc/self/mountinfo")?;
    for line in elsewhere {
        // A hierarchy that is not mounted has no directory in which one could make a group.
        let controllers = line.split(':').nth(1).context("controllers")?;
        let kind = if controllers.is_empty() { " - cgroup2 ".to_owned() } else { format!(",{controllers}") };
        ensure!(!mounted.lines().any(|mount| mount.contains(&kind)), "it is in {line}");
    }
    Ok(())
}

fn sees_its_root_alone(jailed: &Jailed) -> Result<()> {
    for mount in jailed.read("mountinfo")?.lines() {
        let fields: Vec<_> = mount.split(' ').collect();
        let [_, _, _, _, point, options, ..] = fields[..] else { continue };
        let is_written = point.starts_with("/dev/") || Path::new(point) == jailed.writable;
        ensure!(is_written || options.starts_with("ro"), "it can write to {point}: {options}");
        ensure!(options.split(',').any(|option| option == "nosuid"), "{point}: {options}");
    }
    let root = PathBuf::from(format!("/proc/{}/root", jailed.child.id().context("it has ended")?));
    for hidden in ["root", "home", "etc/shadow", "proc", "sys"] {
        ensure!(!root.join(hidden).exists(), "it sees /{hidden}");
    }
    let scratch = jailed.scratch.path().strip_prefix("/")?;
    let seen: Vec<_> = fs::read_dir(root.join(scratch))?.flatten().map(|entry| entry.file_name()).collect();
    ensure!(seen == ["writable"], "it sees {seen:?}");
    Ok(())
}

fn a_file_server_has_the_capabilities_of_one_and_no_others() -> Outcome {
    in_runtime(|| {
        let jailed = Jailed::run(|jail| {
            // It makes its own root, users, and filter.
            (jail.user, jail.root, jail.seccomp) = (None, None, None);
            jail.capability_bounds = privileges::VIRTIOFSD;
        })?;
        let own = fs::read_to_string("/proc/self/status")?;
        let own = own.lines().find_map(|line| line.strip_prefix("CapEff:")).context("own capabilities")?;
        let own = u64::from_str_radix(own.trim(), 16)?;
        for set in ["CapPrm", "CapEff", "CapBnd"] {
            let held = jailed.capabilities(set)?;
            ensure!(
                held & own == privileges::VIRTIOFSD & own,
                "it has {held:#x} in {set}, this process {own:#x}"
            );
            ensure!(held & !privileges::VIRTIOFSD == 0, "it has {held:#x} in {set}");
        }
        ensure!(jailed.status("NoNewPrivs")? == "1", "it can gain privileges");
        is_in_its_groups(&jailed)
    })
}

fn a_program_whose_jail_cannot_be_made_does_not_run() -> Outcome {
    in_runtime(|| {
        let missing: fn(&mut Jail) = |jail| {
            jail.root.as_mut().expect("a root").mount_point = "/nonexistent/root".into();
        };
        let no_group: fn(&mut Jail) = |jail| {
            // Nothing can be written to it.
            jail.control_groups.push(fs::File::open("/dev/null").expect("opened").into());
        };
        for change in [missing, no_group] {
            ensure!(Jailed::run(change).is_err(), "it runs without a part of its jail");
        }
        Ok(())
    })
}
