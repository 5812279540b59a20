//! From a pod's packet to its own credentials: the real agent, real rules, real packets.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use rolegate_tests::skip;
use rolegate_tests::world::World;

#[test]
fn pod_gets_credentials_of_its_own_role_through_the_rules() {
    if let Some(why) = World::missing() {
        return skip("pod_gets_credentials_of_its_own_role_through_the_rules", &why);
    }
    let world = World::start().unwrap();
    world.namespace("default", &["MyPodRole"]).unwrap();
    let agent = world.agent(&[]).unwrap();
    let pod = world.pod("default", "aws-cli", |pod| pod.role("MyPodRole")).unwrap();

    let token = pod.imds().imds_token(300).unwrap();
    let list = pod.imds().role_list(&token).unwrap();
    assert_eq!((list.status, list.text().as_str()), (200, "MyPodRole"), "{}", agent.log());
    let document = pod.imds().document("MyPodRole", &token).unwrap().json().unwrap();
    assert_eq!(document["Code"], "Success", "{document}");
    let call = world.sts.calls().pop().unwrap();
    assert_eq!(call.access_key_id.as_deref(), document["AccessKeyId"].as_str());
}

#[test]
fn what_a_pod_wants_is_got_before_it_asks() {
    if let Some(why) = World::missing() {
        return skip("what_a_pod_wants_is_got_before_it_asks", &why);
    }
    let world = World::start().unwrap();
    world.namespace("default", &["MyPodRole"]).unwrap();
    let _pod = world.pod("default", "aws-cli", |pod| pod.role("MyPodRole")).unwrap();
    let agent = world.agent(&[]).unwrap();
    let prefetched = r#"rolegate_sts_calls_total{cause="prefetch",result="success"}"#;
    agent.poll("a session is prefetched", || Ok(agent.metric(prefetched)? > 0.0)).unwrap();
    assert_eq!(world.sts.assume_role_calls(), 1);
}
