//! The template of a request target: what names one thing out of many becomes `{}`.
//!
//! A segment stays as it is only if it can be a word of a program: plain ASCII without `:`, no number, date, hash or
//! token, no mixed case with digits, and not behind a word that announces a secret or a person (`words.rs`).

use super::words::{self, Behind};

/// Most segments of a template; what follows becomes `*`.
const SEGMENTS_MAX: usize = 10;

/// Longest segment that stays as it is, bytes.
const SEGMENT_BYTES_MAX: usize = 48;

/// Writes the template of a request target into `out`.
///
/// Origin form, absolute form (its scheme and authority are dropped), authority form (CONNECT) and `*` are taken
/// (RFC 9112 section 3.2). Query and fragment are dropped.
pub(crate) fn template(target: &[u8], out: &mut String) {
    out.clear();
    let path = match path(target) {
        Ok(path) => path,
        Err(authority) => {
            authority_form(authority, out);
            return;
        }
    };
    let mut count = 0;
    let mut behind = Behind::Other;
    for name in path.split(|b| *b == b'/').filter(|name| !name.is_empty()) {
        out.push('/');
        count += 1;
        if count > SEGMENTS_MAX {
            out.push('*');
            return;
        }
        if behind.is_data(name) {
            out.push_str("{}");
            behind = Behind::Other;
        } else {
            segment(name, out);
            behind = words::behind(name);
        }
    }
    if path.last() == Some(&b'/') || out.is_empty() {
        out.push('/');
    }
}

/// The path of a target, without query and fragment; of a target in authority form or of `*`, the target.
pub(crate) fn path(target: &[u8]) -> Result<&[u8], &[u8]> {
    let target = target.split(|b| matches!(b, b'?' | b'#')).next().unwrap_or_default();
    match scheme_end(target) {
        Some(end) => {
            let rest = target.get(end..).unwrap_or_default();
            let slash = rest.iter().position(|b| *b == b'/').unwrap_or(rest.len());
            Ok(rest.get(slash..).unwrap_or_default())
        }
        None if target.first().is_none_or(|b| *b == b'/') => Ok(target),
        None => Err(target),
    }
}

/// Writes what a name of the application's (a queue, a routing key) converges to: its parts are looked at like segments.
pub(crate) fn name(name: &[u8], out: &mut String) {
    if name.first() == Some(&b'/') {
        return template(name, out);
    }
    out.clear();
    for (at, part) in name.split(|b| *b == b':').enumerate() {
        if at > 0 {
            out.push(':');
        }
        if !part.is_empty() {
            segment(part, out);
        }
    }
}

/// Whether a part of a name begins as a known kind of token does.
pub(crate) fn holds_token(name: &[u8]) -> bool {
    name.split(|byte| matches!(byte, b'.' | b':' | b'/')).any(words::is_token)
}

/// `host:port`, or `*`.
fn authority_form(authority: &[u8], out: &mut String) {
    let (host, port) = match authority.iter().rposition(|b| *b == b':') {
        Some(colon) => authority.split_at(colon),
        None => (authority, &[][..]),
    };
    segment(host, out);
    match std::str::from_utf8(port.get(1..).unwrap_or_default()) {
        Ok(port) if !port.is_empty() && port.len() <= 5 && port.bytes().all(|b| b.is_ascii_digit()) => {
            out.push(':');
            out.push_str(port);
        }
        _ => {}
    }
}

/// Where the authority of `scheme://authority` starts.
fn scheme_end(target: &[u8]) -> Option<usize> {
    let letters = target.iter().take(12).take_while(|b| b.is_ascii_alphanumeric()).count();
    (letters > 0 && target.get(letters..)?.starts_with(b"://")).then_some(letters + 3)
}

/// One segment, without its matrix parameters.
fn segment(name: &[u8], out: &mut String) {
    let name = name.split(|b| *b == b';').next().unwrap_or_default();
    let plain = name.iter().all(|b| b.is_ascii_alphanumeric() || b"-_.~*+!()[]{}$'".contains(b));
    let has_parts = name.contains(&b'.') && name.iter().any(u8::is_ascii_alphabetic);
    if !plain || name.len() > SEGMENT_BYTES_MAX || words::is_token(name) || (!has_parts && is_id(name)) {
        out.push_str("{}");
        return;
    }
    // Checked to be ASCII.
    let text = std::str::from_utf8(name).unwrap_or("{}");
    // `app.3f9a8b7c.js`, `123.jpg`: the parts of a file name are looked at one by one.
    for (at, part) in text.split('.').enumerate() {
        if at > 0 {
            out.push('.');
        }
        let digits_only = !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit());
        let is_secret = words::is_token(part.as_bytes());
        if is_secret || (at == 0 && digits_only && has_parts) || (is_id(part.as_bytes()) && !digits_only) {
            out.push_str("{}");
        } else {
            out.push_str(part);
        }
    }
}

/// Whether a segment looks like an id, a date, a hash or a token rather than a name.
fn is_id(name: &[u8]) -> bool {
    let [mut digits, mut upper, mut lower, mut hex, mut dashes, mut dots] = [0_usize; 6];
    for byte in name {
        match byte {
            b'0'..=b'9' => digits += 1,
            b'A'..=b'Z' => upper += 1,
            b'a'..=b'z' => lower += 1,
            b'-' | b'_' | b':' => dashes += 1,
            b'.' => dots += 1,
            _ => {}
        }
        hex += usize::from(byte.is_ascii_hexdigit());
    }
    let letters = upper + lower;
    if digits == 0 {
        // Hashes without a digit are rare, words of hexadecimal letters are short; long mixed case is a token.
        return (hex == name.len() && name.len() >= 16)
            || (name.len() >= 24 && upper > 2 && lower > 2 && dashes == 0);
    }
    // aB3xY9: code writes words in one case, or in camel case with a number at the end.
    let starts_lower = name.first().is_some_and(u8::is_ascii_lowercase);
    let camel =
        starts_lower && name.iter().rev().skip_while(|b| b.is_ascii_digit()).all(u8::is_ascii_alphabetic);
    if upper > 0 && lower > 0 && !(camel && digits == 1 && letters >= 6) {
        return true;
    }
    // 42, 2024-01-31
    if digits + dashes == name.len() {
        return true;
    }
    // 10.0.0.1, 2024.01.31; but 1.0 is a version.
    if digits + dots == name.len() {
        return name.len() >= 7;
    }
    // Hexadecimal, UUIDs.
    if hex + dashes == name.len() && (hex >= 8 || digits >= 4) {
        return true;
    }
    // 2024-01-31T12:30:00Z
    if digits >= 8 && letters <= 3 {
        return true;
    }
    let changes = name.windows(2).filter(|pair| pair[0].is_ascii_digit() != pair[1].is_ascii_digit()).count();
    // user_12345, order-98231
    if digits >= 4 && (digits * 3 >= letters || changes >= 4) {
        return true;
    }
    // base64 and the like
    (name.len() >= 16 && dashes <= 2 && digits >= 2 && changes >= 3)
        || (name.len() >= 20 && upper >= 3 && lower >= 3 && dashes <= 2)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(target: &str) -> String {
        let mut out = "left over".to_owned();
        template(target.as_bytes(), &mut out);
        out
    }

    #[test]
    fn targets_become_templates() {
        for (target, expected) in [
            ("/", "/"),
            ("/index.html", "/index.html"),
            ("/a/b/?q=1", "/a/b/"),
            ("/a/b#f", "/a/b"),
            ("//a///b", "/a/b"),
            ("?", "/"),
            ("*", "*"),
            ("http://h.example/p/1?x", "/p/{}"),
            ("https://h.example:8443", "/"),
            ("http://h?x=/a", "/"),
            ("example.com:443", "example.com:443"),
            ("/users/42", "/users/{}"),
            ("/users/42/orders/7a", "/users/{}/orders/7a"),
            ("/v1/pods", "/v1/pods"),
            ("/api/v2beta1/x", "/api/v2beta1/x"),
            ("/api/1.0/x", "/api/1.0/x"),
            ("/u/3f2504e0-4f89-11d3-9a0c-0305e82c3301", "/u/{}"),
            ("/c/da39a3ee5e6b4b0d3255bfef95601890afd80709", "/c/{}"),
            ("/c/deadbeefdeadbeef", "/c/{}"),
            ("/facade/cafe", "/facade/cafe"),
            ("/d/2024-01-31", "/d/{}"),
            ("/d/2024-01-31T10:00:00Z", "/d/{}"),
            ("/d/2024/01/31", "/d/{}/{}/{}"),
            ("/ip/10.0.0.1", "/ip/{}"),
            ("/o/order-98231", "/o/{}"),
            ("/t/dGhpcyBpcyBhIHRva2Vu", "/t/{}"),
            ("/t/eyJhbGciOiJIUzI1NiJ9", "/t/{}"),
            ("/assets/app.3f9a8b7c.js", "/assets/app.{}.js"),
            ("/assets/jquery-3.6.0.min.js", "/assets/jquery-3.6.0.min.js"),
            ("/img/123.jpg", "/img/{}.jpg"),
            ("/wiki/%E4%BD%A0", "/wiki/{}"),
            ("/m/a;jsessionid=5", "/m/a"),
            ("/mail/a@b.c", "/mail/{}"),
            ("/iphone-15-pro", "/iphone-15-pro"),
            ("/oauth2/token", "/oauth2/token"),
            ("/s3/bucket", "/s3/bucket"),
            ("/products-and-services/customer-relations", "/products-and-services/customer-relations"),
            ("/a/b/c/d/e/f/g/h/i/j/k/l", "/a/b/c/d/e/f/g/h/i/j/*"),
            ("/\u{fc}ber", "/{}"),
            ("/password/hunter2", "/password/{}"),
            ("/Reset-Password/correcthorse", "/Reset-Password/{}"),
            ("/password/reset", "/password/reset"),
            ("/login/bob:s3cret", "/login/{}"),
            ("/x/bob:secret", "/x/{}"),
            ("/key/AKIAIOSFODNN7EXAMPLE", "/key/{}"),
            ("/t/AKIAIOSFODNNEXAMPLE", "/t/{}"),
            ("/t/ghp_abcdefghijklmnop", "/t/{}"),
            ("/t/backup.ghp_abcdefghijklmnop", "/t/backup.{}"),
            ("/reset/aB3xY9", "/reset/{}"),
            ("/r/aB3xY9", "/r/{}"),
            ("/users/alice", "/users/{}"),
            ("/api/v1/users/me/orders", "/api/v1/users/me/orders"),
            ("/users/alice/orders", "/users/{}/orders"),
            ("/auth/login", "/auth/login"),
            ("/oauth2/token/introspect", "/oauth2/token/introspect"),
            ("/api/getUserV2", "/api/getUserV2"),
        ] {
            assert_eq!(of(target), expected, "{target}");
        }
    }

    #[test]
    fn a_long_segment_is_no_name() {
        assert_eq!(of(&format!("/{}", "a".repeat(100))), "/{}");
    }
}
