//! Refuses requests whose `Host` names another server: a page in a browser can have its own name resolve to
//! this address (DNS rebinding) and would otherwise read every tenant's numbers.

use std::{net::IpAddr, sync::Arc};

use axum::{
    extract::{Request, State},
    http::{StatusCode, header},
    middleware::Next,
    response::{IntoResponse, Response},
};

/// Host names that requests may use, besides addresses and `localhost`.
#[derive(Clone, Debug, Default)]
pub struct Hosts(Arc<[String]>);

impl Hosts {
    /// These names and no others.
    pub fn new(names: &[String]) -> Self {
        Self(names.iter().map(|name| name.to_ascii_lowercase()).collect())
    }

    /// Whether a request for this host, with or without a port, is for this server.
    fn admits(&self, host: &str) -> bool {
        let name = without_port(host);
        let bare = name.strip_prefix('[').and_then(|name| name.strip_suffix(']')).unwrap_or(name);
        // An address is safe: only a page of this server can have it as its origin.
        bare.parse::<IpAddr>().is_ok()
            || name.eq_ignore_ascii_case("localhost")
            || self.0.iter().any(|known| known.eq_ignore_ascii_case(name))
    }
}

fn without_port(host: &str) -> &str {
    match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) && !name.ends_with(':') => name,
        _ => host,
    }
}

/// Answers 421 to a request for another server (RFC 9110 section 15.5.20).
pub async fn check(State(hosts): State<Hosts>, request: Request, next: Next) -> Response {
    let named = request
        .headers()
        .get_all(header::HOST)
        .iter()
        .all(|host| host.to_str().is_ok_and(|host| hosts.admits(host)));
    let in_target = request.uri().authority().is_none_or(|authority| hosts.admits(authority.as_str()));
    if named && in_target {
        next.run(request).await
    } else {
        let text = "this name is not among `hosts` of [exporter]\n";
        (StatusCode::MISDIRECTED_REQUEST, text).into_response()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_and_known_names_are_admitted_and_other_names_are_not() {
        let hosts = Hosts::new(&["Node-1.example.com".to_owned()]);
        for host in [
            "127.0.0.1",
            "127.0.0.1:9464",
            "[::1]:9464",
            "[::1]",
            "localhost:9464",
            "LOCALHOST",
            "node-1.example.com",
            "node-1.example.com:9464",
        ] {
            assert!(hosts.admits(host), "{host}");
        }
        for host in [
            "",
            "evil.example",
            "evil.example:9464",
            "node-1.example.com.evil.example",
            "localhost.evil",
            "127.0.0.1.evil",
        ] {
            assert!(!hosts.admits(host), "{host}");
        }
    }
}
