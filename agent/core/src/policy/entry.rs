//! One entry of a namespace's list: which roles it describes.

use regex::bytes::RegexBuilder;

use super::glob::{Glob, GlobError, Text};
use super::rules::PatternFormat;
use crate::types::RoleArn;

/// Longest entry, in bytes: no ARN is longer.
const LONGEST_BYTES: usize = 2048;

/// Largest compiled expression of one entry, in bytes: `(?:a?){5000}` takes 143 ms a match under the default
/// of 10 MiB and does not compile under this.
const EXPRESSION_BYTES: usize = 64 * 1024;

/// Deepest nesting of one expression.
const EXPRESSION_NESTING: u32 = 32;

/// What an entry is held against.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Scope {
    /// The role is of the base's partition and account.
    pub(super) home: bool,
    /// It is also below the base's path: bytes of [`RoleArn::path_and_name`] that the base's path takes.
    pub(super) below_base: Option<usize>,
}

/// A role, as globs are held against it.
#[derive(Debug)]
pub(super) struct Asked<'r> {
    role: &'r RoleArn,
    path_and_name: Text,
    /// Below the base's path.
    relative: Option<Text>,
}

/// A valid entry.
#[derive(Debug)]
pub(super) enum Entry {
    /// A glob without `arn:`: within the base account.
    Relative(Glob),
    /// A glob `arn:PARTITION:iam::ACCOUNT:role/GLOB`.
    Arn { partition: Box<str>, account: Box<str>, resource: Glob },
    /// A regular expression, as written; [`super::allow_list`] compiles all of them together.
    Expression { text: Box<str>, whole_arn: bool },
}

/// Why an entry is none.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EntryError {
    /// Matches nothing; elsewhere it has been taken for the base ARN.
    #[error("it is empty")]
    Empty,
    /// Longer than any ARN.
    #[error("it is longer than {LONGEST_BYTES} bytes")]
    TooLong,
    /// A character that no ARN has.
    #[error("it has the character {0:?}, which no role has")]
    Character(char),
    /// A colon, but not the shape of an ARN.
    #[error("it is neither a role's name or path, nor arn:PARTITION:iam::ACCOUNT:role/...")]
    Shape,
    /// Wildcards in the partition or the account, or not 12 digits.
    #[error("its partition and account are not literal (the account has 12 digits)")]
    Account,
    /// Not a glob.
    #[error(transparent)]
    Glob(#[from] GlobError),
    /// Does not compile alone, or is too big.
    #[error("it is not a regular expression, or one that compiles to more than 64 KiB")]
    Expression,
}

// === impl Entry ===

impl Entry {
    /// Parses one entry.
    pub(super) fn parse(text: &str, format: PatternFormat) -> Result<Self, EntryError> {
        if text.is_empty() {
            return Err(EntryError::Empty);
        }
        if text.len() > LONGEST_BYTES {
            return Err(EntryError::TooLong);
        }
        if let Some(odd) = text.chars().find(|c| *c != ' ' && !c.is_ascii_graphic()) {
            return Err(EntryError::Character(odd));
        }
        match format {
            PatternFormat::Glob => Self::glob(text),
            PatternFormat::Regexp => Self::expression(text, starts_as_arn(text)),
        }
    }

    /// A regular expression; `whole_arn`: over the whole ARN.
    pub(super) fn expression(text: &str, whole_arn: bool) -> Result<Self, EntryError> {
        // Alone: `x)|(?:.*admin` compiles only inside of parentheses.
        compile(text)?;
        // And as it is used: `(?x)a #`, a comment, only alone.
        if text.contains('#') {
            compile(&anchored(text))?;
        }
        Ok(Self::Expression { text: text.into(), whole_arn })
    }

    fn glob(text: &str) -> Result<Self, EntryError> {
        let Some(rest) = text.strip_prefix("arn:") else {
            if text.contains(':') {
                return Err(EntryError::Shape);
            }
            return Ok(Self::Relative(Glob::parse(text.strip_prefix('/').unwrap_or(text))?));
        };
        let (partition, rest) = rest.split_once(":iam::").ok_or(EntryError::Shape)?;
        let (account, resource) = rest.split_once(':').ok_or(EntryError::Shape)?;
        let literal = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
        if partition.is_empty() || !partition.chars().all(literal) {
            return Err(EntryError::Account);
        }
        if account.len() != 12 || !account.bytes().all(|b| b.is_ascii_digit()) {
            return Err(EntryError::Account);
        }
        let resource = resource.strip_prefix("role/").ok_or(EntryError::Shape)?;
        if resource.is_empty() || resource.contains(':') {
            return Err(EntryError::Shape);
        }
        let resource = Glob::parse(resource)?;
        Ok(Self::Arn { partition: partition.into(), account: account.into(), resource })
    }

    /// A glob that describes the role (expressions never do: they are matched together).
    pub(super) fn matches_as_glob(&self, asked: &Asked<'_>) -> bool {
        match self {
            Self::Relative(glob) => asked.relative.as_ref().is_some_and(|name| glob.matches(name)),
            Self::Arn { partition, account, resource } => {
                asked.role.partition() == &**partition
                    && asked.role.account() == &**account
                    && resource.matches(&asked.path_and_name)
            }
            Self::Expression { .. } => false,
        }
    }

    /// May say anything about roles of `role`'s account: the base's, or one whose 12 digits it has literally.
    pub(super) fn speaks_of(&self, role: &RoleArn, scope: Scope) -> bool {
        match self {
            Self::Relative(_) => scope.home,
            Self::Arn { account, .. } => role.account() == &**account,
            Self::Expression { text, .. } => scope.home || has_account(text, role.account()),
        }
    }
}

// === impl Asked ===

impl<'r> Asked<'r> {
    pub(super) fn new(role: &'r RoleArn, scope: Scope) -> Self {
        let path_and_name = Text::new(role.path_and_name());
        Self { role, path_and_name, relative: scope.relative(role).map(Text::new) }
    }
}

// === impl Scope ===

impl Scope {
    /// What a relative entry is compared with: the path and name below the base.
    pub(super) fn relative(self, role: &RoleArn) -> Option<&str> {
        self.below_base.and_then(|skip| role.path_and_name().get(skip..))
    }
}

/// An expression over the whole ARN: `arn:` or `^arn:`.
fn starts_as_arn(text: &str) -> bool {
    text.strip_prefix('^').unwrap_or(text).starts_with("arn:")
}

/// As it is held against a role: the whole of it.
pub(super) fn anchored(expression: &str) -> String {
    format!("^(?:{expression})$")
}

fn compile(text: &str) -> Result<(), EntryError> {
    RegexBuilder::new(text)
        .unicode(false)
        .size_limit(EXPRESSION_BYTES)
        .dfa_size_limit(EXPRESSION_BYTES)
        .nest_limit(EXPRESSION_NESTING)
        .build()
        .map(|_| ())
        .map_err(|_| EntryError::Expression)
}

/// `account` stands in `text` as a number of its own: not as part of a longer one.
fn has_account(text: &str, account: &str) -> bool {
    text.split(|c: char| !c.is_ascii_digit()).any(|number| number == account)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn glob_entries_that_are_none_say_why() {
        for (text, error) in [
            ("", EntryError::Empty),
            ("a:b", EntryError::Shape),
            ("arn:aws:iam::*:role/x", EntryError::Account),
            ("arn:aws:iam::12345678901?:role/x", EntryError::Account),
            ("arn:*:iam::123456789012:role/x", EntryError::Account),
            ("arn:aws:iam::123456789012:*", EntryError::Shape),
            ("arn:aws:iam::123456789012:role/", EntryError::Shape),
            ("arn:aws:iam::*", EntryError::Shape),
            ("arn:*", EntryError::Shape),
            ("rôle", EntryError::Character('ô')),
            ("a\0", EntryError::Character('\0')),
            ("{a,b}", EntryError::Glob(GlobError::Reserved('{'))),
        ] {
            assert_eq!(Entry::parse(text, PatternFormat::Glob).unwrap_err(), error, "{text:?}");
        }
        let long = "a".repeat(LONGEST_BYTES + 1);
        assert_eq!(Entry::parse(&long, PatternFormat::Glob).unwrap_err(), EntryError::TooLong);
    }

    #[test]
    fn expressions_that_are_unbalanced_or_big_are_none() {
        for text in ["x)|(?:.*admin", "(?:a?){5000}", "(", "[", r"\", "(?=a)", r"\w{9999}", "(?x)a #"] {
            assert!(Entry::parse(text, PatternFormat::Regexp).is_err(), "{text:?}");
        }
        let nested = format!("{}a{}", "(".repeat(100), ")".repeat(100));
        assert!(Entry::parse(&nested, PatternFormat::Regexp).is_err());
        assert!(Entry::parse(r"team-\w+", PatternFormat::Regexp).is_ok());
    }

    #[test]
    fn account_is_literal_only_as_a_whole_number() {
        assert!(has_account("arn:aws:iam::(123456789012|999999999999):role/.*", "999999999999"));
        assert!(!has_account("arn:aws:iam::1234567890123:role/.*", "123456789012"));
        assert!(!has_account(r"arn:aws:iam::\d{12}:role/.*", "123456789012"));
    }
}
