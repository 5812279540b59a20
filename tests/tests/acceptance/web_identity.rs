//! A pod that has a web identity of its own and the annotation: its SDK uses the former, and asks us for nothing.

use rolegate_tests::agent::Agent;
use rolegate_tests::clients::Client;
use rolegate_tests::skip;
use rolegate_tests::world::{World, arn};

use super::{no_cli, world};

/// The routes of requests that this pod made.
fn routes(agent: &Agent, pod: &str) -> Vec<String> {
    let lines = agent.lines().into_iter();
    let mine = lines.filter(|line| {
        line.text_of("target").as_deref() == Some("rolegate::access")
            && line.text_of("pod").as_deref() == Some(pod)
    });
    mine.filter_map(|line| line.text_of("route")).collect()
}

fn role_of(world: &World, access_key_id: &str) -> String {
    world.sts.issued(access_key_id).unwrap().role
}

#[test]
fn pod_with_a_web_identity_asks_for_no_credentials() {
    let test = "web_identity::pod_with_a_web_identity_asks_for_no_credentials";
    if let Some(why) = no_cli() {
        return skip(test, &why);
    }
    let Some(world) = world(test) else { return };
    world.namespace("default", &["MyPodRole"]).unwrap();
    let agent = world.agent(&[]).unwrap();
    let pod = world.pod("default", "aws-cli", |pod| pod.role("MyPodRole")).unwrap();

    let mounted = tempfile::tempdir().unwrap();
    let token = mounted.path().join("token");
    std::fs::write(&token, "header.claims.signature").unwrap();
    let env = [
        ("AWS_ROLE_ARN", arn("OtherRole")),
        ("AWS_WEB_IDENTITY_TOKEN_FILE", token.display().to_string()),
        ("AWS_STS_REGIONAL_ENDPOINTS", "regional".to_owned()),
        ("AWS_ENDPOINT_URL_STS", world.sts.url()),
    ];
    let env = env.each_ref().map(|(name, value)| (*name, value.as_str()));
    let mut running = Client::Botocore.start(pod.net.ns(), &env).unwrap();
    let loaded = running.load().unwrap();
    assert_eq!(role_of(&world, &loaded.access_key_id), arn("OtherRole"));
    assert_eq!(routes(&agent, "aws-cli"), Vec::<String>::new());

    // Without those variables the same pod is served by us.
    let loaded = Client::Botocore.load(pod.net.ns()).unwrap();
    assert_eq!(role_of(&world, &loaded.access_key_id), arn("MyPodRole"));
    agent
        .poll("the request is written", || Ok(routes(&agent, "aws-cli").contains(&"document".into())))
        .unwrap();
}
