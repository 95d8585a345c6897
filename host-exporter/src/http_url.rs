//! Addresses of HTTP servers that the exporter sends to, as configured.

use hyper::Uri;

/// An `http` URL in its parts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HttpUrl {
    /// Name or address; one of IPv6 in brackets.
    pub host: String,
    /// Port.
    pub port: u16,
    /// Path and query.
    pub target: String,
}

impl HttpUrl {
    /// Its parts; none of another kind of URL, and of one with a user's name.
    pub fn parse(url: &str) -> Option<Self> {
        let uri: Uri = url.parse().ok()?;
        if uri.scheme_str() != Some("http") || uri.authority()?.as_str().contains('@') {
            return None;
        }
        let host = uri.host().filter(|host| !host.is_empty())?;
        let target = uri.path_and_query().map_or("/", |target| target.as_str()).to_owned();
        Some(Self { host: host.to_owned(), port: uri.port_u16().unwrap_or(80), target })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_http_urls_have_parts() {
        let parsed = |url| HttpUrl::parse(url).map(|url| (url.host, url.port, url.target));
        let of = |host: &str, port, target: &str| Some((host.to_owned(), port, target.to_owned()));
        assert_eq!(parsed("http://alerts.example/a?b=c"), of("alerts.example", 80, "/a?b=c"));
        assert_eq!(parsed("http://[::1]:9099"), of("[::1]", 9099, "/"));
        for refused in
            ["", "alerts", "https://alerts.example/", "http:///a", "http://u:p@alerts.example/", "ftp://a/"]
        {
            assert_eq!(parsed(refused), None, "{refused}");
        }
    }
}
