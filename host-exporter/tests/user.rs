//! The exporter as the user and with the capabilities that its unit gives it, with sockets and records that belong to root.

#![allow(clippy::float_cmp, reason = "counts are exact in f64")]

mod program;
mod support;

use std::{
    fs::{self, Permissions},
    os::unix::fs::{PermissionsExt, chown},
    process::ExitCode,
};

use porthole_registry::{lock_path, record_path};
use porthole_trials::{Outcome, needs, trials};
use program::{Program, scrape};
use support::{
    Host,
    agent::{TestAgent, http},
    record, wait_for,
};
use tokio::runtime::Runtime;

const UNIT: &str = include_str!("../../deploy/systemd/porthole-exporter.service");

/// A user that no file belongs to.
const USER: u32 = 61_234;

fn main() -> ExitCode {
    porthole_trials::run(trials![the_units_user_collects_from_sockets_of_root_with_one_capability])
}

/// The value of a key of the unit.
fn unit(key: &str) -> &'static str {
    let value = UNIT.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix('='));
    value.unwrap_or_else(|| panic!("{key} in the unit"))
}

/// A capability of the unit as setpriv(1) names it.
fn capability(key: &str) -> String {
    let name = unit(key).strip_prefix("CAP_").expect("one capability");
    assert!(!name.contains(' '), "one capability: {name}");
    format!("-all,+{}", name.to_lowercase())
}

fn the_units_user_collects_from_sockets_of_root_with_one_capability() -> Outcome {
    needs::root()?;
    needs::program("setpriv")?;
    assert_eq!(unit("DynamicUser"), "yes");
    Runtime::new()?.block_on(async {
        let host = Host::new();
        let socket = host.socket("s");
        let agent = TestAgent::start(&socket, 7).await;
        agent.tell(vec![http(1, "shop-1", "/", "200", 5, 1)]);
        // As companions and runtimes make them: for root only.
        for (path, mode) in [(host.registry(), 0o700), (socket.clone(), 0o600)] {
            fs::set_permissions(path, Permissions::from_mode(mode)).expect("mode");
        }
        let companion = host.companion(&record("shop-1", "acme", "shop", &socket));
        let key = companion.record.key();
        fs::create_dir(host.state()).expect("the state directory");
        chown(host.state(), Some(USER), Some(USER)).expect("owner");
        let program = Program::new(&host, "orphan_grace_seconds = 0.1\nrescan_seconds = 0.1\n");
        let arguments = [
            "setpriv".to_owned(),
            format!("--reuid={USER}"),
            format!("--regid={USER}"),
            "--clear-groups".to_owned(),
            format!("--bounding-set={}", capability("CapabilityBoundingSet")),
            format!("--inh-caps={}", capability("AmbientCapabilities")),
            format!("--ambient-caps={}", capability("AmbientCapabilities")),
            "--no-new-privs".to_owned(),
        ];
        let exporter = program.start_by(&arguments);
        wait_for("the requests", async || {
            let exposition = scrape(program.address).await;
            exposition.is_some_and(|exposition| exposition.sum("porthole_app_requests_total", &[]) == 5.0)
        })
        .await;

        let status = fs::read_to_string(format!("/proc/{}/status", exporter.id())).expect("status");
        let value = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
            line.expect("a line of status").trim().to_owned()
        };
        assert_eq!(value("Uid").split_whitespace().collect::<Vec<_>>(), vec![USER.to_string(); 4]);
        let dac_override = "0000000000000002";
        for set in ["CapEff", "CapPrm", "CapBnd"] {
            assert_eq!(value(set), dac_override, "{set}");
        }
        for set in ["CapInh", "CapAmb"] {
            assert_eq!(value(set), "0000000000000000", "{set}");
        }
        assert_eq!(value("NoNewPrivs"), "1");

        // What a dead companion left, it removes.
        agent.stop().await;
        companion.die();
        wait_for("the record to go", async || {
            !record_path(&host.registry(), &key).exists() && !lock_path(&host.registry(), &key).exists()
        })
        .await;
        Ok(())
    })
}
