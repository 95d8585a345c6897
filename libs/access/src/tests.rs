use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    time::{Duration, SystemTime},
};

use super::*;

fn acme() -> Scope {
    Scope::Tenant("acme".to_owned())
}

fn make(name: &str, scope: Scope, expires: Option<SystemTime>) -> NewToken {
    NewToken::make(name, scope, SystemTime::UNIX_EPOCH, expires).expect("random bytes")
}

#[test]
fn a_token_admits_until_it_expires_or_is_revoked_and_no_other_text_does() {
    let now = SystemTime::now();
    let (forever, soon) =
        (make("a", Scope::Operator, None), make("b", acme(), Some(now + Duration::from_secs(1))));
    let mut grants = Grants::default();
    for made in [&forever, &soon] {
        grants.add(made.token.clone()).expect("added");
    }
    assert_eq!(grants.bearer(forever.expose(), now), Some(&Scope::Operator));
    assert_eq!(grants.bearer(soon.expose(), now), Some(&acme()));
    assert_eq!(grants.bearer(soon.expose(), now + Duration::from_secs(1)), None, "expired");
    let text = forever.expose();
    for wrong in
        ["", "porthole_", &text[1..], &text[..text.len() - 1], &format!("{text} "), "b", &token::digest(text)]
    {
        assert_eq!(grants.bearer(wrong, now), None, "{wrong}");
    }
    grants.revoke("a").expect("revoked");
    assert_eq!(grants.bearer(forever.expose(), now), None);
    assert_eq!(grants.revoke("a"), Err(InvalidGrants::Unknown("a".to_owned())));
}

#[test]
fn a_file_survives_a_round_trip_has_no_token_and_only_its_owner_can_read_it() {
    let directory = tempfile::tempdir().expect("directory");
    let path = directory.path().join("access.toml");
    assert!(read(&path).expect("an absent file").is_empty());
    let expires = SystemTime::UNIX_EPOCH + Duration::from_secs(4_000_000_000);
    let tokens = [
        make("prometheus", Scope::Operator, Some(expires)),
        make("odd \"name\"", Scope::Tenant("a/b \u{1F980}".to_owned()), None),
    ];
    for made in &tokens {
        update(&path, |grants| grants.add(made.token.clone())).expect("added");
    }
    update(&path, |grants| {
        grants.certificates.push(Certificate { name: "node.example".to_owned(), scope: acme() });
        Ok(())
    })
    .expect("added");
    let grants = read(&path).expect("read");
    assert_eq!(grants.tokens, tokens.each_ref().map(|made| made.token.clone()));
    assert_eq!(grants.holder(&["x".to_owned(), "node.example".to_owned()]), Some(&acme()));
    assert_eq!(grants.holder(&["example".to_owned()]), None);
    let text = fs::read_to_string(&path).expect("text");
    assert!(tokens.iter().all(|made| !text.contains(made.expose())), "{text}");
    assert_eq!(fs::metadata(&path).expect("metadata").permissions().mode() & 0o7777, 0o600);
    assert_eq!(fs::read_dir(directory.path()).expect("listed").count(), 1, "nothing is left beside it");
}

#[test]
fn a_file_that_others_can_read_and_one_that_is_malformed_are_refused_with_the_reason() {
    let directory = tempfile::tempdir().expect("directory");
    let path = directory.path().join("access.toml");
    let digest = "0".repeat(64);
    let token = |name: &str, sha256: &str, rest: &str| {
        format!(
            "[[tokens]]\nname = \"{name}\"\nsha256 = \"{sha256}\"\ncreated = \"2026-01-01T00:00:00Z\"\n{rest}\n"
        )
    };
    let operator = "scope = \"operator\"";
    let sound = token("a", &digest, operator);
    let refused = |text: &str, mode: u32| {
        fs::write(&path, text).expect("written");
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).expect("mode");
        read(&path).expect_err("refused").to_string()
    };
    for mode in [0o640, 0o604, 0o620] {
        assert!(refused(&sound, mode).contains("chmod 600"));
    }
    for (text, reason) in [
        (sound.clone() + &sound, "two of the name `a`"),
        (token("a", "00", operator), "no SHA-256 digest"),
        (token("a", &"A".repeat(64), operator), "no SHA-256 digest"),
        (token("", &digest, operator), "cannot be a name"),
        (token("a\\n", &digest, operator), "cannot be a name"),
        (token("a", &digest, "scope = \"root\""), "line 5: unknown variant"),
        (token("a", &digest, "scope = { tenant = \"\" }"), "cannot be a name"),
        (token("a", &digest, ""), "missing field `scope`"),
        (token("a", &digest, "scope = \"operator\"\nexpires = \"soon\""), "2030-01-31"),
        (
            token("a", &digest, "scope = \"operator\"\nexpire = \"2030-01-31T00:00:00Z\""),
            "unknown field `expire`",
        ),
        ("tokens = 1".to_owned(), "line 1"),
        ("x".repeat(9 << 20), "more than"),
    ] {
        let error = refused(&text, 0o600);
        assert!(error.contains(reason) && error.contains("access.toml"), "{error}: {reason}");
        assert!(!error.contains(&digest), "{error}");
    }
}

#[test]
fn changes_at_the_same_time_are_all_kept() {
    let directory = tempfile::tempdir().expect("directory");
    let path = directory.path().join("access.toml");
    std::thread::scope(|scope| {
        for writer in 0..8 {
            let path = &path;
            scope.spawn(move || {
                let made = make(&format!("t{writer}"), acme(), None);
                update(path, |grants| grants.add(made.token.clone())).expect("added");
            });
        }
    });
    assert_eq!(read(&path).expect("read").tokens.len(), 8);
}
