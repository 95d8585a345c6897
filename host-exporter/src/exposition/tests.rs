use std::time::Duration;

use porthole_registry::{ContainerRecord, SandboxRecord, SandboxState};

use super::*;
use crate::{accumulate::budget::Limits, fleet::Retention};

#[test]
fn labels_of_any_text_are_escaped_and_nothing_is_invented() {
    let retention = Retention { scrapes: 2, at_least: Duration::ZERO, at_most: Duration::from_mins(1) };
    let fleet = Arc::new(Fleet::new(Limits::of_series(10), retention));
    let empty = exposition(&fleet);
    assert!(!empty.contains("http_server"), "no family without series");
    assert!(!empty.contains("porthole_capture_completeness_ratio"), "no ratio without messages");
    assert!(!empty.contains("_created"));

    let sandbox = "default@a".parse().expect("key");
    fleet.register(&Arc::new(SandboxRecord {
        containers: [("a".parse().expect("id"), ContainerRecord { name: "shop".into() })].into(),
        state: SandboxState::Watching,
        ..SandboxRecord::new(sandbox, "\"acme\"\\\nünïcode \u{1F980}", "shop", "test", 1)
    }));
    let text = exposition(&fleet);
    let line = r#"porthole_tenant_series{tenant="\"acme\"\\\nünïcode 🦀"} 0"#;
    assert!(text.lines().any(|present| present == line), "{text}");
}

fn exposition(fleet: &Arc<Fleet>) -> String {
    let mut bytes = Vec::new();
    encode(fleet, &Durable::default(), &Topology::new(0), None, Format::OpenMetrics, &mut bytes);
    let text = String::from_utf8(bytes).expect("text");
    assert!(text.ends_with("# EOF\n"));
    text
}
