//! Which words of a path are a program's, and which may be a person's or a secret: the part of the route rule that knows
//! words.
//!
//! A segment behind one of [`SECRET_PARENTS`] or [`PERSON_PARENTS`] is data, however plain it looks
//! (`/password/hunter2`, `/users/alice`), unless it is one of [`CODE_WORDS`] (`/password/reset`, `/users/me`). Behind a
//! word for persons it may also be a word of programs that recurs (`/user/emails`).

use super::vocabulary::is_made_of_words;

/// Prefixes of well-known kinds of tokens, as their issuers document them: AWS, GitHub, GitLab, Slack, Stripe, Google, npm,
/// `PyPI`, `OpenAI`, `SendGrid`, `DigitalOcean`, Shopify, JSON Web Tokens.
const TOKEN_PREFIXES: [&str; 33] = [
    "AKIA",
    "ASIA",
    "AROA",
    "AIDA",
    "ghp_",
    "gho_",
    "ghu_",
    "ghs_",
    "ghr_",
    "github_pat_",
    "glpat-",
    "gldt-",
    "xoxb-",
    "xoxp-",
    "xoxa-",
    "xoxr-",
    "xoxs-",
    "xapp-",
    "sk_live_",
    "sk_test_",
    "pk_live_",
    "pk_test_",
    "rk_live_",
    "whsec_",
    "sk-",
    "AIza",
    "ya29.",
    "npm_",
    "pypi-",
    "SG.",
    "dop_v1_",
    "shpat_",
    "eyJ",
];

/// Segments behind which a secret comes, in lower case and without `-` and `_`.
const SECRET_PARENTS: [&str; 41] = [
    "password",
    "passwords",
    "passwd",
    "pwd",
    "passphrase",
    "pass",
    "pin",
    "secret",
    "secrets",
    "token",
    "tokens",
    "accesstoken",
    "refreshtoken",
    "authtoken",
    "idtoken",
    "apikey",
    "apikeys",
    "key",
    "keys",
    "credential",
    "credentials",
    "login",
    "signin",
    "auth",
    "basicauth",
    "session",
    "sessions",
    "otp",
    "totp",
    "mfa",
    "reset",
    "resetpassword",
    "passwordreset",
    "verify",
    "verification",
    "confirm",
    "activate",
    "invite",
    "invitation",
    "magiclink",
    "unsubscribe",
];

/// Segments behind which a person's name comes, in the same form.
const PERSON_PARENTS: [&str; 38] = [
    "user",
    "users",
    "username",
    "usernames",
    "u",
    "account",
    "accounts",
    "customer",
    "customers",
    "member",
    "members",
    "person",
    "persons",
    "people",
    "profile",
    "profiles",
    "employee",
    "employees",
    "student",
    "students",
    "patient",
    "patients",
    "author",
    "authors",
    "friend",
    "friends",
    "contact",
    "contacts",
    "follower",
    "followers",
    "subscriber",
    "subscribers",
    "owner",
    "owners",
    "name",
    "names",
    "email",
    "emails",
];

/// Words that programs use behind such segments.
const CODE_WORDS: [&str; 92] = [
    "me",
    "self",
    "current",
    "all",
    "list",
    "new",
    "create",
    "add",
    "edit",
    "update",
    "delete",
    "remove",
    "save",
    "search",
    "find",
    "query",
    "filter",
    "count",
    "stats",
    "status",
    "export",
    "import",
    "batch",
    "bulk",
    "validate",
    "check",
    "verify",
    "confirm",
    "activate",
    "deactivate",
    "enable",
    "disable",
    "reset",
    "change",
    "forgot",
    "forgotten",
    "recover",
    "recovery",
    "request",
    "requests",
    "resend",
    "send",
    "refresh",
    "revoke",
    "rotate",
    "renew",
    "introspect",
    "exchange",
    "generate",
    "login",
    "logout",
    "signin",
    "signout",
    "signup",
    "register",
    "registration",
    "oauth",
    "oauth2",
    "sso",
    "saml",
    "oidc",
    "callback",
    "authorize",
    "token",
    "tokens",
    "password",
    "passwords",
    "session",
    "sessions",
    "user",
    "users",
    "profile",
    "profiles",
    "settings",
    "preferences",
    "roles",
    "permissions",
    "groups",
    "avatar",
    "photo",
    "image",
    "info",
    "details",
    "public",
    "private",
    "api",
    "v1",
    "v2",
    "v3",
    "index",
    "health",
    "form",
];

/// Bytes with which tokens begin: most segments are ruled out by their first one.
const TOKEN_STARTS: [bool; 256] = {
    let mut starts = [false; 256];
    let mut at = 0;
    while at < TOKEN_PREFIXES.len() {
        starts[TOKEN_PREFIXES[at].as_bytes()[0] as usize] = true;
        at += 1;
    }
    starts
};

/// Longest word of [`SECRET_PARENTS`] and [`PERSON_PARENTS`], bytes.
const PARENT_BYTES_MAX: usize = 16;

/// Lengths of the words of both by first letter, a bit each: most segments are ruled out by them.
const PARENT_LENGTHS: [u32; 26] = {
    let mut lengths = [0; 26];
    let mut at = 0;
    while at < SECRET_PARENTS.len() + PERSON_PARENTS.len() {
        let word = if at < SECRET_PARENTS.len() {
            SECRET_PARENTS[at].as_bytes()
        } else {
            PERSON_PARENTS[at - SECRET_PARENTS.len()].as_bytes()
        };
        assert!(word.len() <= PARENT_BYTES_MAX, "a longer word would not be found");
        lengths[(word[0] - b'a') as usize] |= 1 << word.len();
        at += 1;
    }
    lengths
};

/// Whether a segment begins as a known kind of token does.
pub(super) fn is_token(name: &[u8]) -> bool {
    if !name.first().is_some_and(|&first| TOKEN_STARTS[usize::from(first)]) {
        return false;
    }
    TOKEN_PREFIXES.iter().any(|prefix| name.len() > prefix.len() + 5 && name.starts_with(prefix.as_bytes()))
}

/// What a segment announces.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Behind {
    Secret,
    Person,
    Other,
}

impl Behind {
    /// Whether a segment at this place is data, whatever came there before.
    pub(super) fn is_data(self, name: &[u8]) -> bool {
        match self {
            Self::Secret => !is_code(name),
            Self::Person => !is_code(name) && !std::str::from_utf8(name).is_ok_and(is_made_of_words),
            Self::Other => false,
        }
    }
}

/// What comes behind a segment.
pub(super) fn behind(parent: &[u8]) -> Behind {
    let mut letters = [0; PARENT_BYTES_MAX];
    let mut length = 0;
    for byte in parent.iter().filter(|byte| !matches!(byte, b'-' | b'_')) {
        let Some(letter) = letters.get_mut(length) else { return Behind::Other };
        *letter = byte.to_ascii_lowercase();
        length += 1;
    }
    let word = letters.get(..length).unwrap_or_default();
    let lengths = word.first().and_then(|first| PARENT_LENGTHS.get(usize::from(first.checked_sub(b'a')?)));
    if lengths.is_none_or(|lengths| lengths >> length & 1 == 0) {
        return Behind::Other;
    }
    let is = |known: &&str| known.as_bytes() == word;
    if SECRET_PARENTS.iter().any(is) {
        Behind::Secret
    } else if PERSON_PARENTS.iter().any(is) {
        Behind::Person
    } else {
        Behind::Other
    }
}

/// Whether a segment is a word that programs use behind words for secrets and persons.
pub(super) fn is_code(name: &[u8]) -> bool {
    CODE_WORDS.iter().any(|word| name.eq_ignore_ascii_case(word.as_bytes()))
}
