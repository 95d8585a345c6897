//! Domain names, reduced to a bounded set: ids in them become `{}`.

/// Second-level labels below which names are registered, by country.
const SECOND_LEVEL: &[&str] =
    &["ac", "co", "com", "edu", "gov", "go", "mil", "ne", "net", "nom", "or", "org"];

/// Longest name that is looked at, bytes (RFC 1035 section 2.3.4).
const NAME_BYTES_MAX: usize = 255;

/// Writes what a domain name converges to into `out`.
///
/// Names of a cluster stay (`shop.prod.svc.cluster.local`), so do single labels; of public names the registrable part
/// stays (`example.co.uk`); of reverse names the zone (`{}.in-addr.arpa`). Whatever is no domain name becomes `{}`.
pub fn converge(name: &[u8], out: &mut String) {
    out.clear();
    let name = name.strip_suffix(b".").unwrap_or(name);
    let plain = name.iter().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'));
    if name.is_empty() || name.len() > NAME_BYTES_MAX || !plain {
        out.push_str("{}");
        return;
    }
    let labels = || name.rsplit(|b| *b == b'.');
    let count = labels().count();
    let is = |from_the_end: usize, label: &str| {
        labels().nth(from_the_end).is_some_and(|found| found.eq_ignore_ascii_case(label.as_bytes()))
    };
    if labels().all(|label| !label.is_empty() && label.iter().all(u8::is_ascii_digit)) {
        out.push_str("{}");
        return;
    }
    let keep = if is(0, "arpa") {
        out.push_str("{}.");
        2
    } else if is(0, "local") && is(1, "cluster") {
        // service.namespace.svc.cluster.local; pods and headless services' endpoints have a label before.
        if is(2, "svc") && count > 5 {
            out.push_str("{}.");
        }
        5
    } else if ["local", "internal", "localhost"].iter().any(|zone| is(0, zone))
        || (labels().next().is_some_and(|top| top.len() == 2)
            && SECOND_LEVEL.iter().any(|label| is(1, label))
            && count > 2)
    {
        3
    } else {
        2
    };
    let kept: usize = labels().take(keep).map(|label| label.len() + 1).sum::<usize>().saturating_sub(1);
    let kept = name.get(name.len().saturating_sub(kept)..).unwrap_or_default();
    out.extend(kept.iter().map(|b| char::from(b.to_ascii_lowercase())));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_converge() {
        for (name, expected) in [
            ("Example.COM.", "example.com"),
            ("a.b.c.example.com", "example.com"),
            ("www.example.co.uk", "example.co.uk"),
            ("co.uk", "co.uk"),
            ("db", "db"),
            ("shop.prod.svc.cluster.local", "shop.prod.svc.cluster.local"),
            ("10-0-0-1.shop.prod.svc.cluster.local", "{}.shop.prod.svc.cluster.local"),
            ("4.3.2.1.in-addr.arpa", "{}.in-addr.arpa"),
            ("printer._tcp.local", "printer._tcp.local"),
            ("10.0.0.1", "{}"),
            ("", "{}"),
            (".", "{}"),
            ("a b.com", "{}"),
        ] {
            let mut out = "left over".to_owned();
            converge(name.as_bytes(), &mut out);
            assert_eq!(out, expected, "{name}");
        }
    }
}
