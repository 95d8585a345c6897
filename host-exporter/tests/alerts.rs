//! The alerts of `deploy/prometheus` on their whole way: a failing application, a real Prometheus with the repository's rules,
//! a real Alertmanager with the repository's example, and the receivers of two tenants.

mod prometheus;
mod receiver;
mod support;

use std::{
    path::Path,
    process::{Child, Command, ExitCode, Stdio},
    time::Duration,
};

use porthole_trials::{Outcome, needs, ports::free_address, trials};
use prometheus::{Prometheus, RULES};
use serde_json::Value;
use support::{
    Host,
    agent::{TestAgent, http},
    record,
};
use tokio::{runtime::Runtime, time::timeout};

/// How long an alert may take.
const DEADLINE: Duration = Duration::from_mins(3);

fn main() -> ExitCode {
    porthole_trials::run(trials![
        a_failing_application_alerts_its_tenant_and_nobody_elses_until_it_has_recovered
    ])
}

/// The repository's rules with windows of seconds in place of minutes, hours and days.
fn quick_rules(directory: &Path) -> String {
    let mut rules = std::fs::read_to_string(RULES).expect("rules");
    for (window, quick) in [
        ("[5m]", "[4s]"),
        ("[30m]", "[5s]"),
        ("[1h]", "[6s]"),
        ("[2h]", "[7s]"),
        ("[6h]", "[8s]"),
        ("[1d]", "[9s]"),
        ("[3d]", "[10s]"),
    ] {
        assert!(rules.contains(window), "no rule has a window of {window}");
        rules = rules.replace(window, quick);
    }
    let path = directory.join("quick.rules.yml");
    std::fs::write(&path, rules).expect("written");
    path.display().to_string()
}

/// A running Alertmanager with the repository's example, of which only addresses and waits differ.
struct Alertmanager {
    process: Child,
}

impl Alertmanager {
    fn start(directory: &Path, listen: std::net::SocketAddr, receiver: std::net::SocketAddr) -> Self {
        std::fs::create_dir(directory).expect("directory");
        let example = concat!(env!("CARGO_MANIFEST_DIR"), "/../deploy/prometheus/alertmanager.yml");
        let mut text = std::fs::read_to_string(example).expect("the example");
        for (found, other) in [
            ("127.0.0.1:9099", receiver.to_string()),
            ("group_wait: 30s", "group_wait: 1s".to_owned()),
            ("group_interval: 5m", "group_interval: 1s".to_owned()),
        ] {
            assert!(text.contains(found), "the example has no {found}");
            text = text.replace(found, &other);
        }
        let configuration = directory.join("alertmanager.yml");
        std::fs::write(&configuration, text).expect("written");
        let process = Command::new("prometheus-alertmanager")
            .arg(format!("--config.file={}", configuration.display()))
            .arg(format!("--storage.path={}", directory.join("data").display()))
            .arg(format!("--web.listen-address={listen}"))
            .arg("--cluster.listen-address=")
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("started");
        Self { process }
    }
}

impl Drop for Alertmanager {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn a_failing_application_alerts_its_tenant_and_nobody_elses_until_it_has_recovered() -> Outcome {
    needs::program("prometheus")?;
    needs::program("prometheus-alertmanager")?;
    Runtime::new()?.block_on(async {
        let host = Host::new();
        let exporter = host.start();
        let mut tenants = Vec::new();
        for tenant in ["acme", "globex"] {
            let socket = host.socket(tenant);
            let agent = TestAgent::start(&socket, 7).await;
            let sandbox = format!("{tenant}-1");
            let companion = host.companion(&record(&sandbox, tenant, "shop", &socket));
            tenants.push((agent, sandbox, companion));
        }
        let (receiver, mut messages) = receiver::start(0).await;
        let listen = free_address()?;
        let _alertmanager = Alertmanager::start(&host.socket("alertmanager"), listen, receiver);
        let alerting =
            format!("alerting: {{ alertmanagers: [{{ static_configs: [{{ targets: ['{listen}'] }}] }}] }}\n");
        let rules = quick_rules(&host.registry());
        let _prometheus =
            Prometheus::start_with(&host.socket("prometheus"), exporter.address(), &rules, &alerting, &[]);

        // Both serve; the first of them fails until its alert has come, and then serves on.
        let mut counts = [0_u64; 3];
        let mut fails = true;
        let mut next = async |until: &str| {
            let message = timeout(DEADLINE, async {
                loop {
                    let [answered, failed, other] = &mut counts;
                    *(if fails { &mut *failed } else { &mut *answered }) += 20;
                    *other += 20;
                    let (first, of_first, _) = &tenants[0];
                    first.tell(vec![
                        http(1, of_first, "/", "200", *answered + 1, 1),
                        http(2, of_first, "/", "500", *failed + 1, 1),
                    ]);
                    let (second, of_second, _) = &tenants[1];
                    second.tell(vec![http(1, of_second, "/", "200", *other + 1, 1)]);
                    let message = timeout(Duration::from_millis(500), messages.recv()).await;
                    let Ok(Some((path, message))) = message else { continue };
                    assert!(!message.to_string().contains("globex"), "of another tenant: {path} {message}");
                    if is_burn(&message) && message["status"] == until {
                        break (path, message);
                    }
                }
            });
            let message = message.await.expect("an alert");
            fails = false;
            message
        };
        for status in ["firing", "resolved"] {
            let (path, message) = next(status).await;
            assert_eq!(path, "/acme", "the receiver of the tenant: {message}");
            assert_eq!(message["commonLabels"]["tenant"], "acme");
            assert_eq!(message["commonLabels"]["service_name"], "shop");
            assert_eq!(message["commonLabels"]["objective"], "availability");
        }
        exporter.stop().await;
        Ok(())
    })
}

fn is_burn(message: &Value) -> bool {
    message["groupLabels"]["alertname"] == "PortholeErrorBudgetBurnsFast"
}
