//! What a pod is told while STS refuses, throttles, hangs or is slow, and how often STS is asked.

use std::io::Write;
use std::sync::Arc;
use std::time::Duration;

use rolegate_tests::http::{Client, Response};
use rolegate_tests::sts::Fault;
use rolegate_tests::world::{ACCOUNT, NODE_ROLE, RunningPod, TRUST, arn};

use crate::lab::{Lab, ROLES, Wrong};

/// The words of STS name the caller: the node's role and instance.
const DENIED: &str = "User: arn:aws:sts::123456789012:assumed-role/nodes.example.cluster.k8s.local/i-0123456789abcdef0 \
                      is not authorized to perform: sts:AssumeRole";

/// Sessions are asked for by requests alone.
fn lab(flags: &[&str]) -> Option<Lab> {
    let lab = Lab::own(&[flags, &["--prefetch=false"]].concat())?;
    lab.world.namespace("default", &["*"]).unwrap();
    Some(lab)
}

/// A pod whose role is called as it is; the role's calls go wrong so.
fn pod(lab: &Lab, name: &str, fault: Option<Fault>) -> RunningPod {
    pod_of(lab, name, name, fault)
}

/// As [`pod`], with its role as the annotation says it.
fn pod_of(lab: &Lab, name: &str, role: &str, fault: Option<Fault>) -> RunningPod {
    lab.world.role(role, TRUST).unwrap();
    lab.world.sts.faults().of_role(name, fault);
    let pod = lab.world.pod("default", name, |pod| pod.role(role)).unwrap();
    let allowed = || {
        Ok(pod.imds().get(ROLES)?.status == 200
            && pod.imds().get("/latest/meta-data/iam/info")?.status == 200)
    };
    lab.agent.poll("the pod is known", allowed).unwrap();
    pod
}

fn document(pod: &RunningPod, role: &str) -> std::io::Result<Response> {
    pod.imds().get(&format!("{ROLES}{role}"))
}

fn error(status: u16, code: &'static str, message: &'static str) -> Option<Fault> {
    Some(Fault::Error { status, code, message })
}

fn calls(lab: &Lab, role: &str) -> usize {
    lab.world.sts.calls().iter().filter(|call| call.role == arn(role)).count()
}

fn unless_silent_about_the_node(wrong: &mut Wrong, row: &str, answer: &Response) {
    let text = answer.text();
    let told =
        [NODE_ROLE, "assumed-role", "i-0123456789abcdef0", "User:"].into_iter().find(|it| text.contains(it));
    wrong.unless(told.is_none(), (row, "words of STS"), &text);
}

/// K20: the words of STS, which name the node's role, instance and account, are for the log and never for the pod.
#[test]
fn lasting_refusal_of_sts_is_a_document_that_does_not_repeat_its_words() {
    let Some(lab) = lab(&[]) else { return };
    let mut wrong = Wrong::default();
    // The account is the pod's own as well, unless its role is of another.
    let elsewhere = "arn:aws:iam::210987654321:role/elsewhere";
    lab.world.namespace("default", &["*", elsewhere]).unwrap();
    let (unauthorized, failed) = ("AssumeRoleUnauthorizedAccess", "Failed");
    for (role, code, fault) in [
        ("denied", unauthorized, error(403, "AccessDenied", DENIED)),
        ("malformed", failed, error(400, "MalformedPolicyDocument", DENIED)),
        ("packed", failed, error(400, "PackedPolicyTooLarge", DENIED)),
        ("region", failed, error(403, "RegionDisabledException", DENIED)),
        ("invalid", failed, error(400, "ValidationError", DENIED)),
        ("elsewhere", unauthorized, error(403, "AccessDenied", DENIED)),
    ] {
        let foreign = role == "elsewhere";
        let pod = pod_of(&lab, role, if foreign { elsewhere } else { role }, fault);
        let list = pod.imds().get(ROLES);
        wrong.unless_answered(200, (role, "list"), &list);
        // The first answer may be 500 where this machine is slow, the refusal comes then.
        let refused = || Ok(document(&pod, role)?.status == 200);
        lab.agent.poll("STS has refused", refused).unwrap();
        for client in [pod.imds(), pod.imds_v6()] {
            let answer = client.get(&format!("{ROLES}{role}"));
            wrong.unless_answered(200, role, &answer);
            let answer = answer.unwrap();
            unless_silent_about_the_node(&mut wrong, role, &answer);
            let account = answer.text().contains(ACCOUNT);
            wrong.unless(account != foreign, (role, "the node's account"), answer.text());
            let document = answer.json().unwrap();
            wrong.unless(document["Code"] == code, role, &document);
            wrong.unless(document["Message"].as_str().is_some_and(|it| !it.is_empty()), role, &document);
            wrong.unless(document.as_object().unwrap().len() == 3, role, &document);
        }
        wrong.unless(lab.agent.log().contains(DENIED), (role, "the operator is told"), "");
    }
    wrong.none();
}

#[test]
fn trouble_of_sts_is_500_where_nothing_is_cached_and_unseen_where_a_session_is() {
    let Some(lab) = lab(&[]) else { return };
    let mut wrong = Wrong::default();
    for (role, fault) in [
        ("throttled", error(400, "Throttling", DENIED)),
        ("broken", Some(Fault::ServerError)),
        ("unavailable", error(503, "ServiceUnavailable", DENIED)),
        ("hung", Some(Fault::Stall)),
        ("hanging-up", Some(Fault::Hangup)),
        ("cut", Some(Fault::HalfAnswer)),
        ("garbled", Some(Fault::Malformed)),
        ("redirected", Some(Fault::Redirect(lab.world.sts.url()))),
    ] {
        let pod = pod(&lab, role, fault.clone());
        wrong.unless_answered(500, (role, "nothing cached"), &document(&pod, role));
        wrong.unless_answered(200, (role, "list"), &pod.imds().get(ROLES));

        lab.world.sts.faults().of_role(role, None);
        // A call that hangs is given up before the next one is made.
        let healed = || Ok(document(&pod, role)?.status == 200);
        lab.agent.poll("STS is well again", healed).unwrap();
        let before = document(&pod, role).unwrap();
        lab.world.sts.faults().of_role(role, fault);
        let cached = document(&pod, role);
        wrong.unless_answered(200, (role, "cached"), &cached);
        wrong.unless(cached.unwrap().body == before.body, (role, "the session of before"), before.text());
    }
    wrong.none();
}

#[test]
fn session_is_served_while_its_refresh_fails() {
    let Some(lab) = lab(&["--iam-role-session-ttl=2s"]) else { return };
    let asking = pod(&lab, "refreshed", None);
    let key = || anyhow::Ok(document(&asking, "refreshed")?.json()?["AccessKeyId"].to_string());
    lab.agent.poll("a session is issued", || Ok(document(&asking, "refreshed")?.status == 200)).unwrap();
    // The broker looks at what is due when the pods change, and every half minute.
    let _another = pod(&lab, "another", None);
    let mut kept = key().unwrap();
    for (round, fault) in
        [error(403, "AccessDenied", DENIED), Some(Fault::ServerError)].into_iter().enumerate()
    {
        lab.world.sts.faults().of_role("refreshed", fault);
        let failed = || {
            let document = document(&asking, "refreshed")?;
            assert_eq!((document.status, &document.json()?["Code"]), (200, &"Success".into()), "{round}");
            Ok(lab.world.sts.calls().iter().filter(|call| call.error.is_some()).count() > round)
        };
        lab.agent.poll("a refresh has failed", failed).unwrap();
        let before = key().unwrap();
        lab.world.sts.faults().of_role("refreshed", None);
        // Whether the session of before the fault or one that was got just before it: it was served throughout.
        let renewed = || Ok(key()? != before);
        lab.agent.poll("a refresh has succeeded", renewed).unwrap();
        assert_ne!(key().unwrap(), kept);
        kept = key().unwrap();
    }
}

#[test]
fn session_of_a_pod_is_there_before_its_first_request() {
    let Some(lab) = Lab::own(&[]) else { return };
    let pod = lab.world.pod("default", "early", |pod| pod.role("MyPodRole")).unwrap();
    let fetched = || Ok(lab.agent.metric("rolegate_credentials_sessions")? >= 1.0);
    lab.agent.poll("a session is there", fetched).unwrap();
    assert_eq!(document(&pod, "MyPodRole").unwrap().status, 200);
    assert_eq!(calls(&lab, "MyPodRole"), 1, "{:?}", lab.world.sts.calls());
    let sample = "rolegate_sts_calls_total{cause=\"prefetch\",result=\"success\"}";
    assert!(lab.agent.metric(sample).unwrap() >= 1.0, "{}", lab.agent.log());
}

#[test]
fn slow_answer_of_sts_serves_the_request_after_the_one_that_asked() {
    let Some(lab) = lab(&[]) else { return };
    let pod = pod(&lab, "slow", Some(Fault::Delay(Duration::from_secs(2))));
    let first = document(&pod, "slow").unwrap();
    assert_eq!((first.status, first.body.len()), (500, 0), "{}", lab.agent.log());
    lab.agent.poll("the answer is there", || Ok(document(&pod, "slow")?.status == 200)).unwrap();
    assert_eq!(calls(&lab, "slow"), 1, "{:?}", lab.world.sts.calls());
}

#[test]
fn client_that_hangs_up_neither_ends_nor_repeats_the_call() {
    let Some(lab) = lab(&[]) else { return };
    let pod = pod(&lab, "impatient", Some(Fault::Delay(Duration::from_millis(1_500))));
    for _ in 0..3 {
        let mut stream =
            pod.net.ns().connect(rolegate_tests::topology::imds_v4(), Duration::from_secs(10)).unwrap();
        let request = pod.imds().bytes("GET", &format!("{ROLES}impatient"), &[]);
        stream.write_all(&request).unwrap();
        let asked = || Ok(calls(&lab, "impatient") > 0);
        lab.agent.poll("STS is asked", asked).unwrap();
        drop(stream);
    }
    let answered = || Ok(document(&pod, "impatient")?.status == 200);
    lab.agent.poll("the answer is there", answered).unwrap();
    assert_eq!(calls(&lab, "impatient"), 1, "{:?}", lab.world.sts.calls());
}

#[test]
fn fifty_requests_of_ten_pods_of_one_key_are_one_call() {
    let Some(lab) = lab(&[]) else { return };
    lab.world.role("shared", TRUST).unwrap();
    lab.world.sts.faults().of_role("shared", Some(Fault::Delay(Duration::from_millis(300))));
    let pods: Vec<RunningPod> = (0..10)
        .map(|n| lab.world.pod("default", &format!("shared{n}"), |pod| pod.role("shared")).unwrap())
        .collect();
    for pod in &pods {
        let known = || Ok(pod.imds().get(ROLES)?.status == 200);
        lab.agent.poll("the pod is known", known).unwrap();
    }
    let bodies: Vec<String> = std::thread::scope(|scope| {
        let asking: Vec<_> = pods
            .iter()
            .flat_map(|pod| std::iter::repeat_n(pod, 5))
            .map(|pod| {
                scope.spawn(|| {
                    let mut body = String::new();
                    let answered = || {
                        let answer = document(pod, "shared")?;
                        body = answer.text();
                        Ok(answer.status == 200)
                    };
                    lab.agent.poll("the session is there", answered).unwrap();
                    body
                })
            })
            .collect();
        asking.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    assert_eq!(bodies.len(), 50);
    assert!(bodies.iter().all(|body| *body == bodies[0]), "{bodies:?}");
    assert_eq!(calls(&lab, "shared"), 1, "{:?}", lab.world.sts.calls());
}

/// What `change` does while STS answers makes the answer 500.
fn while_sts_answers(role: &str, change: impl FnOnce(&Lab, &mut RunningPod)) {
    let Some(lab) = lab(&[]) else { return };
    let mut pod = pod(&lab, role, Some(Fault::Delay(Duration::from_millis(600))));
    // The request holds the pod's network alone: its object is what changes.
    let net = Arc::clone(&pod.net);
    let answer = std::thread::scope(|scope| {
        let asking = scope.spawn(|| Client::imds(net.ns()).get(&format!("{ROLES}{role}")));
        let asked = || Ok(calls(&lab, role) > 0 || asking.is_finished());
        lab.agent.poll("STS is asked", asked).unwrap();
        change(&lab, &mut pod);
        asking.join().unwrap()
    });
    let answer = answer.unwrap();
    assert_eq!((answer.status, answer.body.len()), (500, 0), "{answer:?} {}", lab.agent.log());
    assert_eq!(calls(&lab, role), 1, "{:?}", lab.world.sts.calls());
}

#[test]
fn pod_that_is_deleted_while_sts_answers_gets_nothing() {
    while_sts_answers("deleted", |lab, pod| lab.world.delete(pod).unwrap());
}

#[test]
fn pod_that_is_annotated_anew_while_sts_answers_gets_nothing_of_the_old_role() {
    while_sts_answers("annotated", |lab, pod| {
        lab.world.edit(pod, |pod| pod.role("MyPodRole")).unwrap();
    });
}

#[test]
fn role_that_is_forbidden_while_sts_answers_is_not_given() {
    while_sts_answers("forbidden-now", |lab, _| lab.world.namespace("default", &["MyPodRole"]).unwrap());
}

/// P34: authorisation is asked anew at every request, though a session is cached: once the agent has seen that a
/// permission or an annotation is gone, not one more request gets credentials.
#[test]
fn role_that_is_forbidden_is_refused_at_the_next_request_although_its_session_is_cached() {
    let Some(lab) = lab(&[]) else { return };
    let (mut edited, pod) = (pod(&lab, "edited", None), pod(&lab, "withdrawn", None));
    let code = |pod: &RunningPod, role: &str| {
        let answer = document(pod, role)?;
        Ok::<_, std::io::Error>(
            answer.json().map_or_else(|_| answer.status.to_string(), |it| it["Code"].to_string()),
        )
    };
    let until = |pod: &RunningPod, role: &str, wanted: &str| {
        lab.agent.poll(wanted, || Ok(code(pod, role)?.contains(wanted))).unwrap();
    };
    let (success, unauthorized) = ("Success", "AssumeRoleUnauthorizedAccess");
    until(&pod, "withdrawn", success);
    until(&edited, "edited", success);
    for _ in 0..3 {
        let before = calls(&lab, "withdrawn");
        lab.world.namespace("default", &["edited"]).unwrap();
        until(&pod, "withdrawn", unauthorized);
        for client in [pod.imds(), pod.imds_v6()].into_iter().cycle().take(20) {
            let answer = client.get(&format!("{ROLES}withdrawn")).unwrap().json().unwrap();
            assert_eq!(answer["Code"], unauthorized);
            assert!(answer.get("AccessKeyId").is_none(), "{answer}");
            assert_eq!(client.get("/latest/meta-data/iam/info").unwrap().status, 404);
        }
        assert_eq!(code(&edited, "edited").unwrap(), format!("\"{success}\""), "the others are as they were");
        lab.world.namespace("default", &["edited", "withdrawn"]).unwrap();
        until(&pod, "withdrawn", success);
        assert!(calls(&lab, "withdrawn") <= before + 1, "{:?}", lab.world.sts.calls());
    }
    lab.world.edit(&mut edited, |pod| pod.role("withdrawn")).unwrap();
    until(&edited, "edited", "404");
    for _ in 0..20 {
        assert_eq!(code(&edited, "edited").unwrap(), "404");
    }
    until(&edited, "withdrawn", success);
}
