//! Names of sandboxes: containerd's namespace and the id in it.
//!
//! The same id may exist in several namespaces of one containerd. Everything on the host that belongs to one sandbox
//! (record, lock, state directories, sockets) is therefore named after both.

use std::{borrow::Borrow, fmt, str::FromStr};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

/// Largest length of an id or namespace, in bytes: containerd's own bound (`containerd: pkg/identifiers/validate.go`).
pub const ID_BYTES_MAX: usize = 76;

/// Separates the namespace from the id in file names; neither can contain it.
const SEPARATOR: char = '@';

/// Length of [`SandboxKey::digest`], in bytes of the SHA-256 digest: two sandboxes of one host do not collide, also when
/// an attacker searches for ids that do, and a path with the digest fits into the 107 bytes of a unix socket's address.
const DIGEST_BYTES: usize = 16;

/// A text that containerd would not accept as an id or namespace.
#[derive(Debug, thiserror::Error)]
#[error(
    "`{}` is no container id or namespace: 1 to {ID_BYTES_MAX} letters, digits, `-`, `_`, `.`, starting with a letter \
     or digit",
    .0.escape_debug().take(2 * ID_BYTES_MAX).collect::<String>()
)]
pub struct InvalidId(String);

fn well_formed(text: &str) -> Result<String, InvalidId> {
    let well_formed = (1..=ID_BYTES_MAX).contains(&text.len())
        && text.starts_with(|c: char| c.is_ascii_alphanumeric())
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b));
    if well_formed { Ok(text.to_owned()) } else { Err(InvalidId(text.to_owned())) }
}

macro_rules! identifier {
    ($(#[$meta:meta])* $name:ident) => {
        $(#[$meta])*
        #[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(String);

        impl $name {
            /// The text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $name {
            type Err = InvalidId;

            fn from_str(text: &str) -> Result<Self, Self::Err> {
                well_formed(text).map(Self)
            }
        }

        impl TryFrom<String> for $name {
            type Error = InvalidId;

            fn try_from(text: String) -> Result<Self, Self::Error> {
                text.parse()
            }
        }

        impl From<$name> for String {
            fn from(name: $name) -> Self {
                name.0
            }
        }

        impl Borrow<str> for $name {
            fn borrow(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

identifier! {
    /// Id that containerd gave to a container or sandbox: letters and digits, inside also `-`, `_` and `.`.
    ContainerId
}

identifier! {
    /// A namespace of containerd, of the same form as an id.
    Namespace
}

/// A sandbox has the id of its first container.
pub type SandboxId = ContainerId;

/// One sandbox of a host.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SandboxKey {
    /// containerd's namespace.
    pub namespace: Namespace,
    /// The sandbox's id in it.
    pub id: SandboxId,
}

impl SandboxKey {
    /// A short name for paths with a bounded length: 32 hexadecimal digits, the first half of the SHA-256 digest of
    /// the key's text.
    pub fn digest(&self) -> String {
        let digest = Sha256::digest(self.to_string());
        let half: [u8; DIGEST_BYTES] = std::array::from_fn(|at| digest[at]);
        format!("{:032x}", u128::from_be_bytes(half))
    }
}

/// `<namespace>@<id>`: the name of the sandbox's files.
impl fmt::Display for SandboxKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{SEPARATOR}{}", self.namespace, self.id)
    }
}

impl FromStr for SandboxKey {
    type Err = InvalidId;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (namespace, id) = text.split_once(SEPARATOR).ok_or_else(|| InvalidId(text.to_owned()))?;
        Ok(Self { namespace: namespace.parse()?, id: id.parse()? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(text: &str) -> SandboxKey {
        text.parse().expect("key")
    }

    #[test]
    fn ids_that_could_leave_the_directory_are_refused() {
        for id in ["", "..", ".x", "a/b", "a\n", "a@b", &"a".repeat(77)] {
            assert!(id.parse::<ContainerId>().is_err(), "{id:?}");
            assert!(id.parse::<Namespace>().is_err(), "{id:?}");
        }
    }

    #[test]
    fn a_refused_text_is_shown_short_and_on_one_line() {
        let error =
            format!("a\n{}", "x".repeat(10_000)).parse::<ContainerId>().expect_err("refused").to_string();
        assert!(error.len() < 400 && !error.contains('\n'), "{error}");
    }

    #[test]
    fn keys_survive_a_round_trip_and_tell_namespaces_apart() {
        assert_eq!(key("k8s.io@shop-1").to_string(), "k8s.io@shop-1");
        assert_ne!(key("a@shop-1").digest(), key("b@shop-1").digest());
        assert_ne!(key("a-b@c").to_string(), key("a@b-c").to_string());
        assert_eq!(key("acme@shop-1").digest(), "27c91e4ea042231d8890b62a18c783b5");
        for text in ["shop-1", "@shop-1", "acme@", "acme@a@b", "a/b@c"] {
            assert!(text.parse::<SandboxKey>().is_err(), "{text}");
        }
    }
}
