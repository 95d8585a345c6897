//! `POST /api/v1/session` begins a browser's session with the bearer token of the request, `DELETE` ends it.

use std::time::SystemTime;

use axum::{
    extract::State,
    http::{HeaderMap, StatusCode, header},
    response::{IntoResponse, Response},
};

use super::{
    App,
    access::Denied,
    cookie::{cookie, is_of_own_pages, secret},
};

pub(super) async fn begin(State(app): State<App>, headers: HeaderMap) -> Response {
    let denied = |denied: Denied| {
        app.fleet.own.requests_denied.inc();
        denied.into_response()
    };
    if !is_of_own_pages(&headers) {
        return denied(Denied::Forbidden);
    }
    let now = SystemTime::now();
    let session = match app.access.begin_session(&headers, now) {
        Ok(session) => session,
        Err(refused) => return denied(refused),
    };
    let seconds = session.expires.duration_since(now).unwrap_or_default().as_secs();
    match cookie(session.expose(), seconds, app.access.is_encrypted()) {
        Some(cookie) => (StatusCode::NO_CONTENT, [(header::SET_COOKIE, cookie)]).into_response(),
        None => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
    }
}

pub(super) async fn end(State(app): State<App>, headers: HeaderMap) -> Response {
    if !is_of_own_pages(&headers) {
        app.fleet.own.requests_denied.inc();
        return Denied::Forbidden.into_response();
    }
    if let Some(secret) = secret(&headers) {
        app.access.end_session(secret);
    }
    let cookie = cookie("", 0, app.access.is_encrypted()).map(|cookie| [(header::SET_COOKIE, cookie)]);
    (
        StatusCode::NO_CONTENT,
        cookie.map(IntoIterator::into_iter).map(HeaderMap::from_iter).unwrap_or_default(),
    )
        .into_response()
}
