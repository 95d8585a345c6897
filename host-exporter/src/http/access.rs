//! Who makes a request, by a bearer token, a browser's session or a client certificate, and what they may read: decided for every route before
//! its handler runs.
//!
//! Every route of the table has a [`Shows`], from which it follows who is let through. Handlers get the [`Viewer`], those
//! that show one tenant the [`Tenant`] that was checked, and listings what was [`Selected`], so that what is checked and what is shown
//! cannot differ.
//! Whether something is refused follows from the request and the grants alone, never from what there is: a tenant that
//! does not exist and one that belongs to another get the same answer, as fast.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::SystemTime,
};

use axum::{
    Extension, Json,
    extract::{FromRequestParts, Query, Request, State},
    http::{HeaderMap, HeaderValue, StatusCode, header, request::Parts},
    middleware::Next,
    response::{IntoResponse, Response},
};
use parking_lot::{Mutex, RwLock};
use percent_encoding::percent_decode_str;
use porthole_access::{AccessError, Grants, NewSession, Scope, Sessions};

use super::{cookie, tls::PeerCertificate};
use crate::{config, fleet::Fleet, query::Selection};

/// What a route shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shows {
    /// Nothing of any tenant: for every client.
    Nothing,
    /// All tenants: for operators.
    Everything,
    /// The tenant that its path names: for operators and for that tenant.
    TenantOfPath,
    /// What the viewer may read: for every viewer who is known.
    OfViewer,
}

/// Who makes the request.
#[derive(Clone, Debug)]
pub struct Viewer {
    scope: Scope,
    by_session: bool,
}

impl Viewer {
    /// Who may read this, by a token or a certificate.
    pub fn new(scope: Scope) -> Self {
        Self { scope, by_session: false }
    }

    /// Whether it is a browser that has signed in.
    pub fn is_by_session(&self) -> bool {
        self.by_session
    }

    /// Whether they are an operator.
    pub fn is_operator(&self) -> bool {
        self.scope == Scope::Operator
    }

    /// The only tenant that they may read; `None` where all may.
    pub fn tenant(&self) -> Option<&str> {
        self.scope.tenant()
    }

    /// The only tenant that an answer may be about, when the request names this one or none.
    pub fn narrow(&self, wanted: Option<String>) -> Result<Option<String>, Denied> {
        match (wanted, self.scope.tenant()) {
            (Some(wanted), _) if !self.scope.admits(&wanted) => Err(Denied::Forbidden),
            (Some(wanted), _) => Ok(Some(wanted)),
            (None, own) => Ok(own.map(str::to_owned)),
        }
    }

    /// The same of a selection.
    pub fn narrow_selection(&self, wanted: Selection) -> Result<Selection, Denied> {
        Ok(Selection { tenant: self.narrow(wanted.tenant)?, ..wanted })
    }
}

/// What a listing is about: the selection of the request's query, narrowed to what the viewer may read.
#[derive(Debug)]
pub struct Selected(pub Selection);

impl<S: Send + Sync> FromRequestParts<S> for Selected {
    type Rejection = Response;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Response> {
        let viewer = Extension::<Viewer>::from_request_parts(parts, state).await;
        let Extension(viewer) = viewer.map_err(IntoResponse::into_response)?;
        let wanted = Query::<Selection>::from_request_parts(parts, state).await;
        let Query(wanted) = wanted.map_err(IntoResponse::into_response)?;
        viewer.narrow_selection(wanted).map(Self).map_err(IntoResponse::into_response)
    }
}

/// The tenant that a path names and that the viewer may read.
#[derive(Clone, Debug)]
pub struct Tenant(pub Arc<str>);

/// A request that is not answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Denied {
    /// Without a token, or a certificate that is listed, where one is needed.
    Unknown,
    /// With a token that is wrong, expired or revoked: which of them is not disclosed.
    InvalidToken,
    /// With a token that does not admit to what is requested.
    Forbidden,
    /// The host cannot answer any request now.
    Unavailable,
}

impl IntoResponse for Denied {
    fn into_response(self) -> Response {
        // RFC 6750 section 3.
        let (status, challenge, text) = match self {
            Self::Unknown => (
                StatusCode::UNAUTHORIZED,
                "Bearer realm=\"porthole\"",
                "send a bearer token: an operator of this host makes one with `porthole token create`",
            ),
            Self::InvalidToken => (
                StatusCode::UNAUTHORIZED,
                "Bearer realm=\"porthole\", error=\"invalid_token\"",
                "this token is not valid, or no longer",
            ),
            Self::Forbidden => (
                StatusCode::FORBIDDEN,
                "Bearer realm=\"porthole\", error=\"insufficient_scope\"",
                "this token is not for what was asked for",
            ),
            Self::Unavailable => {
                let text = "the host has no random numbers at the moment";
                let body = Json(serde_json::json!({ "error": text }));
                return (StatusCode::SERVICE_UNAVAILABLE, body).into_response();
            }
        };
        let challenge = [(header::WWW_AUTHENTICATE, HeaderValue::from_static(challenge))];
        (status, challenge, Json(serde_json::json!({ "error": text }))).into_response()
    }
}

/// What comes of a session's beginning: none where the token is not valid, an error where there are no random numbers.
fn granted<T, E: std::fmt::Display>(begun: Result<Option<T>, E>) -> Result<T, Denied> {
    match begun {
        Ok(session) => session.ok_or(Denied::InvalidToken),
        Err(error) => {
            tracing::error!(%error, "no random numbers for a session");
            Err(Denied::Unavailable)
        }
    }
}

/// Why no client could read anything, or every client everything.
#[derive(Debug, thiserror::Error)]
pub enum AccessProblem {
    /// The file of the grants cannot be used.
    #[error("`access_file` of [exporter] cannot be used: {0}")]
    File(#[from] AccessError),
    /// Others could reach the server, and one client could not be distinguished from another.
    #[error(
        "`listen` of [exporter] is {listen}, which others than this host's users can reach, and {file} has no token: \
         everybody could read the metrics of all tenants. Make a token with `porthole token create NAME --operator` (and \
         `--tenant TENANT` for tenants), list client certificates of `tls_client_ca` in it, or set `listen` to an address of the loopback, as 127.0.0.1:9464"
    )]
    Open {
        /// Where the server would listen.
        listen: std::net::SocketAddr,
        /// The file of the grants.
        file: PathBuf,
    },
    /// Tokens are required, and there are none.
    #[error(
        "`loopback_without_token` of [exporter] is false, and {file} has no token: nobody could read anything. Make a token \
         with `porthole token create NAME --operator`"
    )]
    Closed {
        /// The file of the grants.
        file: PathBuf,
    },
}

/// The grants in force.
#[derive(Debug)]
pub struct Access {
    file: PathBuf,
    /// Requests without a token are an operator's.
    open: bool,
    /// Connections are encrypted, so that cookies are sent over no others.
    encrypted: bool,
    grants: RwLock<Arc<Grants>>,
    sessions: Mutex<Sessions>,
}

impl Access {
    /// The grants of a configuration. Refused where the server would be open to others than the host's users.
    pub fn load(config: &config::Exporter) -> Result<Self, AccessProblem> {
        let grants = porthole_access::read(&config.access_file)?;
        let loopback = config.listen.ip().to_canonical().is_loopback();
        let open = loopback && config.loopback_without_token;
        let file = config.access_file.clone();
        let admits_nobody =
            grants.tokens.is_empty() && (grants.certificates.is_empty() || config.tls_client_ca.is_none());
        if admits_nobody && !open {
            return Err(if loopback {
                AccessProblem::Closed { file }
            } else {
                AccessProblem::Open { listen: config.listen, file }
            });
        }
        Ok(Self {
            file,
            open,
            encrypted: config.tls_certificate.is_some(),
            grants: RwLock::new(Arc::new(grants)),
            sessions: Mutex::default(),
        })
    }

    /// Where the grants are.
    pub fn file(&self) -> &Path {
        &self.file
    }

    /// Reads the grants again. Those in force stay where the file cannot be used.
    pub fn reload(&self) -> Result<(), AccessError> {
        let grants = porthole_access::read(&self.file)?;
        *self.grants.write() = Arc::new(grants);
        Ok(())
    }

    /// Whether clients reach the server by TLS.
    pub fn is_encrypted(&self) -> bool {
        self.encrypted
    }

    /// Begins a session with the bearer token of a request.
    pub fn begin_session(&self, headers: &HeaderMap, now: SystemTime) -> Result<NewSession, Denied> {
        let token = token_of(headers)?.ok_or(Denied::Unknown)?;
        let grants = Arc::clone(&self.grants.read());
        let begun = self.sessions.lock().begin(&grants, token, now);
        granted(begun)
    }

    /// Ends the session with this secret.
    pub fn end_session(&self, secret: &str) {
        self.sessions.lock().end(secret);
    }

    /// Who sends a request: by its token if it has one, else by its session, else by the connection's certificate.
    fn viewer(&self, headers: &HeaderMap, peer: Option<&PeerCertificate>) -> Result<Viewer, Denied> {
        let now = SystemTime::now();
        let grants = Arc::clone(&self.grants.read());
        let Some(token) = token_of(headers)? else {
            if let Some(secret) = cookie::secret(headers).filter(|_| cookie::is_of_own_pages(headers))
                && let Some(scope) = self.sessions.lock().holder(&grants, secret, now)
            {
                return Ok(Viewer { scope: scope.clone(), by_session: true });
            }
            let valid = peer.filter(|peer| !peer.has_expired(now));
            let holder = valid.and_then(|peer| grants.holder(&peer.names)).cloned();
            let viewer = holder.or(self.open.then_some(Scope::Operator)).map(Viewer::new);
            return viewer.ok_or(Denied::Unknown);
        };
        grants.bearer(token, now).cloned().map(Viewer::new).ok_or(Denied::InvalidToken)
    }
}

/// The only token that a request has; none where it has no `Authorization`.
fn token_of(headers: &HeaderMap) -> Result<Option<&str>, Denied> {
    let mut given = headers.get_all(header::AUTHORIZATION).iter();
    let Some(authorization) = given.next() else { return Ok(None) };
    let token = authorization.to_str().ok().and_then(bearer).ok_or(Denied::InvalidToken)?;
    if given.next().is_some() { Err(Denied::InvalidToken) } else { Ok(Some(token)) }
}

/// The token of `Authorization: Bearer …`; the scheme's case does not matter (RFC 9110 section 11.1).
fn bearer(authorization: &str) -> Option<&str> {
    let (scheme, token) = authorization.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim_matches(' '))
}

/// The tenant of `/tenants/<tenant>/metrics`. A name may have slashes, escaped or not: Prometheus escapes paths itself, and
/// then no slash.
fn tenant_of(path: &str) -> Option<Arc<str>> {
    let escaped = path.strip_prefix("/tenants/")?.strip_suffix("/metrics")?;
    let tenant = percent_decode_str(escaped).decode_utf8().ok()?;
    (!tenant.is_empty()).then(|| tenant.into())
}

/// What a route is guarded by.
#[derive(Clone, Debug)]
pub struct Guard {
    /// The grants.
    pub access: Arc<Access>,
    /// What the route shows.
    pub shows: Shows,
    /// Where refusals are counted.
    pub fleet: Arc<Fleet>,
}

/// Lets a request through to the route's handler, or refuses it.
pub async fn check(State(guard): State<Guard>, request: Request, next: Next) -> Response {
    match admit(&guard, request) {
        Ok(request) => next.run(request).await,
        Err(response) => *response,
    }
}

fn admit(guard: &Guard, mut request: Request) -> Result<Request, Box<Response>> {
    let denied = |denied: Denied| {
        guard.fleet.own.requests_denied.inc();
        Box::new(denied.into_response())
    };
    if guard.shows == Shows::Nothing {
        return Ok(request);
    }
    let peer = request.extensions().get::<PeerCertificate>();
    let viewer = guard.access.viewer(request.headers(), peer).map_err(denied)?;
    match guard.shows {
        Shows::Nothing | Shows::OfViewer => {}
        Shows::Everything if viewer.is_operator() => {}
        Shows::Everything => return Err(denied(Denied::Forbidden)),
        Shows::TenantOfPath => {
            let not_found = || Box::new(StatusCode::NOT_FOUND.into_response());
            let tenant = tenant_of(request.uri().path()).ok_or_else(not_found)?;
            if !viewer.scope.admits(&tenant) {
                return Err(denied(Denied::Forbidden));
            }
            request.extensions_mut().insert(Tenant(tenant));
        }
    }
    request.extensions_mut().insert(viewer);
    Ok(request)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tenants_are_read_from_paths_with_and_without_escapes() {
        for (path, tenant) in [
            ("/tenants/acme/metrics", Some("acme")),
            ("/tenants/a%20b%2Fc/metrics", Some("a b/c")),
            ("/tenants/a/b/metrics", Some("a/b")),
            ("/tenants/metrics/metrics", Some("metrics")),
            ("/tenants/%e6%bc%a2/metrics", Some("漢")),
            ("/tenants/%ff/metrics", None),
            ("/tenants//metrics", None),
            ("/tenants/metrics", None),
            ("/tenants/acme/other", None),
        ] {
            assert_eq!(tenant_of(path).as_deref(), tenant, "{path}");
        }
    }

    #[test]
    fn a_tenant_is_narrowed_to_itself_and_other_names_are_refused_alike() {
        let viewer = Viewer::new(Scope::Tenant("acme".to_owned()));
        let own = Ok(Some("acme".to_owned()));
        assert_eq!(viewer.narrow(None), own);
        assert_eq!(viewer.narrow(Some("acme".to_owned())), own);
        for other in ["rival", "", "Acme", "acme "] {
            assert_eq!(viewer.narrow(Some(other.to_owned())), Err(Denied::Forbidden), "{other}");
        }
        let operator = Viewer::new(Scope::Operator);
        assert_eq!(operator.narrow(None), Ok(None));
        assert_eq!(operator.narrow(Some("rival".to_owned())), Ok(Some("rival".to_owned())));
    }

    #[test]
    fn only_bearer_tokens_are_read_from_the_header() {
        assert_eq!(bearer("Bearer abc"), Some("abc"));
        assert_eq!(bearer("bearer  abc "), Some("abc"));
        for other in ["abc", "Basic abc", "Bearerabc", ""] {
            assert_eq!(bearer(other), None, "{other}");
        }
    }

    #[test]
    fn a_host_without_random_numbers_is_no_wrong_token() {
        let refused = |begun: Result<Option<()>, &str>| {
            let response = granted(begun).expect_err("refused").into_response();
            (response.status().as_u16(), response.headers().contains_key(header::WWW_AUTHENTICATE))
        };
        assert_eq!(refused(Err("no entropy")), (503, false));
        assert_eq!(refused(Ok(None)), (401, true));
    }
}
