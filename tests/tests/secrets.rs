//! What the agent says of its work: a line a request, a line a session or refusal, and never a secret, however
//! much it is told to say.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

#[path = "secrets/memory.rs"]
mod memory;
#[path = "secrets/redacted.rs"]
mod redacted;

use std::collections::BTreeSet;

use rolegate_tests::agent::Agent;
use rolegate_tests::http::Response;
use rolegate_tests::planted;
use rolegate_tests::sts::Fault;
use rolegate_tests::world::{Options, RunningPod, World, arn};

const LIST: &str = "/latest/meta-data/iam/security-credentials/";

struct Scene {
    world: World,
    granted: RunningPod,
    refused: RunningPod,
    denied: RunningPod,
    none: RunningPod,
}

// === impl Scene ===

impl Scene {
    fn set(test: &str) -> Option<Self> {
        let world = World::for_test(test, &Options::default())?;
        world.namespace("default", &["MyPodRole", "OtherRole"]).unwrap();
        world.namespace("closed", &[]).unwrap();
        // From the start: what was got ahead of need would be served.
        world.sts.faults().of_role("OtherRole", Some(Fault::ServerError));
        let pod = |namespace, name, role: &'static str| {
            world.pod(namespace, name, |pod| if role.is_empty() { pod } else { pod.role(role) }).unwrap()
        };
        let (granted, refused) =
            (pod("default", "granted", "MyPodRole"), pod("default", "refused", "OtherRole"));
        let (denied, none) = (pod("closed", "denied", "MyPodRole"), pod("default", "none", ""));
        Some(Self { world, granted, refused, denied, none })
    }

    /// Everything that a secret could come by; returns the secrets that pods hold.
    fn play(&self, agent: &Agent) -> BTreeSet<String> {
        let mut secrets = BTreeSet::new();
        let document = self.granted.imds().credentials().unwrap();
        assert_eq!(document["Code"], "Success", "{}", agent.log());
        for key in ["SecretAccessKey", "Token"] {
            secrets.insert(document[key].as_str().unwrap().to_owned());
        }
        let faults = self.world.sts.faults();
        let failures = [
            Fault::Error { status: 403, code: "AccessDenied", message: "not authorized to perform" },
            Fault::ServerError,
            Fault::HalfAnswer,
            Fault::Malformed,
            Fault::Hangup,
        ];
        for fault in failures {
            faults.of_role("OtherRole", Some(fault));
            check(self.refused.imds().get(&format!("{LIST}OtherRole")).unwrap());
        }
        for pod in [&self.refused, &self.denied, &self.none] {
            let token = pod.imds().imds_token(60).unwrap();
            check(pod.imds().role_list(&token).unwrap());
            check(pod.imds().document("MyPodRole", &token).unwrap());
            check(pod.imds().get_v2("/latest/user-data", &token).unwrap());
            check(pod.imds().get_v2("/latest/meta-data/placement/region", &token).unwrap());
            secrets.insert(token);
        }
        let wrong = "X-planted-wrong-token-of-a-pod";
        check(self.granted.imds().get_v2(LIST, wrong).unwrap());
        secrets.insert(wrong.to_owned());
        secrets
    }
}

/// An answer that is not a session's document has nothing in it, neither headers nor body.
fn check(answer: Response) {
    assert_eq!(planted::find(&format!("{:?}\n{}", answer.headers, answer.text())), None);
}

fn assert_none(page: &str, text: &str, secrets: &BTreeSet<String>) {
    for secret in secrets {
        let at = text.lines().find(|line| line.contains(secret.as_str()));
        assert_eq!(at, None, "{page} has {secret}");
    }
}

fn says_no_secret(test: &str, format: &str) {
    let Some(scene) = Scene::set(test) else { return };
    // The token on the command line, since what is said of flags is checked as well.
    let world = &scene.world;
    let mut flags = world.usual_flags();
    flags.retain(|flag| !flag.starts_with("--kubeconfig") && !flag.starts_with("--log"));
    let (url, token) = (world.cluster.url(), world.cluster.token());
    flags.extend([format!("--api-server={url}"), format!("--api-token={token}"), "--insecure".into()]);
    flags.extend(["--log-level=trace", "--debug", format].map(str::to_owned));
    let agent = Agent::start(world.topology.node(), &flags, &world.environment()).unwrap();
    agent.ready().unwrap();
    let mut secrets = scene.play(&agent);
    secrets.append(&mut planted::all());
    let (metrics, store) =
        (agent.admin("/metrics").unwrap().text(), agent.admin("/debug/store").unwrap().text());
    agent.sigterm().unwrap();
    agent.wait().unwrap();

    let log = agent.log();
    assert!(log.contains("TRACE") || log.contains("DEBUG"), "the level is in force: {log}");
    assert!(log.contains("granted") && store.contains("granted") && metrics.contains("rolegate_"), "{store}");
    assert_none("the log", &log, &secrets);
    assert_none("/metrics", &metrics, &secrets);
    assert_none("/debug/store", &store, &secrets);
    let pod = &scene.granted;
    let labels = [pod.uid.clone(), pod.net.ip4().to_string(), "arn:aws".into(), "MyPodRole".into()];
    assert_none("/metrics", &metrics, &labels.into());
}

/// P40: nothing planted is in log (every other level is a part of this one), metrics, debug page or an answer.
#[test]
fn json_log_at_trace_has_no_secret() {
    says_no_secret("json_log_at_trace_has_no_secret", "--log-format=json");
}

/// P40: the same in the other format.
#[test]
fn text_log_at_trace_has_no_secret() {
    says_no_secret("text_log_at_trace_has_no_secret", "--log-format=text");
}

#[test]
fn every_session_and_refusal_has_its_audit_line_and_every_request_its_access_line() {
    let test = "every_session_and_refusal_has_its_audit_line_and_every_request_its_access_line";
    let Some(scene) = Scene::set(test) else { return };
    let agent = scene.world.agent(&["--log-level=info"]).unwrap();
    let document = scene.granted.imds().credentials().unwrap();
    let denied = scene.denied.imds().credentials().unwrap();
    assert_eq!(denied["Code"], "AssumeRoleUnauthorizedAccess", "{denied}");
    assert_eq!(scene.refused.imds().get(&format!("{LIST}OtherRole")).unwrap().status, 500);
    agent.sigterm().unwrap();
    agent.wait().unwrap();

    let audit: Vec<_> = agent
        .lines()
        .into_iter()
        .filter(|line| line.text_of("target").as_deref() == Some("rolegate::audit"))
        .collect();
    let of = |pod: &str| {
        audit
            .iter()
            .find(|line| line.text_of("pod").as_deref() == Some(pod))
            .unwrap_or_else(|| panic!("no audit line of {pod}: {}", agent.log()))
    };
    let has = |pod: &str, fields: &[(&str, &str)]| {
        for (name, value) in fields {
            assert_eq!(of(pod).text_of(name).as_deref(), Some(*value), "{name} of {:?}", of(pod).text);
        }
    };
    has(
        "granted",
        &[
            ("message", "issued"),
            ("uid", &scene.granted.uid),
            ("namespace", "default"),
            ("service_account", "default"),
            ("role_arn", &arn("MyPodRole")),
            ("session", "default.default"),
            ("access_key_id", document["AccessKeyId"].as_str().unwrap()),
            ("expiration", document["Expiration"].as_str().unwrap()),
        ],
    );
    let refusal = [("message", "refused"), ("service_account", "default")];
    has("denied", &[("uid", &scene.denied.uid), ("namespace", "closed"), ("reason", "not_in_list")]);
    has("denied", &refusal);
    has("refused", &[("uid", &scene.refused.uid), ("role_arn", &arn("OtherRole"))]);
    has("refused", &refusal);
    assert!(of("refused").text_of("reason").is_some_and(|reason| !reason.is_empty()));

    let access: Vec<_> = agent
        .lines()
        .into_iter()
        .filter(|line| line.text_of("target").as_deref() == Some("rolegate::access"))
        .map(|line| (line.text_of("pod").unwrap_or_default(), line.text_of("route").unwrap_or_default()))
        .collect();
    // Token, list and document of two pods, and a document of the third.
    assert_eq!(access.len(), 7, "{access:?}");
    assert_eq!(
        access.iter().filter(|(pod, _)| pod == "granted").count(),
        2,
        "a token needs no pod: {access:?}"
    );
}
