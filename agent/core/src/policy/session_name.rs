//! The name a session goes by in CloudTrail, from a template.

use std::fmt::Write as _;

use aws_lc_rs::digest;

use super::facts::PodFacts;
use crate::types::{RoleArn, SessionName, with_joined};

/// Longest name STS takes, in characters (STS API reference, `RoleSessionName`).
const LONGEST: usize = 64;

/// Digits of the hash that keeps altered names apart: 48 bits.
const HASH_DIGITS: usize = 12;

/// What is used where no template is given.
pub const DEFAULT_SESSION_NAME: &str = "{namespace}.{service-account}";

/// A parsed template: text and the placeholders `{namespace}`, `{service-account}`, `{pod}`, `{node}`, `{role}`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SessionTemplate(Vec<Piece>);

#[derive(Clone, Debug, PartialEq, Eq)]
enum Piece {
    Text(String),
    Namespace,
    ServiceAccount,
    Pod,
    Node,
    Role,
}

/// Why a text is no template.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TemplateError {
    /// No name comes of it.
    #[error("the session name is empty")]
    Empty,
    /// A placeholder that is none.
    #[error(
        "{{{0}}} is no placeholder; there are {{namespace}}, {{service-account}}, {{pod}}, {{node}} and {{role}}"
    )]
    Unknown(String),
    /// A brace that stands alone.
    #[error("a brace has no counterpart")]
    Brace,
    /// A character that STS does not take.
    #[error("{0:?} is not allowed; allowed are letters, digits and _+=,.@-")]
    Character(char),
}

// === impl SessionTemplate ===

impl SessionTemplate {
    /// Parses a template.
    ///
    /// # Errors
    /// [`TemplateError`] names what is wrong and what is allowed.
    pub fn parse(template: &str) -> Result<Self, TemplateError> {
        if template.is_empty() {
            return Err(TemplateError::Empty);
        }
        let mut pieces = Vec::new();
        let mut rest = template;
        while !rest.is_empty() {
            let (text, after) = rest.split_at(rest.find(['{', '}']).unwrap_or(rest.len()));
            if let Some(odd) = text.chars().find(|c| !allowed(*c)) {
                return Err(TemplateError::Character(odd));
            }
            if !text.is_empty() {
                pieces.push(Piece::Text(text.to_owned()));
            }
            rest = after;
            if !rest.is_empty() {
                let inside = rest.strip_prefix('{').ok_or(TemplateError::Brace)?;
                let (name, after) = inside.split_once('}').ok_or(TemplateError::Brace)?;
                pieces.push(Piece::placeholder(name)?);
                rest = after;
            }
        }
        Ok(Self(pieces))
    }

    /// The name for `pod` in `role`. What STS does not take becomes `-`, what is too long is cut, and where
    /// either happened a hash of the whole is appended, so that names that differ stay different.
    pub(super) fn render(&self, pod: &PodFacts, role: &RoleArn, node: &str) -> SessionName {
        let pieces = self.0.iter().map(|piece| match piece {
            Piece::Text(text) => text,
            Piece::Namespace => &*pod.namespace,
            Piece::ServiceAccount => &*pod.service_account,
            Piece::Pod => &*pod.name,
            Piece::Node => node,
            Piece::Role => role.name(),
        });
        with_joined(pieces, |name| SessionName::parse(name).unwrap_or_else(|_| altered(name)))
    }
}

impl Default for SessionTemplate {
    fn default() -> Self {
        Self(vec![Piece::Namespace, Piece::Text(".".to_owned()), Piece::ServiceAccount])
    }
}

impl Piece {
    fn placeholder(name: &str) -> Result<Self, TemplateError> {
        match name {
            "namespace" => Ok(Self::Namespace),
            "service-account" => Ok(Self::ServiceAccount),
            "pod" => Ok(Self::Pod),
            "node" => Ok(Self::Node),
            "role" => Ok(Self::Role),
            other => Err(TemplateError::Unknown(super::text::printable(other, 80))),
        }
    }
}

fn allowed(c: char) -> bool {
    c.is_ascii_alphanumeric() || "_+=,.@-".contains(c)
}

/// `+` before the hash: no Kubernetes name has it, so no name that is taken as it is looks like this.
#[allow(clippy::expect_used, reason = "the parts are made of allowed characters and have 14 to 64 of them")]
fn altered(name: &str) -> SessionName {
    let kept = name.chars().take(LONGEST - HASH_DIGITS - 1);
    let mut made: String = kept.map(|c| if allowed(c) { c } else { '-' }).collect();
    made.push('+');
    for byte in &digest::digest(&digest::SHA256, name.as_bytes()).as_ref()[..HASH_DIGITS / 2] {
        let _ = write!(made, "{byte:02x}");
    }
    SessionName::parse(&made).expect("a session name")
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::types::PodUid;

    fn pod(namespace: &str, service_account: &str) -> PodFacts {
        PodFacts {
            uid: PodUid::new("1"),
            namespace: Arc::from(namespace),
            name: Arc::from("aws-cli"),
            service_account: Arc::from(service_account),
            role: None,
            external_id: None,
        }
    }

    fn render(template: &str, pod: &PodFacts) -> String {
        let role = RoleArn::parse("arn:aws:iam::123456789012:role/kops/MyPodRole").unwrap();
        SessionTemplate::parse(template).unwrap().render(pod, &role, "node-1").as_str().to_owned()
    }

    #[test]
    fn every_placeholder_is_filled_in() {
        assert_eq!(render(DEFAULT_SESSION_NAME, &pod("default", "builder")), "default.builder");
        assert_eq!(render("x-{pod}@{node}={role}", &pod("default", "builder")), "x-aws-cli@node-1=MyPodRole");
        assert_eq!(SessionTemplate::parse(DEFAULT_SESSION_NAME).unwrap(), SessionTemplate::default());
    }

    #[test]
    fn names_that_are_cut_or_altered_stay_different() {
        let long = "a".repeat(200);
        let names = [
            render(DEFAULT_SESSION_NAME, &pod(&long, "b")),
            render(DEFAULT_SESSION_NAME, &pod(&long, "c")),
            render(DEFAULT_SESSION_NAME, &pod("a:b", "c")),
            render(DEFAULT_SESSION_NAME, &pod("a b", "c")),
            render(DEFAULT_SESSION_NAME, &pod("a-b", "c")),
            render("{namespace}", &pod("a", "")),
            render("{namespace}", &pod("", "")),
        ];
        for (at, name) in names.iter().enumerate() {
            assert!((2..=64).contains(&name.len()), "{name}");
            assert!(!names[..at].contains(name), "{name}");
        }
        assert_eq!(names[4], "a-b.c");
        assert!(names[2].starts_with("a-b.c+"));
    }

    #[test]
    fn template_errors_name_the_placeholder_and_what_there_is() {
        assert_eq!(SessionTemplate::parse(""), Err(TemplateError::Empty));
        assert_eq!(SessionTemplate::parse("{namespace"), Err(TemplateError::Brace));
        assert_eq!(SessionTemplate::parse("a}b"), Err(TemplateError::Brace));
        assert_eq!(SessionTemplate::parse("a b"), Err(TemplateError::Character(' ')));
        let unknown = SessionTemplate::parse("{sa}").unwrap_err().to_string();
        assert!(unknown.contains("{sa}") && unknown.contains("{service-account}"), "{unknown}");
    }
}
