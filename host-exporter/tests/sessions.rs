//! Sessions of browsers: how they begin, what they admit to, and how they end.

mod support;

use std::time::{Duration, SystemTime};

use porthole_access::{NewToken, Scope};
use porthole_exporter::config;
use support::{Exporter, Host, get, send, wait_for};
use tokio::net::TcpStream;

const SESSION: &str = "/api/v1/session";

fn grant(config: &config::Exporter, name: &str, expires: Option<SystemTime>) -> String {
    let scope = Scope::Tenant("acme".to_owned());
    let made = NewToken::make(name, scope, SystemTime::now(), expires).expect("made");
    porthole_access::update(&config.access_file, |grants| grants.add(made.token.clone())).expect("added");
    format!("Authorization: Bearer {}\r\n", made.expose())
}

async fn request(exporter: &Exporter, method: &str, headers: &str) -> (u16, String) {
    let stream = TcpStream::connect(exporter.address()).await.expect("connected");
    let (status, head, _) = send(stream, method, SESSION, headers).await;
    (status, head)
}

/// Begins a session; the cookie as a browser keeps it, with its attributes, and as it sends it.
async fn begin(exporter: &Exporter, bearer: &str) -> (String, String) {
    let (status, head) = request(exporter, "POST", bearer).await;
    assert_eq!(status, 204, "{head}");
    let kept = head.lines().find_map(|line| line.strip_prefix("set-cookie: ")).expect("a cookie").to_owned();
    let sent = format!("Cookie: {}\r\n", kept.split(';').next().expect("a pair"));
    (kept, sent)
}

async fn status(exporter: &Exporter, headers: &str) -> u16 {
    get(exporter.address(), "/api/v1/viewer", headers).await.0
}

fn closed(host: &Host) -> config::Exporter {
    config::Exporter { loopback_without_token: false, ..host.config() }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_admits_to_what_its_token_does_until_it_is_ended_or_the_token_revoked() {
    let host = Host::new();
    let config = closed(&host);
    let bearer = grant(&config, "acme", Some(SystemTime::now() + Duration::from_hours(1)));
    let exporter = host.start_with(&config);
    let (kept, cookie) = begin(&exporter, &bearer).await;
    for attribute in ["HttpOnly", "SameSite=Strict", "Path=/"] {
        assert!(kept.contains(attribute), "{kept}");
    }
    let seconds = kept.split("Max-Age=").nth(1).and_then(|rest| rest.split(';').next()?.parse::<u64>().ok());
    assert!(
        seconds.is_some_and(|seconds| (3_500..=3_600).contains(&seconds)),
        "not beyond the token's: {kept}"
    );
    let (_, _, viewer) = get(exporter.address(), "/api/v1/viewer", &cookie).await;
    let viewer: serde_json::Value = serde_json::from_str(&viewer).expect("JSON");
    assert_eq!((&viewer["tenant"], &viewer["session"]), (&"acme".into(), &true.into()));
    let other = get(exporter.address(), "/api/v1/sandboxes?tenant=rival", &cookie).await;
    assert_eq!(other.0, 403);

    let (_, second) = begin(&exporter, &bearer).await;
    let (ended, head) = request(&exporter, "DELETE", &cookie).await;
    assert_eq!(ended, 204);
    assert!(head.contains("porthole_session=; ") && head.contains("Max-Age=0"), "{head}");
    assert_eq!((status(&exporter, &cookie).await, status(&exporter, &second).await), (401, 200));
    porthole_access::update(&config.access_file, |grants| grants.revoke("acme")).expect("revoked");
    wait_for("the end of the session", async || status(&exporter, &second).await == 401).await;
    exporter.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_begins_only_with_a_valid_token_and_is_no_token() {
    let host = Host::new();
    let config = closed(&host);
    let bearer = grant(&config, "acme", None);
    let expired = grant(&config, "expired", Some(SystemTime::now() - Duration::from_secs(1)));
    let exporter = host.start_with(&config);
    for headers in ["", &expired, "Authorization: Bearer porthole_0\r\n", "Cookie: porthole_session=0\r\n"] {
        let (status, head) = request(&exporter, "POST", headers).await;
        assert_eq!(status, 401, "{headers}");
        assert!(!head.contains("set-cookie"), "{head}");
    }
    let (_, cookie) = begin(&exporter, &bearer).await;
    assert_eq!(request(&exporter, "POST", &cookie).await.0, 401, "a session begins no other");
    let secret = cookie.trim().split('=').nth(1).expect("a secret");
    assert_eq!(status(&exporter, &format!("Authorization: Bearer {secret}\r\n")).await, 401);
    assert!(!std::fs::read_to_string(&config.access_file).expect("a file").contains(secret));
    exporter.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_page_of_another_origin_begins_uses_and_ends_no_session() {
    let host = Host::new();
    let config = closed(&host);
    let bearer = grant(&config, "acme", None);
    let exporter = host.start_with(&config);
    let (_, cookie) = begin(&exporter, &bearer).await;
    for foreign in [
        "Sec-Fetch-Site: cross-site\r\n",
        "Sec-Fetch-Site: same-site\r\n",
        "Origin: http://evil.example\r\n",
        "Origin: http://test:8080\r\n",
        "Origin: null\r\n",
    ] {
        assert_eq!(request(&exporter, "POST", &format!("{bearer}{foreign}")).await.0, 403, "{foreign}");
        assert_eq!(request(&exporter, "DELETE", &format!("{cookie}{foreign}")).await.0, 403, "{foreign}");
        assert_eq!(status(&exporter, &format!("{cookie}{foreign}")).await, 401, "{foreign}");
    }
    for own in ["Sec-Fetch-Site: same-origin\r\n", "Sec-Fetch-Site: none\r\n", "Origin: http://test\r\n"] {
        assert_eq!(status(&exporter, &format!("{cookie}{own}")).await, 200, "{own}");
    }
    exporter.stop().await;
}
