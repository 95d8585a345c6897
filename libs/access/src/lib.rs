//! Who may read what from the exporter: bearer tokens and client certificates, each with a [`Scope`].
//!
//! The grants are in one TOML file that only its owner can read. `porthole token` writes it, the exporter reads it, again
//! whenever it changes. A token is 256 random bits, shown once; the file has its SHA-256 digest, which cannot be guessed
//! back from so many bits, however fast the digest is. Digests are compared in constant time, and each request is
//! compared with all of them, so that neither shows which token was nearly right.

mod file;
mod session;
mod token;

use std::{fmt, time::SystemTime};

use serde::{Deserialize, Serialize};

pub use self::{
    file::{AccessError, read, update},
    session::{NewSession, SESSION_MAX, SESSIONS_MAX, SESSIONS_PER_SCOPE_MAX, Sessions},
    token::{NewToken, Token},
};

/// Where the file is unless `[exporter] access_file` names another.
pub const DEFAULT_FILE: &str = "/etc/porthole/access.toml";

/// Longest name of a token, of a certificate and of a tenant, bytes.
pub const NAME_BYTES_MAX: usize = 256;

/// Tokens and certificates in one file: each request is compared with all of them.
pub const GRANTS_MAX: usize = 10_000;

/// What someone may read.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Scope {
    /// Everything.
    Operator,
    /// What belongs to one tenant.
    Tenant(String),
}

impl Scope {
    /// The only tenant that may be read; `None` where all may.
    pub fn tenant(&self) -> Option<&str> {
        match self {
            Self::Operator => None,
            Self::Tenant(tenant) => Some(tenant),
        }
    }

    /// Whether something of a tenant may be read.
    pub fn admits(&self, tenant: &str) -> bool {
        self.tenant().is_none_or(|own| own == tenant)
    }
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Operator => f.write_str("operator"),
            Self::Tenant(tenant) => write!(f, "tenant {tenant}"),
        }
    }
}

/// A client certificate by one of its names: the common name of its subject, or a subject alternative name (DNS, URI or
/// e-mail). That it was issued by the configured authority is checked before.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Certificate {
    /// The name, as the certificate has it.
    pub name: String,
    /// What its holder may read.
    pub scope: Scope,
}

/// All that is granted.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Grants {
    /// Tokens.
    pub tokens: Vec<Token>,
    /// Certificates.
    pub certificates: Vec<Certificate>,
}

/// Grants that contradict themselves or exceed a limit.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidGrants {
    /// There are too many.
    #[error("there are more than {GRANTS_MAX} tokens and certificates")]
    TooMany,
    /// A name that cannot be used.
    #[error(
        "`{0}` cannot be a name: 1 to {NAME_BYTES_MAX} bytes without control characters are, and no blank at an end"
    )]
    Name(String),
    /// Two of a kind have the same name.
    #[error("there are two of the name `{0}`")]
    Twice(String),
    /// No digest.
    #[error("`sha256` of token `{0}` is no SHA-256 digest of 64 hexadecimal digits in lower case")]
    Digest(String),
    /// There is none of this name.
    #[error("there is no token `{0}`")]
    Unknown(String),
}

impl Grants {
    /// What the bearer of this token may read now; `None` for a token that is unknown, revoked or expired.
    pub fn bearer(&self, token: &str, now: SystemTime) -> Option<&Scope> {
        self.token(token, now).map(|token| &token.scope)
    }

    /// The token with this text, unless its time is over.
    fn token(&self, token: &str, now: SystemTime) -> Option<&Token> {
        let digest = token::digest(token);
        // All are compared, so that the time does not depend on which one is meant.
        let found =
            self.tokens.iter().fold(None, |found, token| token.is(&digest).then_some(token).or(found));
        found.filter(|token| !token.has_expired(now))
    }

    /// What the holder of a certificate with these names may read. Where several are listed, the first in the file counts.
    pub fn holder(&self, names: &[String]) -> Option<&Scope> {
        let listed = self.certificates.iter().find(|certificate| names.contains(&certificate.name));
        listed.map(|certificate| &certificate.scope)
    }

    /// Whether no one is admitted.
    pub fn is_empty(&self) -> bool {
        self.tokens.is_empty() && self.certificates.is_empty()
    }

    /// Adds a token.
    pub fn add(&mut self, token: Token) -> Result<(), InvalidGrants> {
        self.tokens.push(token);
        self.validate().inspect_err(|_| drop(self.tokens.pop()))
    }

    /// Removes a token, which no longer admits to anything.
    pub fn revoke(&mut self, name: &str) -> Result<Token, InvalidGrants> {
        let at = self.tokens.iter().position(|token| token.name == name);
        at.map(|at| self.tokens.remove(at)).ok_or_else(|| InvalidGrants::Unknown(name.to_owned()))
    }

    /// Checks what the types do not express.
    pub fn validate(&self) -> Result<(), InvalidGrants> {
        if self.tokens.len() + self.certificates.len() > GRANTS_MAX {
            return Err(InvalidGrants::TooMany);
        }
        let tokens = self.tokens.iter().map(|token| (token.name.as_str(), &token.scope));
        let certificates =
            self.certificates.iter().map(|certificate| (certificate.name.as_str(), &certificate.scope));
        for (name, scope) in tokens.clone().chain(certificates.clone()) {
            for name in scope.tenant().into_iter().chain([name]) {
                if !is_name(name) {
                    return Err(InvalidGrants::Name(name.escape_debug().take(NAME_BYTES_MAX).collect()));
                }
            }
        }
        let of_tokens = twice(tokens.map(|(name, _)| name));
        if let Some(name) = of_tokens.or_else(|| twice(certificates.map(|(name, _)| name))) {
            return Err(InvalidGrants::Twice(name.to_owned()));
        }
        match self.tokens.iter().find(|token| !token.has_digest()) {
            Some(token) => Err(InvalidGrants::Digest(token.name.clone())),
            None => Ok(()),
        }
    }
}

fn is_name(name: &str) -> bool {
    (1..=NAME_BYTES_MAX).contains(&name.len()) && !name.contains(char::is_control) && name.trim() == name
}

/// A name that occurs twice.
fn twice<'a>(names: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let mut seen = std::collections::HashSet::new();
    names.into_iter().find(|name| !seen.insert(*name))
}

#[cfg(test)]
mod tests;
