//! Can root in a guest harm the host, or another tenant?
//!
//! One guest, in which the workload has every capability, serves all attacks; the embedded runtime is used alone, since
//! the agent has no part in it.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink},
    path::{Path, PathBuf},
    process::Command,
    sync::{Mutex, PoisonError},
};

use anyhow::{Context, Result, ensure};
use porthole_testbed::{
    command,
    container::{Container, Launch, MICROVM, PORTHOLE},
    environment::{Environment, MICROVM_STATE},
    exposition,
    footprint::{self, Footprint},
    http, scenario, wait,
};
use serde_json::Value;

use crate::{Test, stage::Stage};

pub const TESTS: &[Test] = &[
    ("isolation::the_guest_cannot_write_outside_its_containers_files", write_outside),
    ("isolation::the_host_follows_no_name_that_a_guest_made", planted_names),
    ("isolation::nothing_that_the_host_mounts_for_a_guest_runs_or_is_a_device_on_the_host", mount_flags),
    ("isolation::every_process_of_a_sandbox_has_only_what_it_needs", least_privilege),
    ("isolation::the_same_id_in_another_namespace_is_another_sandbox", same_id),
    ("isolation::sandboxes_of_one_id_are_counted_to_their_own_tenants_and_one_outlives_the_other", twins),
    ("isolation::the_guest_of_all_attacks_goes_without_a_trace", the_end),
];

/// The guest of all attacks, made by the first one.
static GUEST: Mutex<Option<Container>> = Mutex::new(None);

const NAMESPACE: &str = "globex";

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
pub fn state_directory(namespace: &str, id: &str) -> Result<PathBuf> {
    for entry in fs::read_dir(MICROVM_STATE).with_context(|| format!("list {MICROVM_STATE}"))? {
        let directory = entry?.path();
        let Ok(record) = record(&directory) else { continue };
        if record["sandbox"] == format!("{namespace}@{id}") {
            return Ok(directory);
        }
    }
    anyhow::bail!("no sandbox {namespace}/{id} in {MICROVM_STATE}")
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

/// The root directory of the process that serves the guest's file system calls. What one who has taken over the
/// guest's kernel can reach is what can be reached here, with the rights of the mounts here.
fn served_root(directory: &Path) -> Result<PathBuf> {
    let pid = file_server(directory)?;
    // Without it the rights of the mounts cannot be changed.
    ensure!(capabilities(pid, "CapEff")? & (1 << SYS_ADMIN) == 0, "virtiofsd can change mounts");
    Ok(PathBuf::from(format!("/proc/{pid}/root")))
}

/// virtiofsd's worker, a child of the process on record in a mount namespace of its own.
pub fn file_server(directory: &Path) -> Result<i64> {
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

/// A process' limit of a resource, both alike, or none.
fn limit(pid: i64, resource: &str) -> Result<Option<u64>> {
    let limits = fs::read_to_string(format!("/proc/{pid}/limits")).context("limits")?;
    let line = limits.lines().find_map(|line| line.strip_prefix(resource)).context("a resource")?;
    let values: Vec<_> = line.split_whitespace().take(2).collect();
    ensure!(values.len() == 2 && values[0] == values[1], "{resource}{line}");
    Ok(values[0].parse().ok())
}

/// Whether a process is in the sandbox's own control group in every hierarchy.
fn in_own_groups(pid: i64, record: &Value, id: &str) -> Result<()> {
    let groups = record["control_groups"].as_array().context("control groups")?;
    let own: Vec<_> = groups.iter().filter_map(Value::as_str).filter(|group| group.ends_with(id)).collect();
    let hierarchies = fs::read_to_string("/proc/self/mountinfo")?;
    let hierarchies = hierarchies.lines().filter(|line| line.contains(" - cgroup")).count();
    ensure!(own.len() == hierarchies, "groups in {} of {hierarchies} hierarchies: {own:?}", own.len());
    for group in own {
        let path = Path::new(group).join("cgroup.procs");
        let members = fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))?;
        ensure!(members.lines().any(|member| member == pid.to_string()), "not in {group}: {members:?}");
    }
    Ok(())
}

/// The first user of sandboxes, `user_base` in the configuration.
const USER_BASE: i64 = 0x7000_0000;

/// Largest file of a program: the machine's memory, which is one to the kernel.
const FILES_MAX: u64 = 512 << 20;

/// Capabilities by their numbers in `linux/capability.h`.
const DAC_OVERRIDE: u32 = 1;
const KILL: u32 = 5;
const SETGID: u32 = 6;
const SETUID: u32 = 7;
const NET_ADMIN: u32 = 12;
const SYS_NICE: u32 = 23;
const MKNOD: u32 = 27;
const SYS_MODULE: u32 = 16;
const SYS_RAWIO: u32 = 17;
const SYS_PTRACE: u32 = 19;
const SYS_ADMIN: u32 = 21;
const SYS_BOOT: u32 = 22;
const SYS_TIME: u32 = 25;

/// What a file server needs: the first five capabilities, those to act for other users, and `SETFCAP`.
const FILE_SERVER: u64 = 0b1_1111 | 1 << SETGID | 1 << SETUID | 1 << 31;

/// What the embedded runtime's shim keeps: what a file server has and what mounting takes, entering networks and ending.
const RUNNING_SHIM: u64 = FILE_SERVER & !(1 << SETGID | 1 << SETUID)
    | 1 << KILL
    | 1 << NET_ADMIN
    | 1 << SYS_ADMIN
    | 1 << SYS_NICE
    | 1 << MKNOD;

/// What a companion keeps whose guest has the agent, behind a socket of root.
const COMPANION: u64 = 0;

/// Whether no thread of a process has other capabilities than these, can gain any, or is without a filter.
fn confined(pid: i64, what: &str, allowed: u64) -> Result<()> {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).with_context(|| format!("threads of {what}"))?;
    let mut threads = 0;
    for task in tasks.flatten() {
        let name = task.file_name().to_string_lossy().into_owned();
        let thread: i64 = name.parse().context("a thread's id")?;
        threads += 1;
        for set in ["CapPrm", "CapEff", "CapInh", "CapAmb", "CapBnd"] {
            let more = capabilities(thread, set)? & !allowed;
            // What a companion may need was not known when its bounding set was reduced; it executes nothing.
            let more = if set == "CapBnd" { more & !(1 << SYS_ADMIN | 1 << DAC_OVERRIDE) } else { more };
            ensure!(more == 0, "{what}'s thread {thread} has {more:#x} in {set}");
        }
        ensure!(status(thread, "NoNewPrivs")? == "1", "{what}'s thread {thread} can gain privileges");
        ensure!(status(thread, "Seccomp")? == "2", "{what}'s thread {thread} has no seccomp filter");
    }
    ensure!(threads > 0, "{what} has no threads");
    Ok(())
}

fn least_privilege(stage: &Stage) -> Result<()> {
    with_guest(stage, |_, container| {
        let directory = state_directory(NAMESPACE, &container.id)?;
        let record = record(&directory)?;
        let own = i64::from(std::process::id());
        let shim = record["shim"]["pid"].as_i64().context("the shim")?;
        let (mut seen, mut networks) = (Vec::new(), Vec::new());
        for program in record["programs"].as_array().context("programs")? {
            let pid = program["pid"].as_i64().context("a process id")?;
            let name = program["name"].as_str().unwrap_or_default();
            let what = format!("{name} ({pid})");
            seen.push(name.to_owned());
            networks
                .push(namespace(if name == "virtiofsd" { file_server(&directory)? } else { pid }, "net")?);
            ensure!(status(pid, "NoNewPrivs")? == "1", "{what} can gain privileges");
            let score = fs::read_to_string(format!("/proc/{pid}/oom_score_adj"))?;
            ensure!(!score.starts_with('-'), "{what} is protected from the end of memory: {score}");
            let bounds = capabilities(pid, "CapBnd")?;
            for forbidden in [MKNOD, SYS_MODULE, SYS_RAWIO, SYS_PTRACE, SYS_BOOT, SYS_TIME] {
                ensure!(bounds & (1 << forbidden) == 0, "{what} may have capability {forbidden}");
            }
            in_own_groups(pid, &record, &container.id).with_context(|| what.clone())?;
            if name == "virtiofsd" {
                // What was started waits for the worker.
                let waits = file_server(&directory)? != pid;
                ensure!(!waits || capabilities(pid, "CapEff")? == 0, "{what} waits with capabilities");
                continue;
            }
            let users: Vec<_> = status(pid, "Uid")?.split_whitespace().map(str::to_owned).collect();
            let own_user = (USER_BASE + shim).to_string();
            ensure!(
                users.iter().all(|user| *user == own_user),
                "{what} runs as {users:?}, not as {own_user}"
            );
            let groups = status(pid, "Gid")? + " " + &status(pid, "Groups")?;
            ensure!(groups.split_whitespace().all(|group| group == own_user), "{what} is in {groups}");
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
            for (resource, most) in [
                ("Max core file size", 0),
                ("Max open files", 4096),
                ("Max processes", 512),
                ("Max file size", FILES_MAX),
            ] {
                let limit = limit(pid, resource)?;
                ensure!(limit.is_some_and(|limit| limit <= most), "{what}: {resource} {limit:?}");
            }
            let mounts = fs::read_to_string(format!("/proc/{pid}/mountinfo")).context("mounts")?;
            for mount in mounts.lines() {
                let fields: Vec<_> = mount.split(' ').collect();
                let [_, _, _, _, point, options, ..] = fields[..] else { continue };
                // Its devices, and the directory of its sockets.
                let is_written = point.starts_with("/dev/") || point.ends_with("/vsock");
                ensure!(is_written || options.starts_with("ro"), "{what} can write to {point}: {options}");
            }
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
        let networks: BTreeSet<_> = networks.into_iter().collect();
        ensure!(networks.len() == seen.len(), "programs share a network: {networks:?}");
        // virtiofsd's worker handles what the guest sends; the process on record has made it.
        let worker = file_server(&directory)?;
        ensure!(status(worker, "NoNewPrivs")? == "1", "virtiofsd can gain privileges");
        ensure!(limit(worker, "Max core file size")? == Some(0), "virtiofsd leaves cores");
        for set in ["CapPrm", "CapEff"] {
            let held = capabilities(worker, set)?;
            ensure!(held & !FILE_SERVER == 0, "virtiofsd has {:#x} in {set}", held & !FILE_SERVER);
        }
        ensure!(status(worker, "Seccomp")? == "2", "virtiofsd has no seccomp filter");
        let most = limit(worker, "Max open files")?;
        ensure!(most.is_some_and(|most| most < 1_000_000), "virtiofsd may open {most:?} files");
        for kind in ["mnt", "pid", "net"] {
            ensure!(
                namespace(worker, kind)? != namespace(own, kind)?,
                "virtiofsd is in the host's {kind} namespace"
            );
        }
        in_own_groups(worker, &record, &container.id).context("virtiofsd's worker")?;
        // The shim mounts for later containers and watches; it starts no programs any more. A thread that is older than
        // the confinement ends when it has had nothing to do for a while.
        wait::until("every thread of the shim is confined", wait::SOON, || {
            confined(shim, "the shim", RUNNING_SHIM).map(Some)
        })?;
        in_own_groups(shim, &record, &container.id).context("the shim")
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
        let refused = command::run(&mut delete, wait::SOON)?;
        ensure!(!refused.status.success(), "a sandbox whose shim lives was cleaned up");
        let echoed = container.exec(&["echo", "alive"])?;
        ensure!(echoed.text().trim() == "alive", "the first sandbox does not answer: {echoed}");
        Ok(())
    })
}

fn companion_of(namespace: &str, id: &str) -> Result<i64> {
    let is_own = |line: &str| line.starts_with("porthole-companion ") && line.contains(namespace);
    let found = footprint::processes(&[id])?.into_iter().find(|process| is_own(&process.command_line));
    Ok(found.with_context(|| format!("no companion of {namespace}/{id}"))?.id.into())
}

/// Two tenants whose sandboxes have one id run at once, are counted each to its own, and one outlives the other.
fn twins(stage: &Stage) -> Result<()> {
    let environment = stage.environment()?;
    let id = environment.unique("twin");
    let mut twins = Vec::new();
    for (tenant, host, requests) in [("acme", 61, 3_u8), ("globex", 62, 5)] {
        let endpoint = environment.endpoint(&format!("twin-{tenant}"), host)?;
        let launch = Launch::new(tenant, &id, PORTHOLE, scenario::BLOG.command).on(&endpoint);
        twins.push((launch.start(&environment.containerd)?, endpoint, requests));
    }
    let is = |sandbox: &Value, tenant: &str| sandbox["sandbox_id"] == id && sandbox["tenant"] == tenant;
    for (container, endpoint, requests) in &twins {
        wait::until(&format!("{}/{id} is watched", container.namespace), wait::SOON, || {
            let sandboxes = environment.exporter()?.sandboxes()?;
            let own = sandboxes.iter().find(|sandbox| is(sandbox, &container.namespace));
            Ok(own.filter(|own| own["connection"]["state"] == "connected").map(drop))
        })?;
        // The agent is there before the server, which gets requests once it listens.
        environment.from_hub(|| http::Connection::open_once_listening(endpoint.at(80)))?;
        let companion = companion_of(&container.namespace, &id)?;
        confined(companion, "the companion", COMPANION)?;
        for _ in 0..*requests {
            let page = environment.from_hub(|| http::get(endpoint.at(80), "/"))?;
            ensure!(page.status == 200, "{} answers {}", container.namespace, page.status);
        }
    }
    let counted = |tenant: &str| -> Result<Option<f64>> {
        let labels = [("tenant", tenant), ("service_name", id.as_str()), ("side", "server")];
        Ok(exposition::sum(&environment.exporter()?.samples()?, "porthole_app_requests_total", &labels))
    };
    let all_counted = |tenant: &str, requests: u8| {
        wait::until(&format!("{tenant}'s requests are counted"), wait::SOON, || {
            let now = counted(tenant)?;
            ensure!(now == Some(f64::from(requests)), "{tenant} has {now:?} of {requests}");
            Ok(Some(()))
        })
    };
    for (container, _, requests) in &twins {
        all_counted(&container.namespace, *requests)?;
    }
    let (killed, _, gone) = twins.remove(0);
    let tenant = killed.namespace.clone();
    killed.remove()?;
    let (living, endpoint, requests) = twins.remove(0);
    let page = environment.from_hub(|| http::get(endpoint.at(80), "/"))?;
    ensure!(page.status == 200, "the other answers {}", page.status);
    all_counted(&living.namespace, requests + 1)?;
    ensure!(counted(&tenant)? == Some(f64::from(gone)), "{tenant} has {:?} of {gone}", counted(&tenant)?);
    living.remove()
}

fn the_end(stage: &Stage) -> Result<()> {
    let environment = stage.environment()?;
    let container = GUEST.lock().unwrap_or_else(PoisonError::into_inner).take();
    let Some(container) = container else { return Ok(()) };
    let directory = state_directory(NAMESPACE, &container.id)?;
    let record = record(&directory)?;
    let groups = record["control_groups"].as_array().context("control groups")?;
    let groups: Vec<_> = groups.iter().filter_map(|group| group.as_str().map(PathBuf::from)).collect();
    let own = groups.iter().filter(|group| group.ends_with(&container.id) && group.exists()).count();
    ensure!(own > 0, "the sandbox has no control group of its own: {groups:?}");
    let (id, digest) = (container.id.clone(), directory.file_name().context("a name")?.to_string_lossy());
    container.remove()?;
    // Control groups, mounts, processes, sockets and files bear the one or the other.
    for mark in [id.as_str(), &digest] {
        environment.wait_gone(mark, &Footprint::default(), wait::SOON)?;
    }
    ensure!(!groups.iter().any(|group| group.ends_with(&id) && group.exists()), "{groups:?}");
    Ok(())
}
