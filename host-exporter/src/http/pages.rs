//! The dashboards in the browser: the files of `web/`, which are part of the program. They are the same for every client and
//! have nothing of any tenant; what they show comes from the JSON routes, by the rights of who looks.

use axum::{
    extract::{Path, Request},
    http::{HeaderMap, HeaderValue, StatusCode, header},
    middleware::Next,
    response::{Html, IntoResponse, Response},
};

/// A file of the bundle.
struct Asset {
    name: &'static str,
    media_type: &'static str,
    etag: &'static str,
    plain: &'static [u8],
    gzip: &'static [u8],
}

/// Made by the build script; empty in a build without the bundle.
static ASSETS: &[Asset] = include!(concat!(env!("OUT_DIR"), "/assets.rs"));

/// The page that loads the others.
const INDEX: &str = "index.html";

/// What a page may load and do: files and data of this server, nothing inline, no markup from text (Trusted Types), no frame.
const CONTENT_SECURITY_POLICY: &str = "default-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; \
                                       object-src 'none'; require-trusted-types-for 'script'; trusted-types 'none'";

/// What every answer has besides, unless its route has set another value.
const OF_ALL: [(header::HeaderName, &str); 6] = [
    (header::CONTENT_SECURITY_POLICY, CONTENT_SECURITY_POLICY),
    (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    (header::X_FRAME_OPTIONS, "DENY"),
    (header::REFERRER_POLICY, "no-referrer"),
    (header::HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
    (header::CACHE_CONTROL, "no-store"),
];

/// Sets what every answer has.
pub async fn protect(request: Request, next: Next) -> Response {
    let mut response = next.run(request).await;
    for (name, value) in OF_ALL {
        response.headers_mut().entry(name).or_insert(HeaderValue::from_static(value));
    }
    response
}

pub(super) async fn index(headers: HeaderMap) -> Response {
    serve(INDEX, &headers, "no-cache").unwrap_or_else(|| Html(WITHOUT_BUNDLE).into_response())
}

/// Names of files change with their content.
pub(super) async fn asset(Path(name): Path<String>, headers: HeaderMap) -> Response {
    serve(&name, &headers, "public, max-age=31536000, immutable")
        .unwrap_or_else(|| StatusCode::NOT_FOUND.into_response())
}

fn serve(name: &str, headers: &HeaderMap, caching: &'static str) -> Option<Response> {
    let asset = ASSETS.iter().find(|asset| asset.name == name)?;
    let same =
        [(header::ETAG, asset.etag), (header::CACHE_CONTROL, caching), (header::VARY, "accept-encoding")];
    let known = headers.get_all(header::IF_NONE_MATCH).iter().filter_map(|known| known.to_str().ok());
    if known.flat_map(|known| known.split(',')).any(|known| is_etag(known, asset.etag)) {
        return Some((StatusCode::NOT_MODIFIED, same).into_response());
    }
    let media_type = [(header::CONTENT_TYPE, asset.media_type)];
    Some(if super::scrape::accepts_gzip(headers) {
        (same, media_type, [(header::CONTENT_ENCODING, "gzip")], asset.gzip).into_response()
    } else {
        (same, media_type, asset.plain).into_response()
    })
}

/// Weak comparison (RFC 9110 section 13.1.2).
fn is_etag(known: &str, etag: &str) -> bool {
    let known = known.trim();
    known == "*" || known.strip_prefix("W/").unwrap_or(known) == etag
}

const WITHOUT_BUNDLE: &str = concat!(
    "<!doctype html><html lang=en><meta charset=utf-8><title>porthole-exporter</title><h1>porthole-exporter ",
    env!("CARGO_PKG_VERSION"),
    "</h1><p>This build has no dashboards: they are made with Node.js, which a plain <code>cargo build</code> does not need. ",
    "<code>cargo xtask build</code> makes them, and a program in <code>target/dist/bin</code> that has them.</p><p>Without them: ",
    "<a href=\"/metrics\">/metrics</a>, <a href=\"/api/v1/applications\">/api/v1/applications</a>, ",
    "<a href=\"/api/v1/history\">/api/v1/history</a>, <a href=\"/api/v1/sandboxes\">/api/v1/sandboxes</a>, ",
    "<a href=\"/api/v1/spans\">/api/v1/spans</a>, <a href=\"/api/v1/traces\">/api/v1/traces</a>, <a href=\"/healthz\">/healthz</a>, <a href=\"/readyz\">/readyz</a>.</p></html>\n"
);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_the_client_has_is_recognised_by_its_tag() {
        for known in ["\"1f\"", "W/\"1f\"", " \"1f\" ", "*"] {
            assert!(is_etag(known, "\"1f\""), "{known}");
        }
        for other in ["1f", "\"1e\"", "", "W/"] {
            assert!(!is_etag(other, "\"1f\""), "{other}");
        }
    }

    #[test]
    fn the_bundle_is_whole_or_absent() {
        if ASSETS.is_empty() {
            return;
        }
        let index = ASSETS.iter().find(|asset| asset.name == INDEX).expect("a page");
        let page = std::str::from_utf8(index.plain).expect("text");
        for asset in ASSETS.iter().filter(|asset| asset.name != INDEX) {
            assert!(page.contains(&format!("/assets/{}", asset.name)), "{} is loaded", asset.name);
        }
    }
}
