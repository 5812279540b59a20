//! What a namespace permits: its annotation, parsed and compiled once, and its answer for a role.

use std::sync::Arc;

use parking_lot::Mutex;
use regex::bytes::{RegexSet, RegexSetBuilder};

use super::entry::{self, Asked, Entry, EntryError, Scope};
use super::rules::PatternFormat;
use crate::types::RoleArn;

/// Longest annotation, in bytes.
pub(super) const LONGEST_BYTES: usize = 64 * 1024;

/// Most entries.
pub(super) const MOST_ENTRIES: usize = 256;

/// Compiled expressions of one namespace, in bytes, and as much again of their caches.
const EXPRESSIONS_BYTES: usize = 512 * 1024;

/// Answers remembered per namespace; one node's pods of a namespace rarely have more roles.
const REMEMBERED: usize = 64;

/// Entries, as written.
pub(super) type Texts = Arc<[Box<str>]>;

/// What a namespace's annotations say.
#[derive(Debug)]
pub(super) enum Permission {
    /// Neither annotation is there.
    Silent,
    /// A list.
    List(AllowList),
    /// One that does not parse: it permits nothing.
    Malformed {
        /// What is wrong.
        error: ListError,
        /// Entries that would be valid without the others; nothing where there are too many to look at.
        valid: Option<Texts>,
    },
}

/// Why an annotation is no list.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ListError {
    /// Too many bytes.
    #[error("it has more than the {LONGEST_BYTES} bytes that are read")]
    TooLong,
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
    texts: Texts,
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

#[cfg(test)]
thread_local! {
    /// How often annotations were read and compiled on this thread.
    pub(crate) static COMPILED: std::cell::Cell<usize> = const { std::cell::Cell::new(0) };
}

// === impl Permission ===

impl Permission {
    /// Reads `allowed-roles`, or where that is absent kiam's `permitted`.
    pub(super) fn compile(
        allowed_roles: Option<&str>,
        permitted: Option<&str>,
        format: PatternFormat,
    ) -> Self {
        #[cfg(test)]
        COMPILED.with(|count| count.set(count.get() + 1));
        match (allowed_roles, permitted) {
            (Some(json), _) => Self::of_json(json, format),
            (None, Some(expression)) => Self::of_permitted(expression),
            (None, None) => Self::Silent,
        }
    }

    fn of_json(json: &str, format: PatternFormat) -> Self {
        let elements = match elements(json) {
            Ok(elements) => elements,
            Err(ListError::NotAnArray) => {
                return Self::Malformed { error: ListError::NotAnArray, valid: Some(Texts::default()) };
            }
            Err(error) => return Self::Malformed { error, valid: None },
        };
        let (mut texts, mut entries, mut wrong) = (Vec::new(), Vec::new(), None);
        for (element, number) in elements.into_iter().zip(1..) {
            let entry = match element {
                serde_json::Value::String(text) => Entry::parse(&text, format)
                    .map(|entry| (text.into_boxed_str(), entry))
                    .map_err(|error| ListError::Entry { number, error }),
                _ => Err(ListError::NotAString(number)),
            };
            match entry {
                Ok((text, entry)) => {
                    texts.push(text);
                    entries.push(entry);
                }
                Err(error) => wrong = wrong.or(Some(error)),
            }
        }
        Self::of_entries(texts.into(), entries, wrong)
    }

    fn of_permitted(expression: &str) -> Self {
        let expression = expression.trim();
        if expression.is_empty() {
            return Self::of_entries(Texts::default(), Vec::new(), None);
        }
        // A valid entry first, for its bounds; then over the whole ARN, whatever it begins with.
        let entry = Entry::parse(expression, PatternFormat::Regexp)
            .and_then(|_| Entry::expression(expression, true))
            .map_err(|error| ListError::Entry { number: 1, error });
        match entry {
            Ok(entry) => Self::of_entries([expression.into()].into(), vec![entry], None),
            Err(error) => Self::Malformed { error, valid: None },
        }
    }

    fn of_entries(texts: Texts, entries: Vec<Entry>, wrong: Option<ListError>) -> Self {
        match (AllowList::new(Arc::clone(&texts), entries), wrong) {
            (Ok(list), None) => Self::List(list),
            (Ok(_), Some(error)) => Self::Malformed { error, valid: Some(texts) },
            // A list that keeps all of them would be as wrong.
            (Err(too_big), wrong) => Self::Malformed { error: wrong.unwrap_or(too_big), valid: None },
        }
    }
}

// === impl AllowList ===

impl AllowList {
    fn new(texts: Texts, entries: Vec<Entry>) -> Result<Self, ListError> {
        Ok(Self {
            whole_arn: Expressions::of(&entries, true)?,
            relative: Expressions::of(&entries, false)?,
            texts,
            entries,
            answers: Mutex::new(Vec::new()),
        })
    }

    /// The entries, as written.
    pub(super) fn texts(&self) -> &Texts {
        &self.texts
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
        let asked = Asked::new(role, scope);
        let glob = self.entries.iter().position(|entry| entry.matches_as_glob(&asked));
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
                anchored.push(entry::anchored(text));
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

/// The elements of a JSON array, within the bounds.
fn elements(json: &str) -> Result<Vec<serde_json::Value>, ListError> {
    if json.len() > LONGEST_BYTES {
        return Err(ListError::TooLong);
    }
    let elements: Vec<serde_json::Value> = serde_json::from_str(json).map_err(|_| ListError::NotAnArray)?;
    if elements.len() > MOST_ENTRIES {
        return Err(ListError::TooMany(elements.len()));
    }
    Ok(elements)
}
