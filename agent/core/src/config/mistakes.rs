//! Mistakes in flags and environment, all of them at once.

use std::fmt;
use std::ops::RangeInclusive;
use std::time::Duration;

use super::values;

/// Longest value that is repeated in a mistake, in characters.
const VALUE_CHARS: usize = 120;

/// One mistake.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// A value that the flag does not take.
    #[error("{flag}={value}: {allowed}")]
    Value {
        /// The flag.
        flag: &'static str,
        /// Its value, made printable.
        value: String,
        /// What is allowed, or what is wrong.
        allowed: String,
    },
    /// Flags that do not go together.
    #[error("{one} and {other} exclude each other: {why}")]
    Conflict {
        /// One flag.
        one: &'static str,
        /// The other.
        other: &'static str,
        /// Why.
        why: &'static str,
    },
    /// Something that has to be given.
    #[error("{0}")]
    Missing(&'static str),
    /// A flag that there is not.
    #[error("{0}")]
    Unknown(String),
}

/// Every mistake that was found; at least one.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct ConfigErrors(pub Vec<ConfigError>);

/// A flag, as it was given.
#[derive(Clone, Copy, Debug)]
pub(super) struct Flag<'a> {
    pub(super) name: &'static str,
    pub(super) value: Option<&'a str>,
}

/// Collects mistakes and warnings while the sections are built.
#[derive(Debug, Default)]
pub(super) struct Findings {
    pub(super) mistakes: Vec<ConfigError>,
    pub(super) warnings: Vec<String>,
}

// === impl ConfigError ===

impl ConfigError {
    /// A value that `flag` does not take; `allowed` is what it does.
    pub(super) fn value(flag: &'static str, value: &str, allowed: &str) -> Self {
        let shown: String = value.escape_debug().take(VALUE_CHARS).collect();
        Self::Value { flag, value: shown, allowed: format!("allowed is {allowed}") }
    }

    /// A value that `flag` does not take for the reason that `error` says.
    pub(super) fn wrong(flag: &'static str, value: &str, error: &impl fmt::Display) -> Self {
        let shown: String = value.escape_debug().take(VALUE_CHARS).collect();
        Self::Value { flag, value: shown, allowed: error.to_string() }
    }
}

// === impl ConfigErrors ===

impl fmt::Display for ConfigErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.len() {
            1 => f.write_str("rolegate: a mistake in flags or environment:")?,
            count => write!(f, "rolegate: {count} mistakes in flags or environment:")?,
        }
        for mistake in &self.0 {
            write!(f, "\n  {mistake}")?;
        }
        f.write_str("\n`rolegate --help` lists all flags.")
    }
}

impl From<ConfigError> for ConfigErrors {
    fn from(error: ConfigError) -> Self {
        Self(vec![error])
    }
}

// === impl Flag ===

/// A flag and what was given for it; nothing is the same as an empty value.
pub(super) fn flag<'a>(name: &'static str, value: &'a Option<String>) -> Flag<'a> {
    Flag { name, value: value.as_deref().filter(|text| !text.is_empty()) }
}

// === impl Findings ===

impl Findings {
    /// What was asked for, if there was no mistake.
    pub(super) fn unless_mistaken<T>(self, asked: T) -> Result<T, ConfigErrors> {
        if self.mistakes.is_empty() { Ok(asked) } else { Err(ConfigErrors(self.mistakes)) }
    }

    /// The value of `flag`; nothing where it is absent or a mistake (which is noted, with what is allowed).
    pub(super) fn take<T>(
        &mut self,
        flag: Flag<'_>,
        allowed: &str,
        parse: impl FnOnce(&str) -> Option<T>,
    ) -> Option<T> {
        let text = flag.value?;
        let value = parse(text);
        if value.is_none() {
            self.mistakes.push(ConfigError::value(flag.name, text, allowed));
        }
        value
    }

    /// [`Findings::take`] of what says itself what is wrong.
    pub(super) fn parse<T, E: fmt::Display>(
        &mut self,
        flag: Flag<'_>,
        parse: impl FnOnce(&str) -> Result<T, E>,
    ) -> Option<T> {
        let text = flag.value?;
        parse(text).map_err(|error| self.mistakes.push(ConfigError::wrong(flag.name, text, &error))).ok()
    }

    pub(super) fn boolean(&mut self, flag: Flag<'_>, default: bool) -> bool {
        self.take(flag, "true or false", values::boolean).unwrap_or(default)
    }

    /// A number from 1 to what `T` holds.
    pub(super) fn count<T: TryFrom<u32>>(&mut self, flag: Flag<'_>, default: T) -> T {
        let most = u32::MAX >> (32 - 8 * size_of::<T>().min(4));
        let number = |text: &str| text.parse::<u32>().ok().filter(|number| *number > 0);
        let read = |text: &str| number(text).and_then(|number| T::try_from(number).ok());
        self.take(flag, &format!("a number from 1 to {most}"), read).unwrap_or(default)
    }

    pub(super) fn time(&mut self, flag: Flag<'_>, allowed: RangeInclusive<Duration>) -> Option<Duration> {
        let (least, most) = (values::written(*allowed.start()), values::written(*allowed.end()));
        let read = |text: &str| values::duration(text).filter(|time| allowed.contains(time));
        self.take(flag, &format!("a time from {least} to {most}"), read)
    }

    pub(super) fn missing(&mut self, sentence: &'static str) {
        self.mistakes.push(ConfigError::Missing(sentence));
    }

    pub(super) fn conflict(&mut self, one: &'static str, other: &'static str, why: &'static str) {
        self.mistakes.push(ConfigError::Conflict { one, other, why });
    }

    pub(super) fn warn(&mut self, sentence: impl Into<String>) {
        self.warnings.push(sentence.into());
    }
}
