//! Why a pod gets no role, in words that its operator can act on.

use std::sync::Arc;

use super::allow_list::{ListError, MOST_ENTRIES, Texts};
use super::glob::Glob;
use super::rules::PatternFormat;
use super::text::{escape, printable, shell_word};
use crate::types::{NameError, RoleArn, RoleArnError};

/// Longest message, in characters: fits an access line, and a list of a dozen ARNs with the command.
const MESSAGE_CHARS: usize = 1024;

/// Of any one value in a message: a role's ARN with a path of usual length.
const VALUE_CHARS: usize = 160;

/// Why a pod gets no role. `NoRole` is the IMDS's own 404 ("this machine has no role"); all the others are
/// refusals: the role list still names a role ([`Denied::listed_name`]) and its document carries a `Code` and
/// [`Denied::message`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Denied {
    /// The pod asks for none, and no default role applies.
    NoRole,
    /// The pod's role annotation is no role.
    MalformedRole {
        /// Where.
        at: Box<Place>,
        /// What is wrong.
        error: RoleArnError,
    },
    /// The default role (of the namespace, or of the agent) is no role.
    MalformedDefaultRole {
        /// Where.
        at: Box<Place>,
        /// What is wrong.
        error: RoleArnError,
    },
    /// The pod's external id is none.
    MalformedExternalId {
        /// Where.
        at: Box<Place>,
        /// What is wrong.
        error: NameError,
        /// The role it was meant for.
        role: RoleArn,
    },
    /// The role is of another partition than the base.
    ForeignPartition {
        /// The pod's namespace.
        namespace: Arc<str>,
        /// The role.
        role: RoleArn,
        /// The base's partition.
        ours: String,
    },
    /// The role is the node's own.
    OwnRole {
        /// The pod's namespace.
        namespace: Arc<str>,
        /// The role.
        role: RoleArn,
    },
    /// The namespace has no list, and that means nothing is allowed.
    NamespaceHasNoList(Box<Remedy>),
    /// The namespace's list does not parse, and so allows nothing.
    NamespaceListMalformed {
        /// What would allow the role.
        remedy: Box<Remedy>,
        /// What is wrong.
        error: ListError,
    },
    /// The namespace's list has no entry for the role.
    NotInList {
        /// What would allow the role.
        remedy: Box<Remedy>,
        /// An entry names the node's own role.
        names_own_role: bool,
    },
}

/// An annotation (or flag) and what it says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// The pod's namespace.
    pub namespace: Arc<str>,
    /// `pod aws-cli`, `namespace`, `--default-role`: whose annotation it is.
    pub owner: String,
    /// The annotation's key; absent where it is a flag.
    pub key: Option<Arc<str>>,
    /// The value, as written.
    pub value: Arc<str>,
}

/// What would allow a role in a namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Remedy {
    /// The pod's namespace.
    pub namespace: Arc<str>,
    /// The role.
    pub role: RoleArn,
    /// The part of it that comes after the base ARN, where it begins with that.
    pub(super) relative: Option<Box<str>>,
    /// The key of what has to allow it.
    pub(super) key: Arc<str>,
    /// The list's valid entries; nothing where no list can be written that keeps what it allows.
    pub(super) kept: Option<Texts>,
    /// How entries are read.
    pub(super) format: PatternFormat,
}

// === impl Denied ===

impl Denied {
    /// Every code, for metrics that want all series from the start.
    pub const CODES: [&'static str; 9] = [
        "no_role",
        "malformed_role",
        "malformed_default_role",
        "malformed_external_id",
        "foreign_partition",
        "own_role",
        "namespace_has_no_list",
        "namespace_list_malformed",
        "not_in_list",
    ];

    /// A bounded label.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::NoRole => "no_role",
            Self::MalformedRole { .. } => "malformed_role",
            Self::MalformedDefaultRole { .. } => "malformed_default_role",
            Self::MalformedExternalId { .. } => "malformed_external_id",
            Self::ForeignPartition { .. } => "foreign_partition",
            Self::OwnRole { .. } => "own_role",
            Self::NamespaceHasNoList(_) => "namespace_has_no_list",
            Self::NamespaceListMalformed { .. } => "namespace_list_malformed",
            Self::NotInList { .. } => "not_in_list",
        }
    }

    /// The role that is refused, where there is one.
    #[must_use]
    pub fn role(&self) -> Option<&RoleArn> {
        match self {
            Self::NoRole | Self::MalformedRole { .. } | Self::MalformedDefaultRole { .. } => None,
            Self::MalformedExternalId { role, .. }
            | Self::ForeignPartition { role, .. }
            | Self::OwnRole { role, .. } => Some(role),
            Self::NamespaceHasNoList(remedy)
            | Self::NamespaceListMalformed { remedy, .. }
            | Self::NotInList { remedy, .. } => Some(&remedy.role),
        }
    }

    /// What the role list says, so that a client goes on to the document with the message: the role's name, or
    /// `malformed-role` where there is none; nothing for [`Denied::NoRole`].
    #[must_use]
    pub fn listed_name(&self) -> Option<&str> {
        match self {
            Self::NoRole => None,
            _ => Some(self.role().map_or("malformed-role", RoleArn::name)),
        }
    }

    /// What is wrong and what to do: printable ASCII, at most 1024 characters.
    #[must_use]
    pub fn message(&self) -> String {
        let message = match self {
            Self::NoRole => "the pod has no role annotation, and no default role applies".to_owned(),
            Self::MalformedRole { at, error } | Self::MalformedDefaultRole { at, error } => {
                format!("{at} is not a role: {error}", at = at.sentence())
            }
            Self::MalformedExternalId { at, error, role } => {
                let role = printable(role.as_str(), VALUE_CHARS);
                format!("{at} is not an external id for role {role}: {error}", at = at.sentence())
            }
            Self::ForeignPartition { namespace, role, ours } => format!(
                "namespace {}: role {} is of partition {}, this node's is {}; annotate the pod with a role of this partition",
                printable(namespace, VALUE_CHARS),
                printable(role.as_str(), VALUE_CHARS),
                role.partition(),
                printable(ours, VALUE_CHARS),
            ),
            Self::OwnRole { namespace, role } => format!(
                "namespace {}: role {} is the node's own role, which is never allowed; annotate the pod with a role of its own",
                printable(namespace, VALUE_CHARS),
                printable(role.as_str(), VALUE_CHARS),
            ),
            Self::NamespaceHasNoList(remedy) => {
                remedy.message(&format!("has no annotation {}", printable(&remedy.key, VALUE_CHARS)), "")
            }
            Self::NamespaceListMalformed { remedy, error } => {
                remedy.message(&format!("allows nothing, since its list of roles is malformed ({error})"), "")
            }
            Self::NotInList { remedy, names_own_role } => {
                let own = if *names_own_role {
                    "; the node's own role, which it names, is never allowed"
                } else {
                    ""
                };
                remedy.message("does not allow it", own)
            }
        };
        printable(&message, MESSAGE_CHARS)
    }
}

// === impl Place ===

impl Place {
    fn sentence(&self) -> String {
        let key = self.key.as_ref().map_or_else(String::new, |key| format!(", annotation {key}"));
        let text = format!("namespace {}, {}{key}", self.namespace, self.owner);
        format!("{}: {:?}", printable(&text, 3 * VALUE_CHARS), printable(&self.value, VALUE_CHARS))
    }
}

// === impl Remedy ===

impl Remedy {
    /// The command that allows the role: the list's valid entries and one more. Nothing where that is longer
    /// than a message may be, since half a command would take away what is allowed today.
    #[must_use]
    pub fn command(&self) -> Option<String> {
        let kept = self.kept.as_ref().filter(|kept| kept.len() < MOST_ENTRIES)?;
        let entry = self.entry();
        let length: usize = kept.iter().map(|text| text.len()).sum::<usize>() + entry.len();
        if length > MESSAGE_CHARS {
            return None;
        }
        let entries: Vec<&str> = kept.iter().map(|text| &**text).chain([entry.as_str()]).collect();
        let list = serde_json::Value::from(entries).to_string();
        let command = format!(
            "kubectl annotate namespace {} {} --overwrite",
            shell_word(&self.namespace),
            shell_word(&format!("{}={list}", self.key))
        );
        let exact = command.bytes().all(|b| b == b' ' || b.is_ascii_graphic());
        Some(command).filter(|command| exact && command.len() <= MESSAGE_CHARS)
    }

    /// The entry that describes this role and no other.
    fn entry(&self) -> String {
        let text = self.relative.as_deref().unwrap_or(self.role.as_str());
        match self.format {
            PatternFormat::Glob => Glob::escape(text),
            PatternFormat::Regexp => escape(text, r"\.+*?()|[]{}^$"),
        }
    }

    fn message(&self, problem: &str, also: &str) -> String {
        let namespace = printable(&self.namespace, VALUE_CHARS);
        let role = printable(self.role.as_str(), VALUE_CHARS);
        let what = format!("role {role} is not allowed: namespace {namespace} {problem}{also}; to allow it");
        match self.command().filter(|command| what.len() + 2 + command.len() <= MESSAGE_CHARS) {
            Some(command) => format!("{what}: {command}"),
            None => format!("{what}, change the annotation {}", printable(&self.key, VALUE_CHARS)),
        }
    }
}
