//! Globs over a role's path and name: `*` and `?` stay within a segment, `**` crosses `/`.
//!
//! Written out because `globset` gives `**` its meaning only between slashes, and a compiled expression costs
//! kilobytes where a glob is as big as its text. Matching takes (tokens x text / 64) steps, never more.

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

/// What globs are held against: for each byte the places where the text has it, a bit each.
#[derive(Debug)]
pub(super) struct Text {
    length: usize,
    /// Of each byte.
    words: usize,
    places: Vec<u64>,
}

/// Bits of one step.
const WORD: usize = 64;

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
    pub(super) fn matches(&self, text: &Text) -> bool {
        let slashes = text.places(b'/');
        // Bit i: the tokens so far describe exactly the first i bytes. Bits beyond the text never come back.
        let mut reached = vec![0; text.words];
        reached[0] = 1;
        for token in &self.0 {
            match token {
                Token::Byte(byte) => advance(&mut reached, text.places(*byte).iter().copied()),
                Token::One => advance(&mut reached, slashes.iter().map(|slashes| !slashes)),
                Token::Run => run(&mut reached, slashes),
                Token::Deep => fill(&mut reached),
            }
            if reached.iter().all(|word| *word == 0) {
                return false;
            }
        }
        reached[text.length / WORD] >> (text.length % WORD) & 1 == 1
    }

    /// `text` with every character that means something escaped: a glob that matches `text` alone.
    pub(super) fn escape(text: &str) -> String {
        super::text::escape(text, r"\*?[]{}")
    }
}

// === impl Text ===

impl Text {
    /// `text`, looked through once for all globs.
    pub(super) fn new(text: &str) -> Self {
        // One bit more than bytes: before the first, and after each.
        let words = text.len() / WORD + 1;
        let mut places = vec![0; 256 * words];
        for (at, byte) in text.bytes().enumerate() {
            places[usize::from(byte) * words + at / WORD] |= 1 << (at % WORD);
        }
        Self { length: text.len(), words, places }
    }

    fn places(&self, byte: u8) -> &[u64] {
        &self.places[usize::from(byte) * self.words..][..self.words]
    }
}

/// Past one byte at these places.
fn advance(reached: &mut [u64], places: impl Iterator<Item = u64>) {
    let mut carry = 0;
    for (word, places) in reached.iter_mut().zip(places) {
        let taken = *word & places;
        *word = taken << 1 | carry;
        carry = taken >> (WORD - 1);
    }
}

/// Past any number of bytes that are not at these places: a sum, since its carry runs through the places between.
fn run(reached: &mut [u64], slashes: &[u64]) {
    let mut carry = false;
    for (word, slashes) in reached.iter_mut().zip(slashes) {
        let others = !slashes;
        let (sum, over) = (*word & others).overflowing_add(others);
        let (sum, over_again) = sum.overflowing_add(carry.into());
        *word |= sum ^ others;
        carry = over || over_again;
    }
}

/// Past any number of bytes.
fn fill(reached: &mut [u64]) {
    let mut below = 0;
    for word in reached {
        // From its lowest bit upward.
        *word |= below | word.wrapping_neg();
        if *word != 0 {
            below = u64::MAX;
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
            assert_eq!(glob(pattern).matches(&Text::new(text)), expected, "{pattern:?} on {text:?}");
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
            // Longer than a word, too: with long runs, and slashes near the borders of words.
            pattern in r"([ab/*?]{0,12}|a{60,70}[ab/*?]{0,6}|[*?]{1,3}b{0,70}[/*]{0,3})",
            text in "([ab/]{0,12}|a{55,70}[ab/]{0,12}|a{60,66}/b{55,70}[ab/]{0,4}|[ab/]{0,200})",
        ) {
            let expression = pattern.replace("**", "\u{1}").replace("\u{1}*", "\u{1}")
                .replace('*', "[^/]*").replace('\u{1}', ".*").replace('?', "[^/]");
            let reference = regex::Regex::new(&format!("^(?:{expression})$")).unwrap();
            prop_assert_eq!(glob(&pattern).matches(&Text::new(&text)), reference.is_match(&text));
        }

        #[test]
        fn escaped_text_matches_itself_and_nothing_else(text in "[ -~]{0,20}", other in "[ -~]{0,20}") {
            let escaped = glob(&Glob::escape(&text));
            prop_assert!(escaped.matches(&Text::new(&text)));
            prop_assert_eq!(escaped.matches(&Text::new(&other)), text == other);
        }
    }
}
