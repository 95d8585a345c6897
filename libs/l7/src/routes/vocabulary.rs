//! Words of programs: a segment of a path that is made of them is part of a route's name at once.
//!
//! `vocabulary.txt` has the words of public APIs, of web applications and of the programs that serve them. Names of
//! persons and words that are mostly known as passwords are left out of it.

use std::{collections::HashSet, sync::LazyLock};

static WORDS: LazyLock<HashSet<&'static str>> =
    LazyLock::new(|| include_str!("vocabulary.txt").split_ascii_whitespace().collect());

/// Longest word that is looked up, bytes.
const WORD_BYTES_MAX: usize = 32;

/// Shortest words that are written as one, bytes: one before another, and the last.
const JOINED_BYTES_MIN: usize = 3;
const LAST_BYTES_MIN: usize = 4;

/// Most words that are written before another as one: `mutatingwebhookconfigurations`.
const JOINED_MAX: usize = 3;

/// Most digits of a number beside a word: versions, protocols, error codes.
const DIGITS_MAX: usize = 3;

/// Whether a segment is made of words of programs: `pull-requests`, `getUserV2`, `index.html`, `s3`. One letter may stand for
/// itself; two may beside words, once.
pub(super) fn is_made_of_words(segment: &str) -> bool {
    let mut short = 0;
    let parts = segment.split(|c: char| !c.is_ascii_alphanumeric()).filter(|part| !part.is_empty());
    // `k8s` has no humps.
    let unlisted = parts.filter(|part| !is_listed(part));
    let all = unlisted.flat_map(humps).all(|part| {
        let known = is_word_or_number(part);
        short += usize::from(!known);
        known || part.len() == 1 || (part.len() == 2 && segment.len() > 2)
    });
    all && (short <= 1 || is_language_tag(segment))
}

fn is_listed(part: &str) -> bool {
    part.len() <= WORD_BYTES_MAX && WORDS.contains(part.to_ascii_lowercase().as_str())
}

/// `en-US`, `pt_br`.
fn is_language_tag(segment: &str) -> bool {
    matches!(segment.as_bytes(), [a, b, b'-' | b'_', c, d] if [a, b, c, d].iter().all(|letter| letter.is_ascii_alphabetic()))
}

/// The words of a camel-case name, and the numbers between them.
fn humps(text: &str) -> impl Iterator<Item = &str> {
    let mut rest = text;
    std::iter::from_fn(move || {
        let bytes = rest.as_bytes();
        let class = |byte: &u8| (byte.is_ascii_digit(), byte.is_ascii_uppercase());
        let first = bytes.first()?;
        let same = bytes.iter().take_while(|byte| class(byte) == class(first)).count();
        let end = match class(first) {
            // `User`: the capital begins the word. `HTTPServer`: the last capital does.
            (false, true) if same == 1 => 1 + lower(bytes.get(1..).unwrap_or_default()),
            (false, true) if lower(bytes.get(same..).unwrap_or_default()) > 1 => same - 1,
            _ => same,
        };
        let (word, behind) = rest.split_at_checked(end)?;
        rest = behind;
        Some(word)
    })
}

fn lower(bytes: &[u8]) -> usize {
    bytes.iter().take_while(|byte| byte.is_ascii_lowercase()).count()
}

fn is_word_or_number(part: &str) -> bool {
    if part.bytes().all(|byte| byte.is_ascii_digit()) {
        return part.len() <= DIGITS_MAX;
    }
    if part.len() > WORD_BYTES_MAX {
        return false;
    }
    let word = part.to_ascii_lowercase();
    is_word(&word) || is_joined(&word, JOINED_MAX)
}

/// Whether a word is up to so many words and one more, written as one.
fn is_joined(word: &str, most: usize) -> bool {
    (JOINED_BYTES_MIN..=word.len().saturating_sub(LAST_BYTES_MIN))
        .filter_map(|at| word.split_at_checked(at))
        .any(|(first, second)| {
            WORDS.contains(first) && (is_word(second) || (most > 1 && is_joined(second, most - 1)))
        })
}

/// Endings of inflected words, and what stands in their place in the list.
const ENDINGS: [(&str, &str); 9] = [
    ("s", ""),
    ("es", ""),
    ("ies", "y"),
    ("ed", ""),
    ("ed", "e"),
    ("ied", "y"),
    ("ing", ""),
    ("ing", "e"),
    ("able", ""),
];

/// Whether a word is in the list, as it is or inflected.
fn is_word(word: &str) -> bool {
    if WORDS.contains(word) {
        return true;
    }
    ENDINGS.iter().any(|(ending, instead)| {
        let Some(stem) = word.strip_suffix(ending).filter(|stem| stem.len() >= 3) else { return false };
        // `stopped`: the consonant is doubled.
        let single = stem.get(..stem.len() - 1).filter(|single| {
            instead.is_empty() && single.len() >= 2 && single.bytes().last() == stem.bytes().last()
        });
        WORDS.contains(format!("{stem}{instead}").as_str()) || single.is_some_and(|stem| WORDS.contains(stem))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn segments_of_programs_are_made_of_words() {
        for segment in [
            "pull-requests",
            "pull_requests",
            "pullRequests",
            "PullRequestReviews",
            "HTTPServer",
            "getUserV2",
            "index.html",
            "jquery-3.6.0.min.js",
            "v2beta1",
            "oauth2",
            "s3",
            "en-US",
            "x",
            "a-old",
            "healthcheck",
            "passwordreset",
            "stopped",
            "deliveries",
            "Products(1)",
            ".well-known",
            "openid-configuration",
        ] {
            assert!(is_made_of_words(segment), "{segment}");
        }
    }

    #[test]
    fn other_words_are_not() {
        for segment in
            ["swordfish", "correcthorse", "alice", "Bob.Smithers", "hunter2", "q1w2e3r4", "meier", "xYzAbQ"]
        {
            assert!(!is_made_of_words(segment), "{segment}");
        }
    }
}
