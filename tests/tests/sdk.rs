//! Unmodified SDKs in pods, against the real agent: the same story for each.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::time::Duration;

use rolegate_tests::clients::Client;
use rolegate_tests::skip;
use rolegate_tests::sts::Fault;
use rolegate_tests::world::World;

/// Sessions so short that every SDK refreshes at each load: all of them do below five minutes.
const SHORT: Duration = Duration::from_secs(120);

fn world(client: Client, test: &str) -> Option<World> {
    if let Some(why) = World::missing().or_else(|| client.missing()) {
        skip(test, &why);
        return None;
    }
    let world = World::start().unwrap();
    world.namespace("default", &["MyPodRole"]).unwrap();
    Some(world)
}

/// First load, and a later one while STS is down: the same session.
fn loads_its_own_role_and_keeps_it_while_sts_is_down(client: Client, test: &str) {
    let Some(world) = world(client, test) else { return };
    let _agent = world.agent(&[]).unwrap();
    let pod = world.pod("default", "client", |pod| pod.role("MyPodRole")).unwrap();
    let mut running = client.start(pod.net.ns(), &[]).unwrap();
    let first = running.load().unwrap();
    let issued = world.sts.issued(&first.access_key_id).unwrap();
    assert_eq!(issued.role, "arn:aws:iam::123456789012:role/MyPodRole");

    world.sts.faults().every(Some(Fault::ServerError));
    assert_eq!(running.load().unwrap().access_key_id, first.access_key_id);
    assert_eq!(client.load(pod.net.ns()).unwrap().access_key_id, first.access_key_id);
}

/// The agent's end by force and its new start are not noticed: tokens survive.
fn goes_on_after_the_agent_was_killed(client: Client, test: &str) {
    let Some(world) = world(client, test) else { return };
    let agent = world.agent(&[]).unwrap();
    world.sts.faults().session_life(Some(SHORT));
    let pod = world.pod("default", "client", |pod| pod.role("MyPodRole")).unwrap();
    let mut running = client.start(pod.net.ns(), &[]).unwrap();
    running.load().unwrap();

    agent.kill9().unwrap();
    world.sts.faults().session_life(None);
    let _agent = world.agent(&[]).unwrap();
    let loaded = running.load().unwrap();
    assert!(world.sts.issued(&loaded.access_key_id).is_some());
}

/// Where tokens are required every SDK still loads: all of them speak IMDSv2.
fn loads_where_v1_is_denied(client: Client, test: &str) {
    let Some(world) = world(client, test) else { return };
    let _agent = world.agent(&["--imds-v1=deny"]).unwrap();
    let pod = world.pod("default", "client", |pod| pod.role("MyPodRole")).unwrap();
    let path = "/latest/meta-data/iam/security-credentials/";
    assert_eq!(pod.imds().get(path).unwrap().status, 401);
    client.load(pod.net.ns()).unwrap();
}

/// A role that the namespace does not allow is refused without a call to STS.
fn gets_nothing_for_a_forbidden_role(client: Client, test: &str) {
    let Some(world) = world(client, test) else { return };
    let _agent = world.agent(&[]).unwrap();
    let pod = world.pod("default", "other", |pod| pod.role("OtherRole")).unwrap();
    let error = client.load(pod.net.ns()).unwrap_err();
    assert!(!error.is_empty());
    assert_eq!(world.sts.assume_role_calls(), 0, "{error}");
}

/// Sessions that end soon are refreshed: at a later load the client has the newer one. Go keeps one until its end;
/// botocore stretches one that ends soon and asks again after minutes only, so that another process stands for it.
fn refreshes_a_session_that_ends_soon(client: Client, test: &str) {
    let Some(world) = world(client, test) else { return };
    let agent = world.agent(&["--iam-role-session-ttl=2s"]).unwrap();
    let life = if client == Client::Go { Duration::from_secs(10) } else { SHORT };
    world.sts.faults().session_life(Some(life));
    let pod = world.pod("default", "client", |pod| pod.role("MyPodRole")).unwrap();
    let mut running = client.start(pod.net.ns(), &[]).unwrap();
    let first = running.load().unwrap();
    let refreshed = || {
        let loaded = match client {
            Client::Botocore => client.load(pod.net.ns()),
            Client::JavaScript | Client::Go | Client::Rust => running.load(),
        };
        let loaded = loaded.map_err(anyhow::Error::msg)?;
        Ok(loaded.access_key_id != first.access_key_id && loaded.expiration >= first.expiration)
    };
    agent.poll("the client has a newer session", refreshed).unwrap();
}

/// A pod without a role is told that there is none, as on an instance without a profile.
fn finds_no_credentials_without_a_role(client: Client, test: &str) {
    let Some(world) = world(client, test) else { return };
    let agent = world.agent(&[]).unwrap();
    let pod = world.pod("default", "bare", |pod| pod).unwrap();
    let list = || Ok(pod.imds().get("/latest/meta-data/iam/security-credentials/")?.status == 404);
    agent.poll("the pod is known", list).unwrap();
    let error = client.load(pod.net.ns()).unwrap_err();
    assert!(!error.is_empty());
    assert_eq!(world.sts.assume_role_calls(), 0, "{error}");
    assert!(world.imds().requests().iter().all(|request| !error.contains(&request.target)), "{error}");
}

/// STS is away before the first load: an error, and the same process loads once STS is back.
fn loads_once_sts_is_back(client: Client, test: &str) {
    let Some(world) = world(client, test) else { return };
    let agent = world.agent(&[]).unwrap();
    world.sts.faults().every(Some(Fault::ServerError));
    let pod = world.pod("default", "client", |pod| pod.role("MyPodRole")).unwrap();
    let mut running = client.start(pod.net.ns(), &[]).unwrap();
    assert!(running.load().is_err());
    world.sts.faults().clear();
    agent.poll("the client loads", || Ok(running.load().is_ok())).unwrap();
}

macro_rules! stories {
    ($($client:ident $variant:ident)*) => {$(
        mod $client {
            use super::Client;

            #[test]
            fn loads_its_own_role_and_keeps_it_while_sts_is_down() {
                let test = concat!(stringify!($client), "::loads_its_own_role_and_keeps_it_while_sts_is_down");
                super::loads_its_own_role_and_keeps_it_while_sts_is_down(Client::$variant, test);
            }

            #[test]
            fn goes_on_after_the_agent_was_killed() {
                let test = concat!(stringify!($client), "::goes_on_after_the_agent_was_killed");
                super::goes_on_after_the_agent_was_killed(Client::$variant, test);
            }

            #[test]
            fn loads_where_v1_is_denied() {
                let test = concat!(stringify!($client), "::loads_where_v1_is_denied");
                super::loads_where_v1_is_denied(Client::$variant, test);
            }

            #[test]
            fn gets_nothing_for_a_forbidden_role() {
                let test = concat!(stringify!($client), "::gets_nothing_for_a_forbidden_role");
                super::gets_nothing_for_a_forbidden_role(Client::$variant, test);
            }

            #[test]
            fn refreshes_a_session_that_ends_soon() {
                let test = concat!(stringify!($client), "::refreshes_a_session_that_ends_soon");
                super::refreshes_a_session_that_ends_soon(Client::$variant, test);
            }

            #[test]
            fn finds_no_credentials_without_a_role() {
                let test = concat!(stringify!($client), "::finds_no_credentials_without_a_role");
                super::finds_no_credentials_without_a_role(Client::$variant, test);
            }

            #[test]
            fn loads_once_sts_is_back() {
                let test = concat!(stringify!($client), "::loads_once_sts_is_back");
                super::loads_once_sts_is_back(Client::$variant, test);
            }
        }
    )*};
}

stories! {
    botocore Botocore
    javascript JavaScript
    go Go
    rust Rust
}

/// The endpoint by IPv6, which botocore takes by a variable.
#[test]
fn botocore_loads_over_ipv6() {
    let test = "botocore_loads_over_ipv6";
    let Some(world) = world(Client::Botocore, test) else { return };
    let _agent = world.agent(&[]).unwrap();
    let pod = world.pod("default", "client", |pod| pod.role("MyPodRole")).unwrap();
    pod.net.ns().ip("route delete default").unwrap();
    let endpoint = [("AWS_EC2_METADATA_SERVICE_ENDPOINT_MODE", "IPv6")];
    let loaded = Client::Botocore.start(pod.net.ns(), &endpoint).unwrap().load().unwrap();
    assert!(world.sts.issued(&loaded.access_key_id).is_some());
}
