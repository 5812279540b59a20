//! What one pod may have is not handed to another whose request to STS would differ.

use crate::lab::{Lab, document, told, word};

/// Trusts the node where it brings this external id.
const TRUST_WITH_ID: &str = r#"{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Principal":{"AWS":"arn:aws:iam::123456789012:role/nodes.example.cluster.k8s.local"},"Action":"sts:AssumeRole","Condition":{"StringEquals":{"sts:ExternalId":"right-id"}}}]}"#;

/// K1, P33: pods of one role, namespace and service account that differ in the external id alone: the one with the
/// right id is served, the others are refused, whoever was first and however often they ask.
#[test]
fn session_got_with_the_right_external_id_is_nobody_elses() {
    let test = "session_got_with_the_right_external_id_is_nobody_elses";
    let Some(lab) = Lab::start(test, &["--log-level=info"]) else { return };
    lab.world.role("with-id", TRUST_WITH_ID).unwrap();
    let pod = |name: &str, id: Option<&str>| {
        let shape = |pod: rolegate_tests::kube_api::Pod| match id {
            Some(id) => pod.role("with-id").annotation("iam.amazonaws.com/external-id", id),
            None => pod.role("with-id"),
        };
        let pod = lab.world.pod("default", name, shape).unwrap();
        let known = || Ok(word(&document(&pod, "with-id")?) != "500");
        lab.agent.poll("STS has answered", known).unwrap();
        pod
    };
    let pods = [
        (pod("wrong", Some("wrong-id")), Some("wrong-id")),
        (pod("right", Some("right-id")), Some("right-id")),
        (pod("none", None), None),
        (pod("right-too", Some("right-id")), Some("right-id")),
    ];
    for _ in 0..3 {
        for (pod, id) in &pods {
            let document = told(&document(pod, "with-id").unwrap());
            if *id == Some("right-id") {
                let issued = lab.world.sts.issued(document["AccessKeyId"].as_str().unwrap()).unwrap();
                assert_eq!(issued.external_id.as_deref(), *id, "{document}");
            } else {
                assert_eq!(document["Code"], "AssumeRoleUnauthorizedAccess", "{id:?}: {document}");
            }
        }
    }
    // One call for each tuple: nobody's refusal has cleared another's session.
    assert_eq!(lab.calls_of("with-id"), 3, "{:?}", lab.world.sts.calls());
}

/// K18, P33: the session's name says whose it is by default, and who differs in it shares nothing: pods of two
/// service accounts have a session each, pods of one have one.
#[test]
fn session_name_names_namespace_and_service_account_and_only_those_share() {
    let test = "session_name_names_namespace_and_service_account_and_only_those_share";
    let Some(lab) = Lab::start(test, &["--log-level=info"]) else { return };
    let served = |name: &str, account: &str| {
        let shape = |pod: rolegate_tests::kube_api::Pod| pod.role("MyPodRole").service_account(account);
        let pod = lab.world.pod("default", name, shape).unwrap();
        let key = lab.served(&pod, "MyPodRole")["AccessKeyId"].as_str().unwrap().to_owned();
        let issued = lab.world.sts.issued(&key).unwrap();
        assert_eq!(issued.session_name, format!("default.{account}"), "{name}");
        key
    };
    let (first, second) = (served("first", "writer"), served("second", "reader"));
    assert_ne!(first, second);
    assert_eq!(served("third", "writer"), first);
    assert_eq!(lab.calls_of("MyPodRole"), 2, "{:?}", lab.world.sts.calls());
}
