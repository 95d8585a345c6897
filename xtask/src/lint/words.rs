//! Words that were replaced by the field's, and words of speech. The former must not come back, or the same thing has two
//! names. The latter do not belong to programs and data: a file has a value, and does not state it like a person.

use std::process::Command;

use anyhow::{Result, bail, ensure};

use crate::workspace::Workspace;

/// Replaced words with what replaced them. Only words that mean nothing else here are listed, as extended regular
/// expressions, which have to match whole words.
const REPLACED: &[(&str, &str)] = &[
    ("porthole[-_]tests", "porthole-testbed"),
    ("Learned|LearnedKeys?|learned_keys?|learned keys?", "kernel key, KernelKey"),
    ("Handover", "Fallback"),
    ("Brake", "CpuLimiter"),
    ("Speech", "ProtocolFixture"),
    ("Engine", "ParserContext"),
    ("Adrift", "Desynced"),
    ("fruitless", "misses"),
    ("impatience|impatient", "timeout"),
    ("told in full", "sampled as a span"),
    ("for want of better", "fallback"),
    ("garbled", "malformed"),
    ("(messages?_)?not_understood|not understood", "unparsed"),
    ("(exchanges|updates)_folded|folds? into .other.|Folded", "overflowed, overflow series, retired"),
    ("go_on|follow_on", "resume"),
    ("[Gg]uessing|Guess", "detection, Detection"),
    ("dull|obey|obeys", "ignored, apply"),
    ("parking|parked|patience", "deferred close, timeout, pending limit"),
    ("hole", "gap"),
    ("[Ww]hose hands|for want of|on trust", "plain words"),
    ("unseen", "truncated, not captured"),
];

/// What to write in place of a word of speech.
const SPEECH_INSTEAD: &str = "has, returns, requests, reports; a process, a caller, none";

/// Where they may stand: the changelog, names of others' software, and this list.
const EXCEPT: [&str; 4] =
    [":!CHANGELOG.md", ":!Cargo.lock", ":!libs/l7/src/routes/lists", ":!xtask/src/lint/words.rs"];

/// Words of speech and of unnamed persons, as an extended regular expression: not in comments and documents.
const SPEECH: &str = "[Aa]sk(s|ed|ing)?|[Ss]ay(s|ing)?|[Ss]aid|[Tt]ell(s|ing)?|[Tt]old|[Hh]ears?|heard|[Ss]peaks?|spoke|\
                      spoken|[Nn]obody|[Aa]nybody|[Ee]verybody|[Ss]omebody|[Ww]hoever|in full|for want of";

/// Files that are prose as a whole, but for their code.
const PROSE: [&str; 6] = ["*.md", "*.toml", "*.yml", "*.proto", "*.service", "*.conf"];

/// Fails for every line with a replaced word, or with a word of speech in its comment. By hand:
/// `git grep -nwE 'WORD' -- ':!CHANGELOG.md'`.
pub fn check(workspace: &Workspace) -> Result<()> {
    let mut lines = Vec::new();
    for (word, instead) in REPLACED {
        lines.extend(find(workspace, word, &[], instead)?);
    }
    lines.extend(find(workspace, &format!("//.*\\b({SPEECH})\\b.*"), &["*.rs"], SPEECH_INSTEAD)?);
    lines.extend(find(workspace, SPEECH, &PROSE, SPEECH_INSTEAD)?);
    if !lines.is_empty() {
        bail!("replaced words:\n  {}", lines.join("\n  "));
    }
    Ok(())
}

/// The lines with a word in these files, in all without one.
fn find(workspace: &Workspace, word: &str, files: &[&str], instead: &str) -> Result<Vec<String>> {
    let mut command = Command::new("git");
    command
        .current_dir(&workspace.root)
        .args(["grep", "-InwE", "--untracked", word, "--"])
        .args(files)
        .args(EXCEPT);
    let output = command.output()?;
    // 1 means no hits.
    ensure!(
        matches!(output.status.code(), Some(0 | 1)),
        "git grep: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    let text = String::from_utf8_lossy(&output.stdout);
    Ok(text.lines().map(|line| format!("{line}   (write: {instead})")).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_replaced_word_came_back() {
        check(&Workspace::find().unwrap()).unwrap();
    }
}
