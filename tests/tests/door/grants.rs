//! Whose credentials are served: of the one role that the annotation names and the namespace allows, never of the node's own.

use rolegate_tests::http::Client;
use rolegate_tests::world::{NODE_ROLE, RunningPod, TRUST, arn};
use serde_json::Value;

use crate::lab::{Lab, ROLES};

const ALLOWED: &str = "iam.amazonaws.com/allowed-roles";
const FOREIGN: &str = "arn:aws:iam::210987654321:role/MyPodRole";

/// Roles that a pod may ask for, all of which trust the node.
const EVERY: [&str; 8] = [
    "MyPodRole",
    "MyPod",
    "PodRole",
    "MyPodRoleX",
    "team/MyPodRole",
    "team/app/PathRole",
    "DefaultRole",
    FOREIGN,
];

/// A namespace's list, a pod's annotation, and whose credentials it gets.
type Row = (&'static [&'static str], Option<&'static str>, Option<&'static str>);

const ROWS: &[Row] = &[
    (&["MyPodRole"], Some("MyPodRole"), Some("MyPodRole")),
    (&["MyPodRole"], Some("arn:aws:iam::123456789012:role/MyPodRole"), Some("MyPodRole")),
    (&["arn:aws:iam::123456789012:role/MyPodRole"], Some("MyPodRole"), Some("MyPodRole")),
    (&["MyPod*"], Some("MyPodRole"), Some("MyPodRole")),
    (&["MyPod", "PodRole", "MyPodRoleX"], Some("MyPodRole"), None),
    (&["*PodRol", "?yPodRol", "MyPodRole?"], Some("MyPodRole"), None),
    (&["mypodrole"], Some("MyPodRole"), None),
    (&["MyPodRole"], Some("mypodrole"), None),
    (&["MyPodRole"], Some("MyPodRoleX"), None),
    (&["MyPodRole"], Some("team/MyPodRole"), None),
    (&["team/*"], Some("team/MyPodRole"), Some("team/MyPodRole")),
    (&["team/*"], Some("team/app/PathRole"), None),
    (&["team/app/*"], Some("team/app/PathRole"), Some("team/app/PathRole")),
    (&[FOREIGN], Some("MyPodRole"), None),
    (&["MyPodRole", "*"], Some(FOREIGN), None),
    (&[FOREIGN], Some(FOREIGN), Some(FOREIGN)),
    (&[], None, None),
    (&["Default", "efaultRole"], None, None),
    (&["DefaultRole"], None, Some("DefaultRole")),
    (&["DefaultRole"], Some("MyPodRole"), None),
];

fn full(role: &str) -> String {
    if role.starts_with("arn:") { role.to_owned() } else { arn(role) }
}

fn document(client: Client<'_>, asked: &str) -> (u16, Value) {
    let answer = client.get(&format!("{ROLES}{asked}")).unwrap();
    (answer.status, answer.json().unwrap_or_default())
}

/// P29: a role is served only where it is, as an ARN, that of the pod's annotation, and where a pattern of the namespace matches
/// all of it; that of the default as well.
#[test]
fn role_is_served_only_as_annotated_and_as_the_namespace_allows_it_in_full() {
    let Some(lab) = Lab::own(&["--default-role=DefaultRole"]) else { return };
    for role in EVERY {
        lab.world.role(role, TRUST).unwrap();
    }
    for (n, (list, annotation, served)) in ROWS.iter().enumerate() {
        let (namespace, row) = (format!("row{n}"), (list, annotation));
        lab.world.namespace(&namespace, list).unwrap();
        let role = |pod: rolegate_tests::kube_api::Pod| match annotation {
            Some(role) => pod.role(role),
            None => pod,
        };
        let pod = lab.world.pod(&namespace, &namespace, role).unwrap();
        lab.settled(&pod);
        let listed = pod.imds().get(ROLES).unwrap();
        let named = annotation.unwrap_or("DefaultRole");
        let last = named.rsplit('/').next().unwrap();
        assert_eq!((listed.status, listed.text().as_str()), (200, last), "{row:?}");
        let (status, answer) = document(pod.imds(), last);
        let code = if served.is_some() { "Success" } else { "AssumeRoleUnauthorizedAccess" };
        assert_eq!((status, &answer["Code"]), (200, &code.into()), "{row:?}: {answer}");
        assert_eq!(answer.get("AccessKeyId").is_some(), served.is_some(), "{row:?}: {answer}");
        if let Some(role) = served {
            let issued = lab.world.sts.issued(answer["AccessKeyId"].as_str().unwrap()).unwrap();
            assert_eq!(issued.role, full(role), "{row:?}");
        }
        // By any other name there is nothing, though others have these roles.
        for other in EVERY.into_iter().filter(|other| full(other) != full(named)) {
            for asked in [other.to_owned(), full(other)] {
                if asked != last {
                    let (status, answer) = document(pod.imds(), &asked);
                    assert_eq!((status, answer), (404, Value::Null), "{row:?} asks for {asked}");
                }
            }
        }
    }
    let calls = lab.world.sts.calls();
    let granted = |role: &str| ROWS.iter().any(|(_, _, served)| served.is_some_and(|it| full(it) == role));
    assert!(calls.iter().all(|call| call.role.is_empty() || granted(&call.role)), "{calls:?}");
}

/// No spelling of a question gets this pod anything.
fn gets_nothing(lab: &Lab, pod: &RunningPod, row: &str) {
    lab.agent.poll("the pod is known", || Ok(pod.imds().get(ROLES)?.status != 500)).unwrap();
    let listed = pod.imds().get(ROLES).unwrap();
    for client in [pod.imds(), pod.imds_v6()] {
        for asked in [&listed.text(), NODE_ROLE, &arn(NODE_ROLE), &NODE_ROLE.to_uppercase()] {
            let (status, answer) = document(client, asked);
            let told = status == 404 || status == 200 && answer["Code"] == "AssumeRoleUnauthorizedAccess";
            assert!(told && answer.get("AccessKeyId").is_none(), "{row}, {asked}: {status} {answer}");
        }
        assert_eq!(client.get("/latest/meta-data/iam/info").unwrap().status, 404, "{row}");
    }
}

/// P30: the node's own role is refused in an annotation, as a default of flag or namespace, and in a list, whatever allows it.
#[test]
fn nodes_own_role_is_refused_in_annotations_defaults_and_lists() {
    for flags in [&[][..], &["--namespace-restrictions=off"]] {
        let default = format!("--default-role={NODE_ROLE}");
        let Some(lab) = Lab::own(&[flags, &[&default]].concat()) else { return };
        // STS would give it.
        lab.world.role(NODE_ROLE, TRUST).unwrap();
        lab.world.role("team/nodes.example.cluster.k8s.local", TRUST).unwrap();
        let by_name = format!("[\"{NODE_ROLE}\"]");
        let by_arn = format!("[\"{}\"]", arn(NODE_ROLE));
        // Without restrictions one list is like another.
        let lists = [r#"["**"]"#, &by_name, &by_arn].into_iter().take(if flags.is_empty() { 3 } else { 1 });
        for (n, list) in lists.enumerate() {
            let (named, defaulted) = (format!("named{n}"), format!("defaulted{n}"));
            lab.world.cluster.apply_namespace(&named, &[(ALLOWED, list)]).unwrap();
            let annotations = [(ALLOWED, list), ("iam.amazonaws.com/default-role", &arn(NODE_ROLE))];
            lab.world.cluster.apply_namespace(&defaulted, &annotations).unwrap();
            for (of, role) in
                [NODE_ROLE, &arn(NODE_ROLE), &NODE_ROLE.to_uppercase(), &format!("team/{NODE_ROLE}")]
                    .into_iter()
                    .enumerate()
            {
                let pod = lab.world.pod(&named, &format!("annotated{n}-{of}"), |pod| pod.role(role)).unwrap();
                gets_nothing(&lab, &pod, &format!("annotated {role}, {list}, {flags:?}"));
            }
            for namespace in [&named, &defaulted] {
                let pod = lab.world.pod(namespace, &format!("bare-{namespace}"), |pod| pod).unwrap();
                gets_nothing(&lab, &pod, &format!("by default in {namespace}, {list}, {flags:?}"));
            }
            let other = lab.world.pod(&named, &format!("other{n}"), |pod| pod.role("OtherRole")).unwrap();
            let open = list.contains('*') || !flags.is_empty();
            let wanted = if open { "Success" } else { "AssumeRoleUnauthorizedAccess" };
            let code = || Ok(document(other.imds(), "OtherRole").1["Code"] == wanted);
            lab.agent.poll("a list with the node's role allows nothing by it", code).unwrap();
        }
        let calls = lab.world.sts.calls();
        assert!(calls.iter().all(|call| !call.role.to_lowercase().contains(NODE_ROLE)), "{calls:?}");
    }
}
