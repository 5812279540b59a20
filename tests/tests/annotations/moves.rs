//! Namespaces deleted and made again, pods of one name in two namespaces, pods that change their namespace.

use rolegate_tests::agent::Agent;
use rolegate_tests::skip;
use rolegate_tests::world::arn;

use crate::lab::{ALLOWED_ROLES, Lab, REFUSED, Row, Wrong};
use crate::table::{NEIGHBOUR, beside, served};

const MINE: &str = r#"["MyPodRole"]"#;
const OTHER: &str = r#"["OtherRole"]"#;

fn becomes(agent: &Agent, row: &Row, role: &str, code: &str) {
    let what = format!("{}/{} gets {code}", row.namespace, row.name);
    agent.poll(&what, || Ok(row.code(role).is_ok_and(|got| got == code))).unwrap();
}

fn message(row: &Row, role: &str) -> String {
    let document = row.document(role).unwrap().json().unwrap();
    document["Message"].as_str().unwrap_or_default().to_owned()
}

/// P34: permission ends with the namespace that gave it, and one of the same name begins with its own annotations.
#[test]
fn namespace_deleted_and_made_again_permits_what_the_new_one_says() {
    let test = "namespace_deleted_and_made_again_permits_what_the_new_one_says";
    let Some(lab) = Lab::new(test) else { return };
    let Ok(api) = lab.world.cluster.double() else {
        return skip(test, "a namespace of a real API server takes its pods along");
    };
    lab.namespace("default", &[(ALLOWED_ROLES, MINE)]);
    lab.namespace("team", &[(ALLOWED_ROLES, MINE)]);
    let neighbour = lab.row("default", NEIGHBOUR, |pod| pod.role("MyPodRole"));
    let pod = lab.row("team", "web", |pod| pod.role("MyPodRole"));
    let agent = lab.world.agent(&[]).unwrap();
    served(&agent, &pod, "MyPodRole");

    served(&agent, &neighbour, "MyPodRole");
    let wrong = Wrong::default();
    beside(&neighbour, &wrong, || {
        assert!(api.delete_namespace("team"));
        // Nobody can say what its pods may have: held, then 500; neither a refusal nor a session.
        let gone = || {
            let answer = pod.document("MyPodRole")?;
            let served = answer.status == 200 && answer.json()?["Code"] == "Success";
            assert!(served || answer.status == 500, "{answer:?}");
            Ok(answer.status == 500)
        };
        agent.poll("the namespace is gone", gone).unwrap();
        assert_eq!(pod.document("MyPodRole").unwrap().status, 500);

        lab.namespace("team", &[]);
        becomes(&agent, &pod, "MyPodRole", REFUSED);
        assert!(message(&pod, "MyPodRole").contains("namespace team has no annotation"));
        lab.namespace("team", &[(ALLOWED_ROLES, OTHER)]);
        let lists = || Ok(message(&pod, "MyPodRole").contains("namespace team does not allow it"));
        agent.poll("the list is known", lists).unwrap();
        lab.namespace("team", &[(ALLOWED_ROLES, MINE)]);
        becomes(&agent, &pod, "MyPodRole", "Success");
    });
    wrong.none();
}

/// P34: a pod that is made again in another namespace, with its name, service account and address, has the permissions
/// of that namespace and none of the former.
#[test]
fn pod_made_again_in_another_namespace_leaves_its_permissions_behind() {
    let test = "pod_made_again_in_another_namespace_leaves_its_permissions_behind";
    let Some(lab) = Lab::new(test) else { return };
    lab.namespace("first", &[(ALLOWED_ROLES, MINE)]);
    lab.namespace("second", &[(ALLOWED_ROLES, OTHER)]);
    let mut pod = lab.row("first", "web", |pod| pod.role("MyPodRole"));
    let agent = lab.world.agent(&[]).unwrap();
    served(&agent, &pod, "MyPodRole");
    for (namespace, code) in [("second", REFUSED), ("first", "Success"), ("second", REFUSED)] {
        lab.delete(&pod);
        let again = lab.row_at(pod.ip(), namespace, "web", |pod| pod.role("MyPodRole"));
        assert_ne!(again.uid, pod.uid);
        pod = again;
        becomes(&agent, &pod, "MyPodRole", code);
        assert_eq!(message(&pod, "MyPodRole").contains("namespace second"), code == REFUSED);
        // What is refused is said of each pod anew, though its name is the same.
        if code == REFUSED {
            let of_it = |line: &rolegate_tests::agent::Line| {
                line.text_of("message").as_deref() == Some("pod is refused its role")
                    && line.text_of("uid").as_ref() == Some(&pod.uid)
            };
            agent.wait_for_line("the refusal of that pod", of_it).unwrap();
        }
    }
}

/// P29: of two pods of one name and service account, each has what its own annotation and its own namespace say.
#[test]
fn namesakes_in_two_namespaces_have_nothing_in_common() {
    let Some(lab) = Lab::new("namesakes_in_two_namespaces_have_nothing_in_common") else { return };
    lab.namespace("first", &[(ALLOWED_ROLES, MINE)]);
    lab.namespace("second", &[(ALLOWED_ROLES, OTHER)]);
    let [first, second] = ["first", "second"].map(|ns| lab.row(ns, "web", |pod| pod.role("MyPodRole")));
    let agent = lab.world.agent(&[]).unwrap();
    served(&agent, &first, "MyPodRole");
    assert_eq!(second.code("MyPodRole").unwrap(), REFUSED);

    lab.edit(&second, |pod| pod.role("OtherRole"));
    becomes(&agent, &second, "OtherRole", "Success");
    assert_eq!(first.code("MyPodRole").unwrap(), "Success");
    assert_eq!(first.document("OtherRole").unwrap().status, 404);
    lab.edit(&first, |pod| pod.role("arn:x"));
    becomes(&agent, &first, "malformed-role", REFUSED);
    assert_eq!(second.code("OtherRole").unwrap(), "Success");

    lab.delete(&first);
    agent.poll("the first is gone", || Ok(first.list()?.status == 500)).unwrap();
    assert_eq!(second.code("OtherRole").unwrap(), "Success");
    let sessions = lab.world.sts.calls();
    let names: Vec<_> = sessions.iter().filter(|call| call.role == arn("OtherRole")).collect();
    assert!(names.iter().all(|call| call.session_name == "second.default"), "{names:?}");
}
