//! What can be the value of a label.

/// Largest length of a label's value, in bytes: Kubernetes' longest name (RFC 1123 subdomain).
pub const LABEL_VALUE_BYTES_MAX: usize = 253;

/// Whether a text can be a label's value: not empty, bounded, no control characters.
pub fn is_label_value(text: &str) -> bool {
    !text.is_empty() && text.len() <= LABEL_VALUE_BYTES_MAX && !text.chars().any(char::is_control)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn empty_long_and_control_characters_are_no_values() {
        assert!(is_label_value("shöp \"1\""));
        for text in ["", "a\nb", "a\u{7}", &"x".repeat(254)] {
            assert!(!is_label_value(text), "{text:?}");
        }
    }
}
