//! What the documents name must exist: files, headings, and commands of `cargo xtask` with their arguments.

use std::{fs, path::Path};

use anyhow::{Context, Result, bail};
use clap::{CommandFactory, error::ErrorKind};

use crate::{Arguments, workspace::Workspace};

/// A document's text by what it is.
#[derive(Default)]
struct Parts {
    /// Without code.
    prose: String,
    /// Each piece of code within a line of prose.
    inline: Vec<String>,
    /// Lines of blocks of code.
    lines: Vec<String>,
    headings: Vec<String>,
}

impl Parts {
    fn of(text: &str) -> Self {
        let mut parts = Self::default();
        let mut around = String::new();
        let mut in_block = false;
        for line in text.lines() {
            if line.trim_start().starts_with("```") {
                in_block = !in_block;
            } else if in_block || line.starts_with("    ") {
                parts.lines.push(line.trim().to_owned());
            } else {
                if line.starts_with('#') {
                    parts.headings.push(slug(line.trim_start_matches('#')));
                }
                around.push_str(line);
                around.push('\n');
            }
        }
        for (number, piece) in around.split('`').enumerate() {
            if number % 2 == 0 {
                parts.prose.push_str(piece);
            } else {
                parts.inline.push(piece.replace('\n', " "));
            }
        }
        parts
    }
}

/// A heading as links name it.
fn slug(heading: &str) -> String {
    let kept = heading.trim().to_lowercase();
    let kept = kept.chars().filter(|char| char.is_alphanumeric() || " -_".contains(*char));
    kept.map(|char| if char == ' ' { '-' } else { char }).collect()
}

/// Fails for every document that names what does not exist.
pub fn check(workspace: &Workspace) -> Result<()> {
    let root = &workspace.root;
    let mut documents = vec![root.join("README.md")];
    for entry in fs::read_dir(root.join("docs")).context("read docs")? {
        documents.push(entry?.path());
    }
    documents.retain(|path| path.extension().is_some_and(|extension| extension == "md"));
    documents.sort();
    let mut wrong = Vec::new();
    for document in documents {
        let text = fs::read_to_string(&document).with_context(|| document.display().to_string())?;
        let name = document.strip_prefix(root).unwrap_or(&document).display().to_string();
        wrong.extend(wrong_in(root, &document, &text).into_iter().map(|what| format!("{name}: {what}")));
    }
    if !wrong.is_empty() {
        bail!("documents name what does not exist:\n  {}", wrong.join("\n  "));
    }
    Ok(())
}

fn wrong_in(root: &Path, document: &Path, text: &str) -> Vec<String> {
    let parts = Parts::of(text);
    let mut wrong: Vec<_> =
        links(&parts.prose).filter_map(|link| wrong_link(document, &parts, link)).collect();
    for code in &parts.inline {
        if is_path(root, code) && !root.join(code).exists() {
            wrong.push(format!("there is no {code}"));
        }
    }
    let commands = parts.inline.iter().chain(&parts.lines).filter_map(|code| code.split_once("cargo xtask "));
    wrong.extend(commands.filter_map(|(_, arguments)| wrong_command(arguments)));
    wrong
}

/// Targets of links within the repository.
fn links(prose: &str) -> impl Iterator<Item = &str> {
    let targets = prose.split("](").skip(1).filter_map(|rest| rest.split_once(')'));
    targets.map(|(target, _)| target).filter(|target| !target.contains("://"))
}

fn wrong_link(document: &Path, parts: &Parts, link: &str) -> Option<String> {
    let (path, heading) = link.split_once('#').unwrap_or((link, ""));
    let target = document.parent()?.join(path);
    if !path.is_empty() && !target.exists() {
        return Some(format!("there is no {path}"));
    }
    if heading.is_empty() {
        return None;
    }
    let is_there = if path.is_empty() {
        parts.headings.iter().any(|known| known == heading)
    } else {
        let text = fs::read_to_string(&target).ok()?;
        Parts::of(&text).headings.iter().any(|known| known == heading)
    };
    (!is_there).then(|| format!("there is no heading {link}"))
}

/// Whether it names a file or folder below one of the repository's folders, without a placeholder.
fn is_path(root: &Path, code: &str) -> bool {
    let is_plain = |char: char| char.is_ascii_alphanumeric() || "_-./".contains(char);
    let Some((folder, _)) = code.split_once('/') else { return false };
    let folder = root.join(folder);
    code.chars().all(is_plain)
        && folder != root.join("target")
        && !code.starts_with(['/', '.'])
        && folder.is_dir()
}

/// Why a command's arguments are not those of `cargo xtask`; the text may go on with something else.
fn wrong_command(arguments: &str) -> Option<String> {
    let ends =
        |word: &&str| word.starts_with(['#', '|', '>', '&', '[', '…', '(', '<']) || word.ends_with('…');
    // In a paragraph of a list, prose follows behind a backtick; in a list of commands, several spaces precede a description.
    let arguments = arguments.split('`').next().unwrap_or_default();
    let arguments = arguments.split("   ").next().unwrap_or_default();
    let words = arguments.split_whitespace().take_while(|word| !ends(word)).collect::<Vec<_>>();
    let error = Arguments::command().try_get_matches_from(std::iter::once(&"xtask").chain(&words)).err()?;
    let is_wrong = [ErrorKind::UnknownArgument, ErrorKind::InvalidSubcommand, ErrorKind::InvalidValue];
    is_wrong.contains(&error.kind()).then(|| {
        let why = error.to_string();
        format!("cargo xtask {}: {}", words.join(" "), why.lines().next().unwrap_or_default())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_does_not_exist_is_found_in_each_place() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        let text = "# One `two`, three\n[a](Cargo.toml) [b](none.md) [c](#one-two-three) [d](#four) `src/main.rs`\n\
                    `src/none.rs` `and/or` `cargo xtask\nbench exporter --agents 5` `cargo xtask bench …`\n\
                    ```sh\nsudo -E cargo xtask test --fast   # all\ncargo xtask lint && cargo xtask nothing\n```\n\n    \
                    cargo xtask bench guest --json | less\n    cargo xtask demos\n";
        let wrong = wrong_in(root, &root.join("README.md"), text);
        let beginnings: Vec<_> =
            wrong.iter().map(|line| line.split(": ").next().unwrap_or_default()).collect();
        assert_eq!(
            beginnings,
            [
                "there is no none.md",
                "there is no heading #four",
                "there is no src/none.rs",
                "cargo xtask test --fast",
                "cargo xtask demos"
            ]
        );
    }
}
