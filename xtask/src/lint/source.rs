//! Rust source as far as the checks read it: files, text without comments and tests, paths.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};

/// The Rust files below a folder, sorted.
pub fn files(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    let mut open = vec![folder.to_owned()];
    while let Some(folder) = open.pop() {
        for entry in fs::read_dir(&folder).with_context(|| format!("read {}", folder.display()))? {
            let path = entry.context("an entry of a folder")?.path();
            if path.is_dir() {
                open.push(path);
            } else if path.extension().is_some_and(|ending| ending == "rs") {
                found.push(path);
            }
        }
    }
    found.sort();
    Ok(found)
}

/// The text without comments, strings and modules that are compiled for tests only.
pub fn without_tests(text: &str) -> String {
    let mut text = without_comments_and_strings(text);
    let attribute = "#[cfg(test)]";
    let mut from = 0;
    while let Some(at) = text.get(from..).and_then(|rest| rest.find(attribute)) {
        let start = from + at;
        let after = &text[start + attribute.len()..];
        let item = after.trim_start();
        let is_module = ["mod ", "pub mod ", "pub(crate) mod "].iter().any(|word| item.starts_with(word));
        from = start + attribute.len();
        if !is_module {
            continue;
        }
        let end = block_end(after).map_or(text.len(), |length| start + attribute.len() + length);
        text.replace_range(start..end, "");
        from = start;
    }
    text
}

/// Length up to the end of the item that begins here: its semicolon, or the brace that closes it.
fn block_end(text: &str) -> Option<usize> {
    let mut depth = 0_u32;
    for (at, character) in text.char_indices() {
        match character {
            ';' if depth == 0 => return Some(at + 1),
            '{' => depth += 1,
            '}' => {
                depth = depth.saturating_sub(1);
                if depth == 0 {
                    return Some(at + 1);
                }
            }
            _ => {}
        }
    }
    None
}

/// Comments and literals become spaces.
fn without_comments_and_strings(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let length = literal_length(rest, out.chars().next_back());
        if length > 0 {
            out.push(' ');
            rest = rest.get(length..).unwrap_or_default();
        } else {
            out.push(first);
            rest = &rest[first.len_utf8()..];
        }
    }
    out
}

/// Length of the comment, string or character that begins here; 0 if none does. `before` is what stands in front.
fn literal_length(text: &str, before: Option<char>) -> usize {
    if text.starts_with("//") {
        return text.find('\n').unwrap_or(text.len());
    }
    if text.starts_with("/*") {
        return text.find("*/").map_or(text.len(), |end| end + 2);
    }
    let in_word = before.is_some_and(|character| character.is_alphanumeric() || character == '_');
    if text.starts_with('r') && !in_word {
        let hashes = text[1..].chars().take_while(|character| *character == '#').count();
        if text[1 + hashes..].starts_with('"') {
            let end = format!("\"{}", "#".repeat(hashes));
            let start = hashes + 2;
            return text[start..].find(&end).map_or(text.len(), |at| start + at + end.len());
        }
    }
    if let Some(inside) = text.strip_prefix('"') {
        return 1 + quoted_length(inside, '"');
    }
    if let Some(inside) = text.strip_prefix('\'') {
        let mut characters = inside.chars();
        return match (characters.next(), characters.next()) {
            (Some('\\'), _) => 1 + quoted_length(inside, '\''),
            (Some(one), Some('\'')) => 2 + one.len_utf8(),
            // A lifetime.
            _ => 0,
        };
    }
    0
}

/// Length up to the closing quote, with it.
fn quoted_length(inside: &str, quote: char) -> usize {
    let mut escaped = false;
    for (at, character) in inside.char_indices() {
        if escaped {
            escaped = false;
        } else if character == '\\' {
            escaped = true;
        } else if character == quote {
            return at + 1;
        }
    }
    inside.len()
}

/// The paths that begin with `crate`, `super` or `self`; those of a group one by one.
pub fn paths(text: &str) -> Vec<Vec<String>> {
    let mut found = Vec::new();
    for start in ["crate::", "super::", "self::"] {
        for (at, _) in text.match_indices(start) {
            let before = text[..at].chars().next_back();
            let begins =
                before.is_none_or(|character| !character.is_alphanumeric() && !"_:$".contains(character));
            if begins {
                tree(&text[at..], &[], &mut found);
            }
        }
    }
    found
}

/// Reads a path with its groups; gives what follows it.
fn tree<'a>(text: &'a str, prefix: &[String], found: &mut Vec<Vec<String>>) -> &'a str {
    let mut path = prefix.to_vec();
    let mut rest = text.trim_start();
    loop {
        if let Some(mut group) = rest.strip_prefix('{') {
            loop {
                group = tree(group, &path, found).trim_start();
                match group.strip_prefix(',') {
                    Some(after) => group = after,
                    None => return group.strip_prefix('}').unwrap_or(group),
                }
            }
        }
        let length = rest.find(|character: char| !character.is_alphanumeric() && character != '_');
        let (name, after) = rest.split_at(length.unwrap_or(rest.len()));
        if !name.is_empty() && (path.is_empty() || name != "self") {
            path.push(name.to_owned());
        }
        match after.trim_start().strip_prefix("::") {
            Some(next) if !name.is_empty() => rest = next.trim_start(),
            _ => {
                if path.len() > prefix.len() || name == "self" {
                    found.push(path);
                }
                // `as NAME`, and `*`.
                let end = after.find([',', '}', ';']).filter(|_| !prefix.is_empty()).unwrap_or(0);
                return &after[end..];
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn joined(text: &str) -> Vec<String> {
        paths(text).iter().map(|path| path.join("::")).collect()
    }

    #[test]
    fn groups_are_told_apart() {
        let text = "use crate::{a::{self, A}, b::B as C, d::*, e};\nfn f() { super::g::h::<u8>() }";
        assert_eq!(
            joined(text),
            ["crate::a", "crate::a::A", "crate::b::B", "crate::d", "crate::e", "super::g::h"]
        );
    }

    #[test]
    fn paths_inside_other_paths_do_not_begin() {
        assert_eq!(joined("other::crate::a; pub(crate) fn x(); $crate::b!()"), Vec::<String>::new());
    }

    #[test]
    fn comments_strings_and_tests_are_left_out() {
        let text = "a \"crate::x }\" 'x' '\\'' r#\"\"y\"\"# <'a> /* crate::b */ c // crate::d\n\
                    #[cfg(test)]\nmod tests { fn f() { {} } }\ne #[cfg(test)] fn g() {}";
        let plain = without_tests(text);
        let words: Vec<&str> = plain.split_whitespace().collect();
        assert_eq!(words, ["a", "<'a>", "c", "e", "#[cfg(test)]", "fn", "g()", "{}"]);
    }
}
