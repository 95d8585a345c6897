//! Texts from a guest, made fit for logs, errors and containerd.

/// Most bytes of a guest's text that are handed on.
pub const TEXT_BYTES_MAX: usize = 512;

/// The text cut to [`TEXT_BYTES_MAX`], with everything that is not printable escaped as in Rust's literals: a guest must
/// not write lines of its own into a log, nor control a terminal.
pub fn printable(text: &str) -> String {
    let mut out = String::new();
    for character in text.chars() {
        let escaped = match character {
            // Quotes and backslashes are printable.
            '\'' | '"' | '\\' => character.to_string(),
            _ => character.escape_debug().to_string(),
        };
        if out.len() + escaped.len() > TEXT_BYTES_MAX {
            out.push('…');
            break;
        }
        out.push_str(&escaped);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_guests_text_is_one_printable_line_of_bounded_length() {
        assert_eq!(printable("no such file: \"/ä\""), "no such file: \"/ä\"");
        assert_eq!(printable("a\nlevel=info\u{1b}[2J\0"), "a\\nlevel=info\\u{1b}[2J\\0");
        // A direction override would make the rest of a line read backwards.
        assert!(!printable("\u{202e}x").contains('\u{202e}'));
        let long = printable(&"\u{1b}".repeat(100_000));
        assert!(long.len() <= TEXT_BYTES_MAX + '…'.len_utf8() && long.ends_with('…'), "{}", long.len());
    }
}
