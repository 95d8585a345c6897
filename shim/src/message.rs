//! Texts of errors, cut to what a person can use.
//!
//! Delegates answer with chains of causes and backtraces over many lines (Kata's runtime-rs formats its errors with
//! `{:?}`), and parts of such a text may come from the guest.

/// Longest text of [`brief`], in characters.
pub const MESSAGE_CHARS_MAX: usize = 200;

/// Where a text stops being of use: what follows is for a debugger.
const BACKTRACES: [&str; 4] = ["stack backtrace:", "backtrace:", "goroutine ", "\n   0: "];

/// How anyhow and its like begin the list of causes.
const CAUSES: &str = "Caused by:";

/// The text on one line, without control characters.
pub fn one_line(text: &str) -> String {
    let printable: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    printable.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// The text on one line of at most [`MESSAGE_CHARS_MAX`] characters, without backtrace. Of a chain of causes that is
/// too long, the first link, which is what was attempted, and the last one, which is the cause, are kept.
pub fn brief(text: &str) -> String {
    let text = &without_debug_form(text);
    let lower = text.to_ascii_lowercase();
    let end = BACKTRACES.iter().filter_map(|marker| lower.find(marker)).min().unwrap_or(text.len());
    let text = text.get(..end).unwrap_or(text);
    let (head, causes) = text.split_once(CAUSES).unwrap_or((text, ""));
    let links: Vec<String> = std::iter::once(head)
        .chain(causes.lines().map(without_number))
        .map(one_line)
        .filter(|link| !link.is_empty())
        .collect();
    let whole = links.join(": ");
    if whole.chars().count() <= MESSAGE_CHARS_MAX {
        return whole;
    }
    match links.as_slice() {
        [first, .., last] => {
            let half = MESSAGE_CHARS_MAX / 2 - 3;
            cut(&format!("{}: …: {}", cut(first, half), cut(last, half)), MESSAGE_CHARS_MAX)
        }
        _ => cut(&whole, MESSAGE_CHARS_MAX),
    }
}

/// Undoes Rust's debug form, in which ttrpc's server sends an error that is no status (`Others("…\\n…")`).
fn without_debug_form(text: &str) -> String {
    let quoted =
        text.split_once("Others(\"").and_then(|(code, rest)| Some((code, rest.strip_suffix("\")")?)));
    let Some((code, inner)) = quoted else { return text.to_owned() };
    let plain = inner.replace("\\n", "\n").replace("\\t", " ").replace("\\\"", "\"");
    format!("{code}{plain}")
}

/// `0: cause` without its number.
fn without_number(line: &str) -> &str {
    match line.trim().split_once(": ") {
        Some((number, cause)) if number.bytes().all(|b| b.is_ascii_digit()) => cause,
        _ => line,
    }
}

fn cut(text: &str, chars_max: usize) -> String {
    match text.char_indices().nth(chars_max) {
        None => text.to_owned(),
        Some(_) => text.chars().take(chars_max - 1).chain(['…']).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As runtime-rs answers when its sandbox ends during Start.
    const RUNTIME_RS: &str = "failed to handle message start process\n\nCaused by:\n    0: start container\n    1: \
                              ttrpc err: local stream closed\n\nStack backtrace:\n   0: anyhow::error::<impl anyhow::\
                              Error>::msg\n             at /root/.cargo/registry/src/anyhow/src/backtrace.rs:10:14\n";

    #[test]
    fn a_chain_of_causes_is_one_line_without_its_backtrace() {
        let wanted =
            "failed to handle message start process: start container: ttrpc err: local stream closed";
        assert_eq!(brief(RUNTIME_RS), wanted);
        assert_eq!(brief(&format!("UNKNOWN: Others({RUNTIME_RS:?})")), format!("UNKNOWN: {wanted}"));
    }

    #[test]
    fn of_a_long_chain_the_ends_are_kept() {
        let causes = (0..50).map(|n| format!("    {n}: cause number {n}\n")).collect::<Vec<_>>().concat();
        let text = brief(&format!("create container\n\nCaused by:\n{causes}    50: refused by policy\n"));
        assert_eq!(text, "create container: …: refused by policy");
        let giant = brief(&"ä".repeat(100_000));
        assert_eq!(giant.chars().count(), MESSAGE_CHARS_MAX);
    }

    #[test]
    fn a_panic_of_a_go_shim_and_control_characters_are_cut() {
        let text =
            "panic: runtime error: invalid memory address\u{1b}[2J\n\ngoroutine 1 [running]:\nmain.main()";
        assert_eq!(brief(text), "panic: runtime error: invalid memory address [2J");
        assert_eq!(brief(""), "");
        assert_eq!(brief("ttrpc: closed"), "ttrpc: closed");
    }
}
