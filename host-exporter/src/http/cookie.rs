//! The cookie with a browser session's secret, and which requests may use it.
//!
//! Scripts cannot read the cookie (`HttpOnly`), and the browser does not send it along with requests of other sites
//! (`SameSite=Strict`). A page of another server can still have a browser send requests: of another port of this host, which
//! counts as the same site, or from a browser that knows no `SameSite`. So a request that a browser marks as one of another
//! origin (`Sec-Fetch-Site`, else `Origin`) begins, ends and uses no session.

use axum::http::{HeaderMap, HeaderValue, header};

/// The cookie's name.
const COOKIE: &str = "porthole_session";

/// Whether a request is of this server's own pages, or of no page at all.
pub(super) fn is_of_own_pages(headers: &HeaderMap) -> bool {
    let text = |name: header::HeaderName| headers.get(name).map(|value| value.to_str().unwrap_or_default());
    match text(header::HeaderName::from_static("sec-fetch-site")) {
        Some(site) => matches!(site, "same-origin" | "none"),
        // Older browsers. `Origin` has the scheme besides, which a proxy may change.
        None => text(header::ORIGIN).is_none_or(|origin| {
            let origin = origin.split_once("://").map(|(_, host)| host);
            origin.is_some() && origin == text(header::HOST)
        }),
    }
}

/// The secret of the session that a request has.
pub(super) fn secret(headers: &HeaderMap) -> Option<&str> {
    let cookies = headers.get_all(header::COOKIE).iter().filter_map(|cookies| cookies.to_str().ok());
    cookies
        .flat_map(|cookies| cookies.split(';'))
        .filter_map(|cookie| cookie.trim().split_once('='))
        .find_map(|(name, value)| (name == COOKIE).then_some(value))
}

/// The header that sets the cookie for so many seconds.
pub(super) fn cookie(value: &str, seconds: u64, secure: bool) -> Option<HeaderValue> {
    let secure = if secure { "; Secure" } else { "" };
    let cookie = format!("{COOKIE}={value}; Path=/; Max-Age={seconds}; HttpOnly; SameSite=Strict{secure}");
    HeaderValue::try_from(cookie).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        pairs
            .iter()
            .map(|&(name, value)| (header::HeaderName::from_static(name), HeaderValue::from_static(value)))
            .collect()
    }

    #[test]
    fn requests_of_other_origins_are_recognised() {
        for own in [
            &[][..],
            &[("sec-fetch-site", "same-origin")],
            &[("sec-fetch-site", "none")],
            &[("host", "node:9464"), ("origin", "http://node:9464")],
            &[("host", "node:9464"), ("origin", "http://other"), ("sec-fetch-site", "same-origin")],
        ] {
            assert!(is_of_own_pages(&headers(own)), "{own:?}");
        }
        for other in [
            &[("sec-fetch-site", "cross-site")][..],
            &[("sec-fetch-site", "same-site")],
            &[("sec-fetch-site", "")],
            &[("host", "node:9464"), ("origin", "http://node:8080")],
            &[("host", "node:9464"), ("origin", "null")],
            &[("origin", "http://node:9464")],
        ] {
            assert!(!is_of_own_pages(&headers(other)), "{other:?}");
        }
    }

    #[test]
    fn the_sessions_cookie_is_found_among_others() {
        let found = |cookies| secret(&headers(&[("cookie", cookies)])).map(str::to_owned);
        assert_eq!(found("porthole_session=1a").as_deref(), Some("1a"));
        assert_eq!(found("a=b; porthole_session=1a; c").as_deref(), Some("1a"));
        assert_eq!(found("xporthole_session=1a; porthole_session"), None);
    }
}
