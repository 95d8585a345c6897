//! What a companion may do, as the kernel shows it of each of its threads.

mod support;

use std::{collections::HashMap, path::Path};

use containerd_shim_protos::api::Status;
use porthole_registry::SandboxState;
use porthole_trials::{Outcome, needs, trials};
use support::{
    Setup,
    agent::{AgentDouble, Enrolment},
    sandbox,
    task::TaskDouble,
    wait,
};

const ID: &str = "shop-1";

/// Bits of `linux/capability.h`.
const DAC_OVERRIDE: u64 = 1 << 1;
const SYS_ADMIN: u64 = 1 << 21;

fn main() -> std::process::ExitCode {
    porthole_trials::run(trials![
        a_companion_with_a_sidecar_can_only_take_mounts_away,
        a_companion_whose_guest_has_the_agent_keeps_no_capability_but_for_sockets_of_others,
        what_a_delegate_left_mounted_goes_with_the_sandbox,
    ])
}

/// A sandbox that is watched, its agent the sidecar.
fn watched(setup: &Setup) -> TaskDouble {
    let double = sandbox::start(setup, ID, true, |double| {
        double.model().agent_url = Some(format!("unix://{}", setup.path("agent.sock").display()));
    });
    double.set(ID, Status::RUNNING);
    setup.reaches(ID, SandboxState::Watching);
    double
}

/// The fields of `/proc/PID/task/*/status` of the companion, a map for each thread.
fn threads(setup: &Setup) -> Vec<HashMap<String, String>> {
    let pid = setup.companion(ID).expect("a companion");
    let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).expect("threads");
    let status = |task: std::io::Result<std::fs::DirEntry>| {
        let text = std::fs::read_to_string(task.ok()?.path().join("status")).ok()?;
        let fields = text.lines().filter_map(|line| line.split_once(":\t"));
        Some(fields.map(|(name, value)| (name.to_owned(), value.trim().to_owned())).collect())
    };
    tasks.filter_map(status).collect()
}

fn has_only(setup: &Setup, permitted: u64, effective: u64) {
    let threads = threads(setup);
    assert!(!threads.is_empty());
    for thread in threads {
        let set = |name: &str| u64::from_str_radix(&thread[name], 16).expect("a set");
        for (name, allowed) in [
            ("CapEff", effective),
            ("CapPrm", permitted),
            ("CapInh", 0),
            ("CapAmb", 0),
            ("CapBnd", DAC_OVERRIDE | SYS_ADMIN),
        ] {
            assert_eq!(set(name) & !allowed, 0, "{name} of {}", thread["Name"]);
        }
        assert_eq!((thread["NoNewPrivs"].as_str(), thread["Seccomp"].as_str()), ("1", "2"));
    }
    let pid = setup.companion(ID).expect("a companion");
    let limits = std::fs::read_to_string(format!("/proc/{pid}/limits")).expect("limits");
    for (name, most) in [("Max core file size", 0_u64), ("Max data size", 256 << 20), ("Max open files", 256)]
    {
        let line = limits.lines().find_map(|line| line.strip_prefix(name)).expect(name);
        let hard = line.split_whitespace().nth(1).expect("a hard limit");
        assert!(hard.parse::<u64>().is_ok_and(|hard| hard <= most), "{name}: {hard}");
    }
}

/// Taking capabilities out of the bounding set takes root's.
fn a_companion_with_a_sidecar_can_only_take_mounts_away() -> Outcome {
    needs::root()?;
    let setup = Setup::new();
    let double = watched(&setup);
    has_only(&setup, DAC_OVERRIDE | SYS_ADMIN, DAC_OVERRIDE);
    sandbox::end(&setup, ID, &double);
    Ok(())
}

fn a_companion_whose_guest_has_the_agent_keeps_no_capability_but_for_sockets_of_others() -> Outcome {
    needs::root()?;
    for (owner, kept) in [(0, 0), (65_534, DAC_OVERRIDE)] {
        let setup = Setup::new();
        let socket = setup.path("agent.sock");
        let double = sandbox::start(&setup, ID, true, |double| {
            double.model().agent_url = Some(format!("unix://{}", setup.path("there.sock").display()));
        });
        let _agent = AgentDouble::listen(&socket, Enrolment::Takes);
        std::os::unix::fs::chown(&socket, Some(owner), None).expect("given away");
        // The companion connects as soon as it is there.
        std::fs::rename(&socket, setup.path("there.sock")).expect("moved");
        double.set(ID, Status::RUNNING);
        setup.reaches(ID, SandboxState::Watching);
        has_only(&setup, kept, kept);
        sandbox::end(&setup, ID, &double);
    }
    Ok(())
}

/// Takes the mount away when a test fails.
struct Mounted<'a>(&'a Path);

impl Drop for Mounted<'_> {
    fn drop(&mut self) {
        let _ = nix::mount::umount2(self.0, nix::mount::MntFlags::MNT_DETACH);
    }
}

fn what_a_delegate_left_mounted_goes_with_the_sandbox() -> Outcome {
    needs::root()?;
    let setup = Setup::new();
    let double = watched(&setup);
    let sidecar = double.sidecar().expect("a sidecar");
    let root = setup.path("state").join(format!("acme@{ID}")).join(sidecar).join("rootfs");
    std::fs::create_dir(&root).expect("directory");
    let none: Option<&str> = None;
    nix::mount::mount(Some("tmpfs"), &root, Some("tmpfs"), nix::mount::MsFlags::empty(), none)
        .expect("mounted");
    let mounted = Mounted(&root);
    sandbox::end(&setup, ID, &double);
    wait("the mount goes", || {
        let table = std::fs::read_to_string("/proc/self/mountinfo").expect("mounts");
        (!table.contains(mounted.0.to_str().expect("path"))).then_some(())
    });
    Ok(())
}
