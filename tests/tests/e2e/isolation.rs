//! Can root in a guest harm the host, or another tenant?
//!
//! One guest, in which the workload has every capability, serves all attacks; the embedded runtime is used alone, since
//! the agent has no part in it.

use std::{
    collections::BTreeMap,
    fs,
    os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink},
    path::{Path, PathBuf},
    process::Command,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use porthole_testbed::{
    command,
    container::{Container, Launch, MICROVM},
    environment::Environment,
    wait,
};
use serde_json::Value;

use crate::{Test, stage::Stage};

pub const TESTS: &[Test] = &[
    ("isolation::the_guest_cannot_write_outside_its_containers_files", write_outside),
    ("isolation::the_host_follows_no_name_that_a_guest_made", planted_names),
    ("isolation::nothing_that_the_host_mounts_for_a_guest_runs_or_is_a_device_on_the_host", mount_flags),
    ("isolation::every_process_of_a_sandbox_has_only_what_it_needs", least_privilege),
    ("isolation::the_same_id_in_another_namespace_is_another_sandbox", same_id),
    ("isolation::the_guest_of_all_attacks_goes_without_a_trace", the_end),
];

/// The guest of all attacks, made by the first one.
static GUEST: Mutex<Option<Container>> = Mutex::new(None);

const NAMESPACE: &str = "globex";

/// Where the embedded runtime keeps its sandboxes' state.
const STATE: &str = "/run/porthole/microvm";

/// Works with the guest of all attacks.
fn with_guest<T>(stage: &Stage, work: impl FnOnce(&Environment, &Container) -> Result<T>) -> Result<T> {
    let environment = stage.environment()?;
    let mut guest = GUEST.lock().unwrap_or_else(PoisonError::into_inner);
    if guest.is_none() {
        let id = environment.unique("attacker");
        let launch = Launch::new(NAMESPACE, &id, MICROVM, &["sleep", "3600"]).privileged();
        *guest = Some(launch.start(&environment.containerd)?);
    }
    work(&environment, guest.as_ref().context("the guest")?)
}

/// The state directory of a sandbox, by its record.
fn state_directory(namespace: &str, id: &str) -> Result<PathBuf> {
    for entry in fs::read_dir(STATE).with_context(|| format!("list {STATE}"))? {
        let directory = entry?.path();
        let Ok(record) = record(&directory) else { continue };
        if record["sandbox"] == format!("{namespace}@{id}") {
            return Ok(directory);
        }
    }
    anyhow::bail!("no sandbox {namespace}/{id} in {STATE}")
}

fn record(directory: &Path) -> Result<Value> {
    let path = directory.join("record.json");
    let bytes = fs::read(&path).with_context(|| format!("read {}", path.display()))?;
    serde_json::from_slice(&bytes).context("a record")
}

/// Every path below a directory with its kind, size and rights; files in memory of the kernel's are left out.
fn audit(directory: &Path) -> BTreeMap<PathBuf, (u32, u64)> {
    let mut found = BTreeMap::new();
    let mut left = vec![directory.to_owned()];
    while let Some(directory) = left.pop() {
        for entry in fs::read_dir(&directory).into_iter().flatten().flatten() {
            let Ok(metadata) = entry.path().symlink_metadata() else { continue };
            found.insert(entry.path(), (metadata.mode(), metadata.len()));
            if metadata.is_dir() {
                left.push(entry.path());
            }
        }
    }
    found
}

/// The root directory of the process that does in the file system what the guest asks for. What one who has taken over the
/// guest's kernel can reach is what can be reached here, with the rights of the mounts here.
fn served_root(directory: &Path) -> Result<PathBuf> {
    let pid = file_server(directory)?;
    // Without it the rights of the mounts cannot be changed.
    ensure!(capabilities(pid, "CapEff")? & (1 << SYS_ADMIN) == 0, "virtiofsd can change mounts");
    Ok(PathBuf::from(format!("/proc/{pid}/root")))
}

/// virtiofsd's worker, a child of the process on record in a mount namespace of its own.
fn file_server(directory: &Path) -> Result<i64> {
    let record = record(directory)?;
    let programs = record["programs"].as_array().context("programs")?;
    let daemon = programs.iter().find(|program| program["name"] == "virtiofsd").context("virtiofsd")?;
    let daemon = daemon["pid"].as_i64().context("a process id")?;
    let path = format!("/proc/{daemon}/task/{daemon}/children");
    let children = fs::read_to_string(&path).with_context(|| format!("read {path}"))?;
    // The Rust virtiofsd serves in the process that was started.
    children.split_whitespace().next().map_or(Ok(daemon), |child| child.parse().context("a process id"))
}

/// Tries to make and change names in a directory, as a guest would before the host uses them; what succeeded.
fn plant(place: &Path, names: &[&str], target: &Path) -> Vec<String> {
    let mut done = Vec::new();
    let mut note = |what: String, result: std::io::Result<()>| {
        if result.is_ok() {
            done.push(what);
        }
    };
    for name in names {
        let path = place.join(name);
        note(format!("moved {}", path.display()), fs::rename(&path, place.join("moved")));
        note(format!("linked {}", path.display()), symlink(target, &path));
        note(format!("made {}", path.display()), fs::create_dir(path.join("made")));
        note(format!("wrote {}", path.display()), fs::write(path.join("planted"), [0; 4096]));
    }
    note(format!("wrote into {}", place.display()), fs::write(place.join("planted"), [0; 4096]));
    done
}

fn write_outside(stage: &Stage) -> Result<()> {
    with_guest(stage, |_, container| {
        let root = served_root(&state_directory(NAMESPACE, &container.id)?)?;
        let mut done = plant(&root, &["c1", "c2", "0"], Path::new("/etc"));
        let mut containers = 0;
        for entry in fs::read_dir(&root).context("list what the guest sees")?.flatten() {
            containers += 1;
            for place in [entry.path(), entry.path().join("mounts")] {
                let planted = plant(&place, &["mounts", "9"], Path::new("/etc"));
                done.extend(planted);
            }
            // What belongs to the container is its own.
            let own = entry.path().join("rootfs/tmp/own");
            fs::write(&own, b"").with_context(|| format!("write {}", own.display()))?;
        }
        ensure!(containers == 1, "{containers} containers");
        ensure!(done.is_empty(), "the guest could write where only the host may: {done:#?}");
        Ok(())
    })
}

/// The guest takes names that the host may use for the next container, and puts symlinks there; then a second container joins
/// the sandbox.
fn planted_names(stage: &Stage) -> Result<()> {
    with_guest(stage, |environment, container| {
        let victim = environment.directory().join("victim");
        fs::create_dir_all(&victim)?;
        fs::write(victim.join("file"), "untouched")?;
        let root = served_root(&state_directory(NAMESPACE, &container.id)?)?;
        for number in 1..=8 {
            let place = root.join(format!("c{number}"));
            // Each of these may fail, and does where the host is alone in its directory.
            let _ = fs::create_dir_all(place.join("mounts"));
            let _ = symlink(&victim, place.join("rootfs"));
            let _ = symlink(victim.join("file"), place.join("mounts/0"));
        }
        let mounts_before = mounts_below(&victim)?;
        let id = environment.unique("joined");
        let annotations = [
            ("io.kubernetes.cri.container-type", "container"),
            ("io.kubernetes.cri.sandbox-id", container.id.as_str()),
        ];
        let joined = Launch::new(NAMESPACE, &id, MICROVM, &["sleep", "600"]).annotated(&annotations);
        let joined = joined.start(&environment.containerd);
        ensure!(fs::read_to_string(victim.join("file"))? == "untouched", "a file of the host was changed");
        ensure!(audit(&victim).len() == 1, "files were made on the host: {:?}", audit(&victim));
        ensure!(mounts_below(&victim)? == mounts_before, "something was mounted on a directory of the host");
        joined?.remove()?;
        fs::remove_dir_all(&victim)?;
        Ok(())
    })
}

fn mounts_below(directory: &Path) -> Result<Vec<String>> {
    let table = fs::read_to_string("/proc/self/mountinfo").context("read the table of mounts")?;
    let mark = directory.to_string_lossy();
    Ok(table.lines().filter(|line| line.contains(&*mark)).map(str::to_owned).collect())
}

fn mount_flags(stage: &Stage) -> Result<()> {
    with_guest(stage, |_, container| {
        let directory = state_directory(NAMESPACE, &container.id)?;
        for path in [directory.parent().context("a parent")?, &directory] {
            let mode = fs::metadata(path)?.permissions().mode() & 0o777;
            ensure!(mode == 0o700, "{} has mode {mode:o}", path.display());
        }
        let mounts = mounts_below(&directory)?;
        // The host's copy and the guest's, of the root file system at least.
        ensure!(mounts.len() >= 4, "{mounts:#?}");
        for mount in mounts {
            // proc(5): the sixth field has the options of the mount.
            let options = mount.split(' ').nth(5).context("options")?;
            if mount.contains(" nsfs ") {
                continue;
            }
            let has = |wanted: &str| options.split(',').any(|option| option == wanted);
            ensure!(has("nosuid") && has("nodev"), "{mount}");
        }
        let exposed = directory.join("guest");
        let mark = format!(" {} ", exposed.display());
        let view =
            mounts_below(&exposed)?.into_iter().find(|line| line.contains(&mark)).context("the view")?;
        ensure!(view.split(' ').nth(5).is_some_and(|options| options.starts_with("ro,")), "{view}");
        Ok(())
    })
}

/// A field of `/proc/PID/status`.
fn status(pid: i64, field: &str) -> Result<String> {
    let path = format!("/proc/{pid}/status");
    let text = fs::read_to_string(&path).with_context(|| format!("read {path}"))?;
    let line = text.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':'));
    Ok(line.with_context(|| format!("no {field} in {path}"))?.trim().to_owned())
}

fn capabilities(pid: i64, set: &str) -> Result<u64> {
    u64::from_str_radix(&status(pid, set)?, 16).context("a set of capabilities")
}

fn namespace(pid: i64, kind: &str) -> Result<String> {
    let link = fs::read_link(format!("/proc/{pid}/ns/{kind}")).with_context(|| format!("{kind} of {pid}"))?;
    Ok(link.to_string_lossy().into_owned())
}

fn control_groups(pid: i64) -> Result<String> {
    fs::read_to_string(format!("/proc/{pid}/cgroup")).context("control groups")
}

/// Capabilities by their numbers in `linux/capability.h`.
const MKNOD: u32 = 27;
const SYS_MODULE: u32 = 16;
const SYS_RAWIO: u32 = 17;
const SYS_PTRACE: u32 = 19;
const SYS_ADMIN: u32 = 21;
const SYS_BOOT: u32 = 22;
const SYS_TIME: u32 = 25;

fn least_privilege(stage: &Stage) -> Result<()> {
    with_guest(stage, |_, container| {
        let directory = state_directory(NAMESPACE, &container.id)?;
        let record = record(&directory)?;
        let own = i64::from(std::process::id());
        let shim = record["shim"]["pid"].as_i64().context("the shim")?;
        let mut seen = Vec::new();
        for program in record["programs"].as_array().context("programs")? {
            let pid = program["pid"].as_i64().context("a process id")?;
            let name = program["name"].as_str().unwrap_or_default();
            let what = format!("{name} ({pid})");
            seen.push(name.to_owned());
            ensure!(status(pid, "NoNewPrivs")? == "1", "{what} can gain privileges");
            let bounds = capabilities(pid, "CapBnd")?;
            for forbidden in [MKNOD, SYS_MODULE, SYS_RAWIO, SYS_PTRACE, SYS_BOOT, SYS_TIME] {
                ensure!(bounds & (1 << forbidden) == 0, "{what} may have capability {forbidden}");
            }
            let groups = control_groups(pid)?;
            ensure!(
                groups.contains(&container.id),
                "{what} is not in the sandbox's control group:\n{groups}"
            );
            if name == "virtiofsd" {
                continue;
            }
            let users: Vec<_> = status(pid, "Uid")?.split_whitespace().map(str::to_owned).collect();
            ensure!(users.iter().all(|user| *user != "0" && *user == users[0]), "{what} runs as {users:?}");
            for set in ["CapPrm", "CapEff", "CapInh", "CapAmb", "CapBnd"] {
                ensure!(capabilities(pid, set)? == 0, "{what} has capabilities in {set}");
            }
            ensure!(status(pid, "Seccomp")? == "2", "{what} has no seccomp filter");
            for kind in ["mnt", "pid", "net"] {
                ensure!(
                    namespace(pid, kind)? != namespace(own, kind)?,
                    "{what} is in the host's {kind} namespace"
                );
            }
            let limits = fs::read_to_string(format!("/proc/{pid}/limits"))?;
            let core =
                limits.lines().find(|line| line.starts_with("Max core file size")).context("limits")?;
            ensure!(core.split_whitespace().nth(4) == Some("0"), "{what}: {core}");
            let root = fs::read_dir(format!("/proc/{pid}/root"))?.flatten();
            let names: Vec<_> = root.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
            for hidden in ["root", "home", "etc/shadow", "proc", "sys", "var"] {
                let path = format!("/proc/{pid}/root/{hidden}");
                ensure!(!Path::new(&path).exists(), "{what} sees /{hidden}; it has {names:?}");
            }
        }
        ensure!(
            seen.iter().any(|name| name == "qemu") && seen.iter().any(|name| name == "virtiofsd"),
            "{seen:?}"
        );
        // virtiofsd's worker handles what the guest sends; the process on record has made it.
        let worker = file_server(&directory)?;
        let held = capabilities(worker, "CapEff")?;
        for forbidden in [MKNOD, SYS_ADMIN, SYS_MODULE, SYS_PTRACE] {
            ensure!(held & (1 << forbidden) == 0, "virtiofsd has capability {forbidden}");
        }
        ensure!(status(worker, "Seccomp")? == "2", "virtiofsd has no seccomp filter");
        for kind in ["mnt", "pid", "net"] {
            ensure!(
                namespace(worker, kind)? != namespace(own, kind)?,
                "virtiofsd is in the host's {kind} namespace"
            );
        }
        ensure!(
            control_groups(worker)?.contains(&container.id),
            "virtiofsd is not in the sandbox's control group"
        );
        // The shim mounts for later containers and watches; what it can never need it has given up.
        for set in ["CapPrm", "CapEff", "CapBnd"] {
            for forbidden in [SYS_MODULE, SYS_RAWIO, SYS_PTRACE, SYS_BOOT, SYS_TIME] {
                let has = capabilities(shim, set)? & (1 << forbidden) != 0;
                ensure!(!has, "the shim has capability {forbidden} in {set}");
            }
        }
        ensure!(status(shim, "NoNewPrivs")? == "1", "the shim can gain privileges");
        Ok(())
    })
}

/// A sandbox of another tenant with the same id starts, runs and ends, and the first one does not notice.
fn same_id(stage: &Stage) -> Result<()> {
    with_guest(stage, |environment, container| {
        let before = record(&state_directory(NAMESPACE, &container.id)?)?;
        let other =
            Launch::new("acme", &container.id, MICROVM, &["sleep", "600"]).start(&environment.containerd)?;
        state_directory("acme", &container.id)?;
        ensure!(
            container.status()?.as_deref() == Some("RUNNING"),
            "the first sandbox is {:?}",
            container.status()?
        );
        other.remove()?;
        // Clean-up by hand of what lives is refused: `delete` is what containerd runs for a shim that has gone.
        let directory = state_directory(NAMESPACE, &container.id)?;
        ensure!(record(&directory)? == before, "the first sandbox's record was changed");
        let bundle = environment.containerd.bundle(NAMESPACE, &container.id);
        let mut delete = Command::new(environment.dist.program("containerd-shim-porthole-microvm-v2"));
        delete.args(["-namespace", NAMESPACE, "-address", "/nonexistent", "-id", &container.id]);
        delete.args(["-bundle", &bundle.to_string_lossy(), "delete"]);
        delete.current_dir(&bundle).env("PORTHOLE_CONFIG", &environment.configuration);
        let refused = command::run(&mut delete, Duration::from_secs(30))?;
        ensure!(!refused.status.success(), "a sandbox whose shim lives was cleaned up");
        let echoed = container.exec(&["echo", "alive"])?;
        ensure!(echoed.text().trim() == "alive", "the first sandbox does not answer: {echoed}");
        Ok(())
    })
}

fn the_end(_: &Stage) -> Result<()> {
    let container = GUEST.lock().unwrap_or_else(PoisonError::into_inner).take();
    let Some(container) = container else { return Ok(()) };
    let directory = state_directory(NAMESPACE, &container.id)?;
    container.remove()?;
    wait::until("its state directory goes", Duration::from_secs(20), || {
        let left = mounts_below(&directory)?;
        Ok((!directory.exists() && left.is_empty()).then_some(()))
    })
}
