use std::time::Duration;

use porthole_registry::{ContainerRecord, RECORD_VERSION, SandboxRecord, SandboxState};

use super::*;
use crate::fleet::Retention;

#[test]
fn labels_of_any_text_are_escaped_and_nothing_is_invented() {
    let retention = Retention { scrapes: 2, at_least: Duration::ZERO, at_most: Duration::from_mins(1) };
    let fleet = Arc::new(Fleet::new(10, retention));
    let empty = exposition(&fleet);
    assert!(!empty.contains("http_server"), "no family without series");
    assert!(!empty.contains("porthole_capture_completeness_ratio"), "no ratio without messages");
    assert!(!empty.contains("_created"));

    let sandbox_id: porthole_registry::SandboxId = "a".parse().expect("id");
    fleet.register(&SandboxRecord {
        version: RECORD_VERSION,
        sandbox_id: sandbox_id.clone(),
        containerd_namespace: "default".parse().expect("namespace"),
        tenant: "\"acme\"\\\nünïcode \u{1F980}".into(),
        service_name: "shop".into(),
        k8s_namespace_name: None,
        k8s_pod_name: None,
        containers: [(sandbox_id, ContainerRecord { name: "shop".into() })].into(),
        runtime: "test".into(),
        channel: None,
        secret: None,
        state: SandboxState::Watching,
        reason: None,
        created_unix_ms: 1,
    });
    let text = exposition(&fleet);
    let line = r#"porthole_tenant_series{tenant="\"acme\"\\\nünïcode 🦀"} 0"#;
    assert!(text.lines().any(|present| present == line), "{text}");
}

fn exposition(fleet: &Arc<Fleet>) -> String {
    let mut bytes = Vec::new();
    encode(fleet, &Durable::default(), Format::OpenMetrics, &mut bytes);
    let text = String::from_utf8(bytes).expect("text");
    assert!(text.ends_with("# EOF\n"));
    text
}
