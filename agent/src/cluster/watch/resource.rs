//! The two resources that are watched, and how their objects become events of the index.

use std::fmt;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Namespace, Pod};
use kube::core::PartialObjectMeta;
use serde::de::DeserializeOwned;

use super::project::{project_namespace, project_pod};
use crate::cluster::index::Event;
use crate::config::AnnotationKeys;
use crate::types::PodUid;

/// Which resource.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Resource {
    /// Pods of this node.
    Pods,
    /// All namespaces.
    Namespaces,
}

/// A resource that is watched.
pub(super) trait Watched {
    /// Which one.
    const RESOURCE: Resource;
    /// What the API server sends.
    type Object: kube::Resource<DynamicType = ()> + Clone + fmt::Debug + DeserializeOwned + Send + 'static;

    /// A list begins.
    fn init() -> Event;
    /// An object of the list; `None` for one without the names that every object has.
    fn listed(object: &Self::Object, keys: &AnnotationKeys) -> Option<Event>;
    /// The list is complete.
    fn init_done() -> Event;
    /// An object appeared or changed.
    fn applied(object: &Self::Object, keys: &AnnotationKeys) -> Option<Event>;
    /// An object is gone.
    fn deleted(object: &Self::Object) -> Option<Event>;
}

/// Pods, whole.
#[derive(Debug)]
pub(super) struct Pods;

/// Namespaces, metadata only.
#[derive(Debug)]
pub(super) struct Namespaces;

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
}

impl fmt::Display for Resource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

// === impl Pods ===

impl Watched for Pods {
    const RESOURCE: Resource = Resource::Pods;
    type Object = Pod;

    fn init() -> Event {
        Event::PodsInit
    }

    fn listed(pod: &Pod, keys: &AnnotationKeys) -> Option<Event> {
        project_pod(pod, keys).map(Event::PodInitApply)
    }

    fn init_done() -> Event {
        Event::PodsInitDone
    }

    fn applied(pod: &Pod, keys: &AnnotationKeys) -> Option<Event> {
        project_pod(pod, keys).map(Event::PodApply)
    }

    fn deleted(pod: &Pod) -> Option<Event> {
        Some(Event::PodDelete(PodUid::new(pod.metadata.uid.as_deref()?)))
    }
}

// === impl Namespaces ===

impl Watched for Namespaces {
    const RESOURCE: Resource = Resource::Namespaces;
    type Object = PartialObjectMeta<Namespace>;

    fn init() -> Event {
        Event::NamespacesInit
    }

    fn listed(namespace: &Self::Object, keys: &AnnotationKeys) -> Option<Event> {
        let meta = &namespace.metadata;
        Some(Event::NamespaceInitApply(project_namespace(
            meta.name.as_deref()?,
            meta.annotations.as_ref(),
            keys,
        )))
    }

    fn init_done() -> Event {
        Event::NamespacesInitDone
    }

    fn applied(namespace: &Self::Object, keys: &AnnotationKeys) -> Option<Event> {
        let meta = &namespace.metadata;
        Some(Event::NamespaceApply(project_namespace(meta.name.as_deref()?, meta.annotations.as_ref(), keys)))
    }

    fn deleted(namespace: &Self::Object) -> Option<Event> {
        Some(Event::NamespaceDelete(Arc::from(namespace.metadata.name.as_deref()?)))
    }
}
