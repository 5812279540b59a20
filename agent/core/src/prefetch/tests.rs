//! What one look finds: wishes by key, complaints by pod and namespace; and how often lists are compiled for it.

use std::time::Duration;

use super::complaints::About;
use super::*;
use crate::cluster::PodRecord;
use crate::cluster::index::{Event, Index};
use crate::policy::{
    AnnotationKeys, COMPILED, DEFAULT_SESSION_NAME, NamespaceAnnotations, NamespaceFacts, PatternFormat,
    PodFacts, Restrictions, Rules,
};
use crate::types::RoleArnBase;

fn pod(uid: &str, role: Option<&str>) -> PodRecord {
    let facts = PodFacts {
        uid: PodUid::new(uid),
        namespace: "default".into(),
        name: uid.into(),
        service_account: "default".into(),
        role: role.map(Arc::from),
        external_id: None,
    };
    PodRecord {
        facts,
        ips: Vec::new(),
        terminal: false,
        deleting: false,
        host_network: false,
        unreadable: false,
    }
}

fn namespace(name: &str, allowed_roles: &str) -> NamespaceFacts {
    let allowed_roles = Some(allowed_roles.into());
    NamespaceFacts::new(name, NamespaceAnnotations { allowed_roles, ..NamespaceAnnotations::default() })
}

fn policy(format: PatternFormat) -> Policy {
    let rules = Rules {
        base: Some(RoleArnBase::parse("arn:aws:iam::123456789012:role/").unwrap()),
        default_role: None,
        restrictions: Restrictions::Enforce,
        format,
        allow_node_role: false,
        session_name: DEFAULT_SESSION_NAME.to_owned(),
        session_duration: Duration::from_secs(3_600),
        keys: AnnotationKeys::default(),
        node: String::new(),
    };
    Policy::new(rules, None)
}

/// Everything of these listed.
fn index(pods: impl IntoIterator<Item = PodRecord>, namespaces: Vec<NamespaceFacts>) -> Index {
    let mut index = Index::new();
    index.apply(Event::PodsInit);
    for pod in pods {
        index.apply(Event::PodInitApply(pod));
    }
    index.apply(Event::PodsInitDone);
    list(&mut index, namespaces);
    index
}

fn list(index: &mut Index, namespaces: Vec<NamespaceFacts>) {
    index.apply(Event::NamespacesInit);
    for namespace in namespaces {
        index.apply(Event::NamespaceInitApply(namespace));
    }
    index.apply(Event::NamespacesInitDone);
}

#[test]
fn pods_that_may_ask_are_grouped_by_what_they_would_get() {
    let lost = pod("lost", Some("MyPodRole"));
    let pods = [
        pod("a", Some("MyPodRole")),
        PodRecord { deleting: true, ..pod("b", Some("MyPodRole")) },
        pod("c", Some("OtherRole")),
        PodRecord { terminal: true, ..pod("done", Some("MyPodRole")) },
        PodRecord { host_network: true, ..pod("host", Some("MyPodRole")) },
        pod("plain", None),
        pod("refused", Some("forbidden")),
        PodRecord { facts: PodFacts { namespace: "unknown".into(), ..lost.facts.clone() }, ..lost },
    ];
    let index = index(pods, vec![namespace("default", r#"["MyPodRole", "OtherRole"]"#)]);
    let seen = look(&index.snapshot(), &policy(PatternFormat::Glob));
    let mut found: Vec<_> = seen
        .desired
        .into_values()
        .map(|Desired { key, mut pods }| {
            pods.sort();
            (key.role.name().to_owned(), pods)
        })
        .collect();
    found.sort();
    let uids = |all: &[&str]| all.iter().map(|uid| PodUid::new(uid)).collect::<Vec<_>>();
    assert_eq!(found, [("MyPodRole".to_owned(), uids(&["a", "b"])), ("OtherRole".to_owned(), uids(&["c"]))]);
}

#[test]
fn pods_that_are_refused_and_malformed_namespaces_are_complained_of_and_nobody_else() {
    let elsewhere = pod("elsewhere", Some("MyPodRole"));
    let pods = [
        pod("fine", Some("MyPodRole")),
        pod("plain", None),
        pod("malformed", Some("arn:x")),
        pod("not-listed", Some("OtherRole")),
        PodRecord { terminal: true, ..pod("done", Some("arn:x")) },
        PodRecord { facts: PodFacts { namespace: "broken".into(), ..elsewhere.facts.clone() }, ..elsewhere },
    ];
    let broken = NamespaceFacts::new(
        "broken",
        NamespaceAnnotations {
            allowed_roles: Some("MyPodRole".into()),
            permitted: None,
            default_role: Some("a b".into()),
            imds_v1: Some("Deny".into()),
        },
    );
    let namespaces = vec![namespace("default", r#"["MyPodRole"]"#), broken, namespace("nobody-here", "{}")];
    let seen = look(&index(pods, namespaces).snapshot(), &policy(PatternFormat::Glob));
    let mut said: Vec<_> = seen
        .complaints
        .iter()
        .map(|it| match &it.about {
            About::Pod { name, .. } => (&**name, it.reason),
            About::Namespace(name) => (&**name, it.reason),
        })
        .collect();
    said.sort_unstable();
    assert_eq!(
        said,
        [
            ("broken", "allowed_roles"),
            ("broken", "default_role"),
            ("broken", "imds_v1"),
            ("elsewhere", "namespace_list_malformed"),
            ("malformed", "malformed_role"),
            ("not-listed", "not_in_list"),
        ]
    );
}

/// K4: a list is compiled once for each change of its namespace: not for a request, a pod, a list of the API server, or
/// a namespace without pods here.
#[test]
fn lists_are_compiled_once_for_each_change_of_their_namespace() {
    for (format, [one, two]) in [
        (PatternFormat::Regexp, [r#"["My[A-Z][a-z]+Role"]"#, r#"["My.*"]"#]),
        (PatternFormat::Regexp, [r#"["x)|(?:.*"]"#, "no list"]),
        (PatternFormat::Glob, [r#"["My*"]"#, r#"["*"]"#]),
    ] {
        let policy = policy(format);
        let namespaces = |list: &str| vec![namespace("default", list), namespace("nobody-here", list)];
        let pods = (0..50).map(|n| pod(&format!("pod-{n}"), Some("MyPodRole")));
        let mut index = index(pods, namespaces(one));
        let before = COMPILED.get();
        let requests = |index: &Index| {
            let snapshot = index.snapshot();
            for _ in 0..10 {
                look(&snapshot, &policy);
                for pod in snapshot.pods() {
                    let namespace = snapshot.namespace(&pod.facts.namespace).unwrap();
                    let _ = policy.decide(&pod.facts, namespace);
                }
            }
            COMPILED.get() - before
        };
        assert_eq!(requests(&index), 1, "{one}");
        list(&mut index, namespaces(one));
        index.apply(Event::NamespaceApply(namespace("default", one)));
        index.apply(Event::PodApply(pod("pod-1", Some("OtherRole"))));
        index.apply(Event::NamespaceApply(namespace("nobody-here", two)));
        assert_eq!(requests(&index), 1, "nothing changed for {one}");
        index.apply(Event::NamespaceApply(namespace("default", two)));
        assert_eq!(requests(&index), 2, "{two}");
    }
}
