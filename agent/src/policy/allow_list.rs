//! What a namespace permits: its annotation, parsed and compiled once, and its answer for a role.

use parking_lot::Mutex;
use regex::bytes::{RegexSet, RegexSetBuilder};

use super::entry::{Entry, EntryError, Scope};
use super::rules::PatternFormat;
use crate::types::RoleArn;

/// Longest annotation, in bytes.
const LONGEST_BYTES: usize = 64 * 1024;

/// Most entries.
const MOST_ENTRIES: usize = 256;

/// Compiled expressions of one namespace, in bytes, and as much again of their caches.
const EXPRESSIONS_BYTES: usize = 512 * 1024;

/// Answers remembered per namespace; one node's pods of a namespace rarely have more roles.
const REMEMBERED: usize = 16;

/// What a namespace's annotations say.
#[derive(Debug)]
pub(super) enum Permission {
    /// Neither annotation is there.
    Silent,
    /// A list.
    List(AllowList),
    /// One that does not parse: it permits nothing.
    Malformed(ListError),
}

/// Why an annotation is no list.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ListError {
    /// Too many bytes.
    #[error("it has {0} bytes; at most {LONGEST_BYTES} are read")]
    TooLong(usize),
    /// Too many entries.
    #[error("it has {0} entries; at most {MOST_ENTRIES} are read")]
    TooMany(usize),
    /// Not a JSON array.
    #[error("it is not a JSON array of strings, such as [\"MyPodRole\"]")]
    NotAnArray,
    /// An element of another type.
    #[error("its element {0} (counted from 1) is not a string")]
    NotAString(usize),
    /// An entry that is none.
    #[error("its entry {number} (counted from 1) is wrong: {error}")]
    Entry {
        /// Counted from 1.
        number: usize,
        /// What is wrong.
        error: EntryError,
    },
    /// The expressions are too big together.
    #[error("its expressions are too big together; at most 512 KiB compiled")]
    TooBig,
}

/// A list that parses, with its last answers. An answer depends on nothing but the list, the role and the
/// scope, so remembering one cannot make it wrong; it makes a list that is slow to match cheap to ask again.
#[derive(Debug)]
pub(super) struct AllowList {
    entries: Vec<Entry>,
    /// Expressions over the whole ARN, and those over path and name; each with the numbers of its entries.
    whole_arn: Expressions,
    relative: Expressions,
    answers: Mutex<Vec<(RoleArn, Scope, Option<usize>)>>,
}

#[derive(Debug)]
struct Expressions {
    set: RegexSet,
    entries: Vec<usize>,
}

// === impl Permission ===

impl Permission {
    /// Reads `allowed-roles`, or where that is absent kiam's `permitted`.
    pub(super) fn compile(
        allowed_roles: Option<&str>,
        permitted: Option<&str>,
        format: PatternFormat,
    ) -> Self {
        let list = match (allowed_roles, permitted) {
            (Some(json), _) => AllowList::of_json(json, format),
            (None, Some(expression)) => AllowList::of_permitted(expression),
            (None, None) => return Self::Silent,
        };
        list.map_or_else(Self::Malformed, Self::List)
    }
}

// === impl AllowList ===

impl AllowList {
    fn of_json(json: &str, format: PatternFormat) -> Result<Self, ListError> {
        let parse = |(at, text): (usize, String)| {
            Entry::parse(&text, format).map_err(|error| ListError::Entry { number: at + 1, error })
        };
        Self::new(strings(json)?.into_iter().enumerate().map(parse).collect::<Result<_, _>>()?)
    }

    fn of_permitted(expression: &str) -> Result<Self, ListError> {
        if expression.len() > LONGEST_BYTES {
            return Err(ListError::TooLong(expression.len()));
        }
        let expression = expression.trim();
        if expression.is_empty() {
            return Self::new(Vec::new());
        }
        // A valid entry first, for its bounds; then over the whole ARN, whatever it begins with.
        Entry::parse(expression, PatternFormat::Regexp)
            .and_then(|_| Entry::expression(expression, true))
            .map_err(|error| ListError::Entry { number: 1, error })
            .and_then(|entry| Self::new(vec![entry]))
    }

    fn new(entries: Vec<Entry>) -> Result<Self, ListError> {
        Ok(Self {
            whole_arn: Expressions::of(&entries, true)?,
            relative: Expressions::of(&entries, false)?,
            entries,
            answers: Mutex::new(Vec::new()),
        })
    }

    /// The number (from 0) of an entry that permits `role`.
    pub(super) fn find(&self, role: &RoleArn, scope: Scope) -> Option<usize> {
        let mut answers = self.answers.lock();
        if let Some((.., found)) = answers.iter().find(|(r, s, _)| *s == scope && r == role) {
            return *found;
        }
        drop(answers);
        let found = self.search(role, scope);
        answers = self.answers.lock();
        if answers.len() == REMEMBERED {
            answers.remove(0);
        }
        answers.push((role.clone(), scope, found));
        found
    }

    fn search(&self, role: &RoleArn, scope: Scope) -> Option<usize> {
        let glob = self.entries.iter().position(|entry| entry.matches_as_glob(role, scope));
        let whole = || self.whole_arn.find(role.as_str(), |at| self.entries[at].speaks_of(role, scope));
        let relative = || {
            let name = scope.relative(role)?;
            self.relative.find(name, |at| self.entries[at].speaks_of(role, scope))
        };
        glob.or_else(whole).or_else(relative)
    }
}

// === impl Expressions ===

impl Expressions {
    /// The expressions among `entries`, each anchored at both ends as a whole, in one automaton.
    fn of(entries: &[Entry], over_arn: bool) -> Result<Self, ListError> {
        let mut numbers = Vec::new();
        let mut anchored = Vec::new();
        for (at, entry) in entries.iter().enumerate() {
            if let Entry::Expression { text, whole_arn } = entry
                && *whole_arn == over_arn
            {
                numbers.push(at);
                anchored.push(format!("^(?:{text})$"));
            }
        }
        let set = RegexSetBuilder::new(anchored)
            .unicode(false)
            .size_limit(EXPRESSIONS_BYTES)
            .dfa_size_limit(EXPRESSIONS_BYTES)
            .build()
            .map_err(|_| ListError::TooBig)?;
        Ok(Self { set, entries: numbers })
    }

    fn find(&self, text: &str, permits: impl Fn(usize) -> bool) -> Option<usize> {
        if self.entries.is_empty() {
            return None;
        }
        let matches = self.set.matches(text.as_bytes());
        matches.iter().map(|at| self.entries[at]).find(|&at| permits(at))
    }
}

/// The strings of a JSON array of strings, within the bounds.
fn strings(json: &str) -> Result<Vec<String>, ListError> {
    if json.len() > LONGEST_BYTES {
        return Err(ListError::TooLong(json.len()));
    }
    let elements: Vec<serde_json::Value> = serde_json::from_str(json).map_err(|_| ListError::NotAnArray)?;
    if elements.len() > MOST_ENTRIES {
        return Err(ListError::TooMany(elements.len()));
    }
    let string = |(at, element)| match element {
        serde_json::Value::String(text) => Ok(text),
        _ => Err(ListError::NotAString(at + 1)),
    };
    elements.into_iter().enumerate().map(string).collect()
}

/// The entries of an annotation that are valid, whatever the others are.
pub(super) fn valid_entries(json: &str, format: PatternFormat) -> Vec<String> {
    if json.len() > LONGEST_BYTES {
        return Vec::new();
    }
    let elements: Vec<serde_json::Value> = serde_json::from_str(json).unwrap_or_default();
    let valid = |element| match element {
        serde_json::Value::String(text) => Entry::parse(&text, format).ok().map(|_| text),
        _ => None,
    };
    elements.into_iter().take(MOST_ENTRIES).filter_map(valid).collect()
}
