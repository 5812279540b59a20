//! The two resources that are watched, and how their objects become events of the index.

use std::fmt;
use std::sync::Arc;

use super::object::Object;
use super::project::{project_namespace, project_pod};
use crate::cluster::index::Event;
use crate::config::AnnotationKeys;
use crate::types::PodUid;

/// Which resource.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Resource {
    /// Pods of this node, whole.
    Pods,
    /// All namespaces, metadata only.
    Namespaces,
}

// === impl Resource ===

impl Resource {
    /// Its name in URLs, metrics and RBAC.
    #[must_use]
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Pods => "pods",
            Self::Namespaces => "namespaces",
        }
    }

    /// Where the API server has it.
    pub(super) const fn path(self) -> &'static str {
        match self {
            Self::Pods => "/api/v1/pods",
            Self::Namespaces => "/api/v1/namespaces",
        }
    }

    /// What is wanted of it; of namespaces their metadata.
    pub(super) fn accept(self, verb: &str) -> &'static str {
        match self {
            Self::Pods => "application/json",
            Self::Namespaces if verb == "list" => {
                "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1"
            }
            Self::Namespaces => "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1",
        }
    }

    /// Objects of one page, of which a page is some 600 KB to 1.1 MB: what the first list takes stays resident. Each page is
    /// one more way to the API server and back, and a read of its etcd.
    pub(super) const fn page(self) -> u32 {
        match self {
            Self::Pods => 100,
            Self::Namespaces => 500,
        }
    }

    /// What a list of it is called.
    pub(super) const fn list_kinds(self) -> &'static [&'static str] {
        match self {
            Self::Pods => &["PodList"],
            Self::Namespaces => &["PartialObjectMetadataList", "NamespaceList"],
        }
    }

    /// A list begins.
    pub(super) fn init(self) -> Event {
        match self {
            Self::Pods => Event::PodsInit,
            Self::Namespaces => Event::NamespacesInit,
        }
    }

    /// An object of the list; `None` for one that nothing can be known of.
    pub(super) fn listed(self, object: &Object, keys: &AnnotationKeys) -> Option<Event> {
        match self {
            Self::Pods => project_pod(object, keys).map(Event::PodInitApply),
            Self::Namespaces if !object.readable => None,
            Self::Namespaces => {
                let facts = project_namespace(object.name.as_deref()?, object.annotations.as_ref(), keys);
                Some(Event::NamespaceInitApply(facts))
            }
        }
    }

    /// The list is complete.
    pub(super) fn init_done(self) -> Event {
        match self {
            Self::Pods => Event::PodsInitDone,
            Self::Namespaces => Event::NamespacesInitDone,
        }
    }

    /// An object appeared or changed. A namespace that cannot be read is not known: what it allows is not either.
    pub(super) fn applied(self, object: &Object, keys: &AnnotationKeys) -> Option<Event> {
        match self {
            Self::Pods => project_pod(object, keys).map(Event::PodApply),
            Self::Namespaces if !object.readable => self.deleted(object),
            Self::Namespaces => {
                let facts = project_namespace(object.name.as_deref()?, object.annotations.as_ref(), keys);
                Some(Event::NamespaceApply(facts))
            }
        }
    }

    /// An object is gone.
    pub(super) fn deleted(self, object: &Object) -> Option<Event> {
        Some(match self {
            Self::Pods => Event::PodDelete(PodUid::new(object.uid.as_deref()?)),
            Self::Namespaces => Event::NamespaceDelete(Arc::from(object.name.as_deref()?)),
        })
    }
}

impl fmt::Display for Resource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
