//! Globs over a role's path and name: `*` and `?` stay within a segment, `**` crosses `/`.
//!
//! Written out because `globset` gives `**` its meaning only between slashes, and a compiled expression costs
//! kilobytes where a glob is as big as its text. Matching takes (tokens x text) steps, never more.

/// One step of a glob.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Token {
    Byte(u8),
    /// `?`: one byte that is not a slash.
    One,
    /// `*`: any run without a slash.
    Run,
    /// `**`: any run.
    Deep,
}

/// A parsed glob.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Glob(Box<[Token]>);

/// Why a text is not a glob.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum GlobError {
    /// A character that other glob languages give a meaning to.
    #[error(
        "{0:?} has no meaning in a glob; write one entry for each alternative, or \\{0} for the character"
    )]
    Reserved(char),
    /// A backslash with nothing after it.
    #[error("it ends in a backslash that escapes nothing")]
    Backslash,
}

// === impl Glob ===

impl Glob {
    /// Parses a glob; `\` takes the meaning from the character after it.
    pub(super) fn parse(text: &str) -> Result<Self, GlobError> {
        let mut tokens = Vec::with_capacity(text.len());
        let mut bytes = text.bytes();
        while let Some(byte) = bytes.next() {
            let token = match byte {
                b'\\' => Token::Byte(bytes.next().ok_or(GlobError::Backslash)?),
                b'[' | b']' | b'{' | b'}' => return Err(GlobError::Reserved(char::from(byte))),
                b'?' => Token::One,
                b'*' => match tokens.last() {
                    Some(Token::Run | Token::Deep) => {
                        tokens.pop();
                        Token::Deep
                    }
                    _ => Token::Run,
                },
                _ => Token::Byte(byte),
            };
            tokens.push(token);
        }
        Ok(Self(tokens.into_boxed_slice()))
    }

    /// The whole of `text` is described by the glob.
    pub(super) fn matches(&self, text: &str) -> bool {
        let text = text.as_bytes();
        if !self.0.iter().any(|token| matches!(token, Token::Run | Token::Deep)) {
            return self.0.len() == text.len()
                && self.0.iter().zip(text).all(|(token, &byte)| token.takes(byte));
        }
        // reached[i]: the tokens so far describe exactly the first i bytes.
        let mut reached = vec![false; text.len() + 1];
        reached[0] = true;
        for token in &self.0 {
            match token {
                Token::Deep => {
                    let first = reached.iter().position(|&it| it).unwrap_or(reached.len());
                    reached[first..].fill(true);
                }
                Token::Run => {
                    for (at, &byte) in text.iter().enumerate() {
                        reached[at + 1] |= reached[at] && byte != b'/';
                    }
                }
                Token::Byte(_) | Token::One => {
                    for (at, &byte) in text.iter().enumerate().rev() {
                        reached[at + 1] = reached[at] && token.takes(byte);
                    }
                    reached[0] = false;
                }
            }
            if !reached.contains(&true) {
                return false;
            }
        }
        reached[text.len()]
    }

    /// `text` with every character that means something escaped: a glob that matches `text` alone.
    pub(super) fn escape(text: &str) -> String {
        super::text::escape(text, r"\*?[]{}")
    }
}

impl Token {
    fn takes(self, byte: u8) -> bool {
        match self {
            Self::Byte(literal) => literal == byte,
            Self::One => byte != b'/',
            Self::Run | Self::Deep => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn glob(pattern: &str) -> Glob {
        Glob::parse(pattern).unwrap()
    }

    #[test]
    fn star_stays_within_a_segment_and_two_stars_do_not() {
        for (pattern, text, expected) in [
            ("MyPodRole", "MyPodRole", true),
            ("MyPodRole", "x/MyPodRole", false),
            ("MyPodRole", "MyPodRole2", false),
            ("*", "MyPodRole", true),
            ("*", "x/MyPodRole", false),
            ("team-*", "team-a", true),
            ("team-*", "team-", true),
            ("team-*", "a-team-b", false),
            ("team-*", "team-a/b", false),
            ("*/b", "a/b", true),
            ("*/b", "a/a/b", false),
            ("**", "a/b/c", true),
            ("**/c", "a/b/c", true),
            ("**/c", "c", false),
            ("a/**", "a/b/c", true),
            ("a/**", "ab/c", false),
            ("a***c", "a/b/c", true),
            ("a?c", "abc", true),
            ("a?c", "a/c", false),
            (r"a\*c", "a*c", true),
            (r"a\*c", "abc", false),
            ("*a*a*a*b", "aaaaaaaaaaaaaaaaaaaa", false),
            ("", "", true),
            ("", "a", false),
        ] {
            assert_eq!(glob(pattern).matches(text), expected, "{pattern:?} on {text:?}");
        }
    }

    #[test]
    fn what_other_globs_understand_is_an_error_and_not_a_literal() {
        assert_eq!(Glob::parse("team-{a,b}"), Err(GlobError::Reserved('{')));
        assert_eq!(Glob::parse("team-[ab]"), Err(GlobError::Reserved('[')));
        assert_eq!(Glob::parse(r"team-\"), Err(GlobError::Backslash));
    }

    proptest! {
        #[test]
        fn matcher_agrees_with_the_same_glob_as_a_regular_expression(
            pattern in r"[ab/*?]{0,12}", text in "[ab/]{0,12}",
        ) {
            let expression = pattern.replace("**", "\u{1}").replace("\u{1}*", "\u{1}")
                .replace('*', "[^/]*").replace('\u{1}', ".*").replace('?', "[^/]");
            let reference = regex::Regex::new(&format!("^(?:{expression})$")).unwrap();
            prop_assert_eq!(glob(&pattern).matches(&text), reference.is_match(&text));
        }

        #[test]
        fn escaped_text_matches_itself_and_nothing_else(text in "[ -~]{0,20}", other in "[ -~]{0,20}") {
            let escaped = glob(&Glob::escape(&text));
            prop_assert!(escaped.matches(&text));
            prop_assert_eq!(escaped.matches(&other), text == other);
        }
    }
}
