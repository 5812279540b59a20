//! Hostile text made harmless: for messages, for a shell, for a pattern.

/// `text` for a message: printable ASCII as it is, everything else escaped, cut to `longest` characters.
pub(super) fn printable(text: &str, longest: usize) -> String {
    let mut safe = String::with_capacity(text.len().min(longest));
    for c in text.chars() {
        let room = longest - safe.len();
        if c == ' ' || c.is_ascii_graphic() {
            if room == 0 {
                return cut(safe, longest);
            }
            safe.push(c);
        } else {
            let escaped = c.escape_default();
            if escaped.len() > room {
                return cut(safe, longest);
            }
            safe.extend(escaped);
        }
    }
    safe
}

fn cut(mut text: String, longest: usize) -> String {
    text.truncate(longest.saturating_sub(3));
    text.push_str("...");
    text
}

/// `text` as one word of a POSIX shell.
pub(super) fn shell_word(text: &str) -> String {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"-._/".contains(&b);
    if !text.is_empty() && !text.starts_with('-') && text.bytes().all(plain) {
        return text.to_owned();
    }
    format!("'{}'", text.replace('\'', r"'\''"))
}

/// `text` with a backslash before each of `special`.
pub(super) fn escape(text: &str, special: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        if special.contains(c) {
            escaped.push('\\');
        }
        escaped.push(c);
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_bytes_are_escaped_and_long_text_is_cut() {
        assert_eq!(printable("a\n\u{1b}[2Jé", 80), r"a\n\u{1b}[2J\u{e9}");
        assert_eq!(printable(&"a".repeat(80), 10), "aaaaaaa...");
        assert_eq!(printable("aaaaaaa\n\n", 10), "aaaaaaa...");
        assert_eq!(printable("abc", 3), "abc");
    }

    #[test]
    fn shell_word_cannot_be_left() {
        assert_eq!(shell_word("team-a"), "team-a");
        assert_eq!(shell_word("-n"), "'-n'");
        assert_eq!(shell_word("$(id)'; id"), r"'$(id)'\''; id'");
    }
}
