//! Words that were replaced by the field's. They must not come back, or the same thing has two names.

use std::process::Command;

use anyhow::{Result, bail, ensure};

use crate::workspace::Workspace;

/// Replaced words with what is said instead. Only words that mean nothing else here are listed, as extended regular
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
];

/// Where old words may stand: where their replacement is told.
const EXCEPT: [&str; 2] = [":!CHANGELOG.md", ":!xtask/src/lint/words.rs"];

/// Fails for every line with a replaced word. By hand: `git grep -nwE 'WORD' -- ':!CHANGELOG.md'`.
pub fn check(workspace: &Workspace) -> Result<()> {
    let mut lines = Vec::new();
    for (word, instead) in REPLACED {
        let mut command = Command::new("git");
        command.current_dir(&workspace.root).args(["grep", "-nwE", "--untracked", word, "--"]).args(EXCEPT);
        let output = command.output()?;
        // 1 is git's word for no hits.
        ensure!(
            matches!(output.status.code(), Some(0 | 1)),
            "git grep: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        let text = String::from_utf8_lossy(&output.stdout);
        lines.extend(text.lines().map(|line| format!("{line}   (say: {instead})")));
    }
    if !lines.is_empty() {
        bail!("replaced words:\n  {}", lines.join("\n  "));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_replaced_word_came_back() {
        check(&Workspace::find().unwrap()).unwrap();
    }
}
