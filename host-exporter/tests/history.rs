//! The last hour of applications over HTTP, and the objectives that it is held against.

mod receiver;
mod support;

use std::time::Duration;

use porthole_exporter::{
    clock::unix_ms,
    history::{alert::Burning, alerts, burn::Burn, step_of, webhook::Webhook},
    http_url::HttpUrl,
    identity::Application,
};
use serde_json::{Value, json};
use support::{Host, Shop, agent::http};
use tokio::sync::watch;

#[tokio::test(flavor = "multi_thread")]
async fn what_came_in_a_step_is_listed_and_held_against_the_objectives() {
    let host = Host::new();
    let Shop { agent, exporter, companion: _companion, .. } = host.shop().await;
    let exporter = exporter.with_steps_by_hand().await;
    let (history, fleet) = (exporter.running.history(), exporter.fleet());
    // Later than any that the exporter has recorded itself.
    let step = step_of(unix_ms()) + 1;
    history.record(step, &fleet.applications());
    // 20 more requests, four of which fail: far more than objectives of 99 % allow.
    agent.tell(vec![http(1, "shop-1", "/", "200", 21, 1), http(2, "shop-1", "/", "500", 4, 1)]);
    exporter.wait_for_requests("shop", 25).await;
    history.record(step + 1, &fleet.applications());

    let listing = |path: &'static str| {
        let exporter = &exporter;
        async move {
            let (status, _, body) = exporter.get(path).await;
            assert_eq!(status, 200, "{body}");
            serde_json::from_str::<Value>(&body).expect("JSON")
        }
    };
    let half_hour = listing("/api/v1/history?tenant=acme&service_name=shop&range_seconds=1800").await;
    assert_eq!((&half_hour["step_seconds"], &half_hour["range_seconds"]), (&json!(15), &json!(1800)));
    let line = &half_hour["lines"][0];
    assert_eq!(
        (&line["tenant"], &line["side"], &line["protocol"]),
        (&json!("acme"), &json!("server"), &json!("http1"))
    );
    // Its five first requests are in a step before.
    let point = line["points"].as_array().and_then(|points| points.last()).expect("a point");
    assert_eq!((&point["requests"], &point["errors"]), (&json!(20), &json!(4)));
    assert_eq!(point["errors_by_class"]["server"], json!(4));
    assert_eq!(point["end_unix_ms"], json!((step + 2) * 15_000));
    assert!(point["p99_seconds"].is_f64());
    assert_eq!(listing("/api/v1/history?tenant=other").await["lines"], json!([]));
    // What ended before them is not among them; the end is that of the step in which the time is.
    let earlier = (step + 1) * 15_000 - 1;
    let (status, _, body) =
        exporter.get(&format!("/api/v1/history?tenant=acme&until_unix_ms={earlier}&own=true")).await;
    let listed: Value = serde_json::from_str(&body).expect("JSON");
    assert_eq!((status, &listed["end_unix_ms"]), (200, &json!((step + 1) * 15_000)));
    let points = listed["lines"][0]["points"].as_array().cloned().unwrap_or_default();
    assert!(points.iter().all(|point| point["requests"] != json!(20)), "{body}");
    assert_eq!(listing("/api/v1/viewer").await["range_seconds_max"], json!(3_600));

    let applications = listing("/api/v1/applications?tenant=acme").await;
    let objectives = &applications["applications"][0]["objectives"];
    assert_eq!(objectives[0]["objective"], json!("availability"));
    assert_eq!(objectives[0]["missed_1h"], json!(0.16));
    assert_eq!(objectives[0]["burns_fast"], json!(true));
    assert_eq!(objectives[1]["burns_fast"], json!(false));
    exporter.stop().await;
}

fn burning(tenant: &str) -> Burning {
    Burning {
        application: Application { tenant: tenant.to_owned(), service_name: "shop".to_owned() },
        burn: Burn {
            objective: "availability",
            share: 0.99,
            missed_5m: Some(0.5),
            missed_1h: Some(0.25),
            burns_fast: true,
        },
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_alert_and_its_end_are_posted_once_for_each_application_and_after_a_refusal_again() {
    let (address, mut messages) = receiver::start(1).await;
    let url = format!("http://{address}/porthole?of=alerts");
    let webhook = Webhook(HttpUrl::parse(&url).expect("a URL"));
    let (burns, burning_now) = watch::channel(Vec::new());
    let (stop, stopped) = watch::channel(false);
    let task = tokio::spawn(alerts::post(webhook, Duration::from_hours(1), burning_now, stopped));
    // Each sending is the end of a step.
    let mut next = async |now: Vec<Burning>| loop {
        burns.send_replace(now.clone());
        if let Ok(message) = tokio::time::timeout(Duration::from_millis(200), messages.recv()).await {
            let (path, message) = message.expect("a message");
            assert_eq!(path, "/porthole");
            return message;
        }
    };
    let both = vec![burning("acme"), burning("globex")];
    let first = next(both.clone()).await;
    assert_eq!(
        (&first["version"], &first["status"], &first["receiver"]),
        (&json!("4"), &json!("firing"), &json!("porthole"))
    );
    assert_eq!(first["commonLabels"]["tenant"], json!("acme"));
    assert_eq!(first["commonLabels"]["alertname"], json!("PortholeErrorBudgetBurnsFast"));
    let alert = &first["alerts"][0];
    assert_eq!(
        (&alert["labels"]["objective"], &alert["endsAt"]),
        (&json!("availability"), &json!("0001-01-01T00:00:00Z"))
    );
    assert!(alert["annotations"]["summary"].as_str().expect("a text").contains("25.0%"));
    let second = next(both).await;
    assert_eq!(second["commonLabels"]["tenant"], json!("globex"));
    assert!(!second.to_string().contains("acme"), "a tenant's alert has no word about another");

    let end = next(vec![burning("globex")]).await;
    assert_eq!((&end["status"], &end["alerts"][0]["status"]), (&json!("resolved"), &json!("resolved")));
    assert_eq!(end["alerts"][0]["labels"]["tenant"], json!("acme"));
    assert_eq!(end["alerts"][0]["startsAt"], alert["startsAt"]);
    assert_eq!(end["alerts"][0]["fingerprint"], alert["fingerprint"]);
    stop.send_replace(true);
    task.await.expect("it ends");
    assert!(messages.try_recv().is_err(), "nothing was posted twice");
}
