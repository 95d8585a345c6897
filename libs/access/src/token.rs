//! Bearer tokens (RFC 6750): made once, kept as a digest.

use std::{fmt, io, time::SystemTime};

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq as _;

use crate::Scope;

/// Random bytes of a token.
const TOKEN_BYTES: usize = 32;

/// What every token begins with, so that a scanner for secrets can find one in a repository or a log.
const PREFIX: &str = "porthole_";

/// A token as the file has it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Token {
    /// What it is for; unique.
    pub name: String,
    /// SHA-256 digest of the token's text, in hexadecimal digits.
    sha256: String,
    /// When it was made, RFC 3339.
    #[serde(with = "rfc3339")]
    pub created: SystemTime,
    /// From when on it admits to nothing, RFC 3339; absent when it does not expire.
    #[serde(default, with = "rfc3339::optional", skip_serializing_if = "Option::is_none")]
    pub expires: Option<SystemTime>,
    /// What its bearer may read.
    pub scope: Scope,
}

impl Token {
    /// Whether it is the one of a digest; takes the same time whatever the digest.
    pub(crate) fn is(&self, digest: &str) -> bool {
        self.sha256.as_bytes().ct_eq(digest.as_bytes()).into()
    }

    /// Whether its time is over.
    pub fn has_expired(&self, now: SystemTime) -> bool {
        self.expires.is_some_and(|expires| expires <= now)
    }

    pub(crate) fn sha256(&self) -> &str {
        &self.sha256
    }

    pub(crate) fn has_digest(&self) -> bool {
        let digits = self.sha256.as_bytes();
        digits.len() == 2 * TOKEN_BYTES
            && digits.iter().all(|digit| matches!(digit, b'0'..=b'9' | b'a'..=b'f'))
    }
}

/// A token that was made just now: the only time that its text is known.
pub struct NewToken {
    /// What is kept.
    pub token: Token,
    text: String,
}

impl NewToken {
    /// Makes one of the kernel's random numbers.
    pub fn make(
        name: &str,
        scope: Scope,
        created: SystemTime,
        expires: Option<SystemTime>,
    ) -> io::Result<Self> {
        let text = format!("{PREFIX}{}", random()?);
        let token = Token { name: name.to_owned(), sha256: digest(&text), created, expires, scope };
        Ok(Self { token, text })
    }

    /// The text, for its bearer alone.
    pub fn expose(&self) -> &str {
        &self.text
    }
}

/// Does not show the text.
impl fmt::Debug for NewToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("NewToken").field(&self.token).finish()
    }
}

/// Random bits of a secret, in hexadecimal digits.
pub(crate) fn random() -> io::Result<String> {
    let mut bytes = [0; TOKEN_BYTES];
    getrandom::fill(&mut bytes).map_err(io::Error::other)?;
    Ok(hex::encode(bytes))
}

/// Digest of a token's text, in hexadecimal digits.
pub(crate) fn digest(text: &str) -> String {
    hex::encode(Sha256::digest(text))
}

/// A time as RFC 3339 has it, in whole seconds.
mod rfc3339 {
    use std::time::SystemTime;

    use serde::{Deserialize as _, Deserializer, Serializer, de::Error as _};

    pub fn serialize<S: Serializer>(time: &SystemTime, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&humantime::format_rfc3339_seconds(*time))
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<SystemTime, D::Error> {
        let text = String::deserialize(deserializer)?;
        humantime::parse_rfc3339(&text).map_err(|error| {
            D::Error::custom(format!("`{text}` as a time like 2030-01-31T00:00:00Z: {error}"))
        })
    }

    /// The same of one that may be absent.
    pub mod optional {
        use super::{Deserializer, Serializer, SystemTime};

        #[allow(clippy::ref_option, reason = "serde's `with` gives the field as it is")]
        pub fn serialize<S: Serializer>(time: &Option<SystemTime>, serializer: S) -> Result<S::Ok, S::Error> {
            match time {
                Some(time) => super::serialize(time, serializer),
                None => serializer.serialize_none(),
            }
        }

        pub fn deserialize<'de, D: Deserializer<'de>>(
            deserializer: D,
        ) -> Result<Option<SystemTime>, D::Error> {
            super::deserialize(deserializer).map(Some)
        }
    }
}
