//! The secret by which the agent of a sandbox proves to the exporter that it is the one that the companion started.
//!
//! The companion makes one for each sandbox. It is in the sandbox's record, which only root can read, and in the
//! sidecar's own configuration; it is never sent.

use std::{fmt, io, str::FromStr};

use serde::{Deserialize, Serialize};

/// Length of a secret, in bytes: that of the digest that it keys.
pub const SECRET_BYTES: usize = 32;

/// A sandbox's secret; as text, 64 hexadecimal digits.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct AgentSecret([u8; SECRET_BYTES]);

/// A text that is no secret. It does not show the text.
#[derive(Debug, thiserror::Error)]
#[error("not a secret of {} hexadecimal digits", 2 * SECRET_BYTES)]
pub struct InvalidSecret;

impl AgentSecret {
    /// A new one, from the kernel's random numbers.
    pub fn random() -> io::Result<Self> {
        let mut bytes = [0; SECRET_BYTES];
        getrandom::fill(&mut bytes).map_err(io::Error::other)?;
        Ok(Self(bytes))
    }

    /// The key.
    pub fn bytes(&self) -> &[u8; SECRET_BYTES] {
        &self.0
    }

    /// The text, which only the agent and the record may get.
    pub fn expose(&self) -> String {
        self.0.iter().fold(String::with_capacity(2 * SECRET_BYTES), |mut text, byte| {
            for digit in [byte >> 4, byte & 15] {
                text.push(char::from_digit(digit.into(), 16).unwrap_or('0'));
            }
            text
        })
    }
}

impl From<[u8; SECRET_BYTES]> for AgentSecret {
    fn from(bytes: [u8; SECRET_BYTES]) -> Self {
        Self(bytes)
    }
}

/// Does not show the secret.
impl fmt::Debug for AgentSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("AgentSecret")
    }
}

impl FromStr for AgentSecret {
    type Err = InvalidSecret;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let digits = text.as_bytes();
        if digits.len() != 2 * SECRET_BYTES {
            return Err(InvalidSecret);
        }
        let digit = |at: usize| {
            let value = char::from(digits[at]).to_digit(16).ok_or(InvalidSecret)?;
            u8::try_from(value).map_err(|_| InvalidSecret)
        };
        let mut bytes = [0; SECRET_BYTES];
        for (at, byte) in bytes.iter_mut().enumerate() {
            *byte = digit(2 * at)? << 4 | digit(2 * at + 1)?;
        }
        Ok(Self(bytes))
    }
}

impl TryFrom<String> for AgentSecret {
    type Error = InvalidSecret;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<AgentSecret> for String {
    fn from(secret: AgentSecret) -> Self {
        secret.expose()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_survives_a_round_trip_and_is_never_shown() {
        let secret = AgentSecret::random().expect("random numbers");
        let text = secret.expose();
        assert_eq!(text.parse::<AgentSecret>().expect("parsed"), secret);
        assert_ne!(AgentSecret::random().expect("random numbers"), secret);
        assert!(!format!("{secret:?}").contains(&text[..8]));
        for bad in ["", &text[1..], &text.replace(&text[..1], "g"), &format!("{text}0"), &"é".repeat(32)] {
            let error = bad.parse::<AgentSecret>().expect_err("refused").to_string();
            assert!(bad.is_empty() || !error.contains(bad));
        }
    }
}
