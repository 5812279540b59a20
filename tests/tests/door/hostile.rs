//! Requests that an attacker writes: none of them gets anything of the node's or another pod's, and the real IMDS never
//! sees one.

use std::collections::BTreeSet;

use rolegate_tests::world::{NODE_ROLE, RunningPod};

use crate::lab::{
    Lab, OWN_DOCUMENT, ROLES, TOKENS_REQUIRED, TTL, USUAL, VICTIM_ROLE, WIDEST, Wrong, everything_v4,
    has_marker, only_what_is_open_reached_imds, statuses,
};
use crate::targets::{ROLE, TARGETS};

/// A row of [`TARGETS`], asked for with these methods: each has its status and nothing else.
fn unless_kept(pod: &RunningPod, wrong: &mut Wrong, role: &str, token: &str, methods: &[&str]) {
    let of_a_role = |target: &str| target.contains(ROLE) || role == NODE_ROLE;
    for (row, (read, other), target) in TARGETS.iter().filter(|(_, _, target)| of_a_role(target)) {
        let target = target.replace(ROLE, role);
        for method in methods {
            let request = format!(
                "{method} {target} HTTP/1.1\r\nHost: 169.254.169.254\r\nX-Canary: {row}\r\n\
                 X-aws-ec2-metadata-token: {token}\r\n\r\n"
            );
            let status = if matches!(*method, "GET" | "HEAD") { *read } else { *other };
            let answers = match everything_v4(pod, request.as_bytes()) {
                Ok(answers) => answers,
                Err(error) => {
                    wrong.unless(false, (row, role, method), error);
                    continue;
                }
            };
            let text = String::from_utf8_lossy(&answers);
            wrong.unless(statuses(&answers) == [status], (row, role, method, "wants", status), &text);
            let body = text.split_once("\r\n\r\n").map_or("", |(_, body)| body);
            wrong.unless(body.is_empty(), (row, role, method, "a body"), &text);
            wrong.unless(!has_marker(&answers), (row, role, method, "something of the node's"), &text);
        }
        wrong.unless_answered(200, (row, role, "the next request"), &pod.imds().get_v2("/", token));
    }
}

/// K6, P22: whatever is not a pod's is refused in every spelling, whatever the method and the agent's flags, though both
/// the node's credentials and the other pod's are there for whoever asks rightly; nothing of it reaches the real IMDS.
#[test]
fn target_that_means_what_is_not_the_pods_is_refused_in_every_spelling() {
    for shared in [&USUAL, &WIDEST, &TOKENS_REQUIRED] {
        let Some(lab) = shared.get() else { return };
        let (pod, victim, mut wrong) = (lab.pod("own"), lab.pod("victim"), Wrong::default());
        let document = victim.imds().credentials().unwrap();
        wrong.unless(document["Code"] == "Success", "the other pod's session is there", &document);
        let token = pod.imds().imds_token(21_600).unwrap();
        unless_kept(&pod, &mut wrong, NODE_ROLE, &token, &["GET", "HEAD", "POST", "PUT"]);
        unless_kept(&pod, &mut wrong, VICTIM_ROLE, &token, &["GET"]);
        only_what_is_open_reached_imds(shared, &lab, &mut wrong);
        wrong.none();
    }
}

/// Every byte, plain and encoded, at the places where a path could be cut.
#[test]
fn no_byte_anywhere_in_a_path_leads_to_the_nodes_secrets() {
    let Some(lab) = WIDEST.get() else { return };
    let (pod, mut wrong) = (lab.pod("own"), Wrong::default());
    let secret = format!("meta-data/iam/security-credentials/{NODE_ROLE}");
    // A fragment is not part of the request: what is before it is asked for.
    for byte in (0..=255_u8).filter(|byte| *byte != b'#') {
        let encoded = format!("%{byte:02x}").into_bytes();
        for (at, insert) in [(0, vec![byte]), (9, encoded.clone()), (13, vec![byte]), (34, encoded)] {
            let mut request = b"GET /latest/".to_vec();
            request.extend_from_slice(&secret.as_bytes()[..at]);
            request.extend_from_slice(&insert);
            request.extend_from_slice(&secret.as_bytes()[at..]);
            request.extend_from_slice(b" HTTP/1.1\r\nHost: 169.254.169.254\r\nX-Canary: 1\r\n\r\n");
            unless_refused(&lab, &pod, &mut wrong, &format!("byte {byte:#x} at {at}"), &request);
        }
    }
    only_what_is_open_reached_imds(&WIDEST, &lab, &mut wrong);
    wrong.none();
}

#[test]
fn head_or_target_that_is_too_long_is_refused() {
    let Some(lab) = USUAL.get() else { return };
    let (pod, mut wrong) = (lab.pod("own"), Wrong::default());
    let long = "a".repeat(64 * 1024);
    let many: String = (0..1_000).map(|n| format!("X-{n}: {n}\r\n")).collect();
    for (row, request) in [
        ("target", format!("GET /latest/meta-data/{long} HTTP/1.1\r\nHost: 169.254.169.254\r\n\r\n")),
        ("header", format!("GET / HTTP/1.1\r\nHost: 169.254.169.254\r\nX-A: {long}\r\n\r\n")),
        ("headers", format!("GET / HTTP/1.1\r\nHost: 169.254.169.254\r\n{many}\r\n")),
        (
            "token",
            format!("GET / HTTP/1.1\r\nHost: 169.254.169.254\r\nX-aws-ec2-metadata-token: {long}\r\n\r\n"),
        ),
    ] {
        unless_refused(&lab, &pod, &mut wrong, row, request.as_bytes());
    }
    wrong.none();
}

/// P25: nothing that the agent says is a token for the real service, and none of that service's tokens is shown to a pod or
/// good for one.
#[test]
fn tokens_of_agent_and_real_service_are_worth_nothing_to_each_other() {
    let Some(lab) = Lab::own(&["--profile=kube2iam", "--metadata-allow=**,dynamic/**"]) else { return };
    let (pod, mut wrong) = (lab.pod("own"), Wrong::default());
    let node = rolegate_tests::http::Client::imds(lab.world.topology.node());
    let real = node.imds_token(60).unwrap();
    let at_the_service = |token: &str| node.get_v2("/latest/meta-data/mac", token).unwrap().status;
    wrong.unless(at_the_service(&real) == 200, "real token", &real);
    let put = [(TTL, "21600")];
    let mut answers = vec![pod.imds().request("PUT", "/latest/api/token", &put).unwrap()];
    let own = answers[0].text();
    for path in ["/", "/latest/", "/latest/meta-data/", "/latest/meta-data/iam/info", ROLES, OWN_DOCUMENT]
        .into_iter()
        .chain([
            "/latest/meta-data/mac",
            "/latest/meta-data/public-ipv4",
            "/latest/dynamic/",
            "/latest/api/token",
        ])
        .chain([
            "/latest/dynamic/instance-identity/document",
            "/latest/dynamic/instance-identity/pkcs7",
            "/nothing",
        ])
    {
        answers.push(pod.imds().get(path).unwrap());
        answers.push(pod.imds().get_v2(path, &own).unwrap());
        let answer = pod.imds().get_v2(path, &real);
        let refused = if path == "/latest/api/token" { 405 } else { 401 };
        wrong.unless_answered(refused, ("a real token at the agent", path), &answer);
    }
    let mut said = BTreeSet::new();
    for answer in &answers {
        let document = answer.json().ok();
        let fields =
            document.iter().filter_map(serde_json::Value::as_object).flat_map(serde_json::Map::values);
        said.extend(fields.filter_map(|value| value.as_str().map(str::to_owned)));
        said.extend(answer.text().lines().map(str::to_owned));
        said.extend(answer.headers.iter().map(|(_, value)| value.clone()));
    }
    wrong.unless(said.contains(&own) && said.len() > 30, "what the agent says", &said);
    for text in said.iter().filter(|text| !text.is_empty()) {
        wrong.unless(at_the_service(text) == 401, "at the real service", text);
        wrong.unless(!has_marker(text.as_bytes()), "of the real service", text);
    }
    wrong.none();
}

fn unless_refused(
    lab: &Lab,
    pod: &rolegate_tests::world::RunningPod,
    wrong: &mut Wrong,
    row: &str,
    request: &[u8],
) {
    let answers = match everything_v4(pod, request) {
        Ok(answers) => answers,
        Err(error) => return wrong.unless(false, (row, "no end"), error),
    };
    let text = String::from_utf8_lossy(&answers);
    // Nothing at all: reset before the answer could be read. Two answers: the request was read as two.
    let refused = match statuses(&answers)[..] {
        [] => true,
        [only] => (400..500).contains(&only),
        _ => false,
    };
    wrong.unless(refused, row, &text);
    let body = text.split_once("\r\n\r\n").map_or("", |(_, body)| body);
    wrong.unless(body.is_empty(), (row, "a body"), &text);
    wrong.unless(!has_marker(&answers), (row, "something of the node's"), &text);
    wrong.unless(lab.agent.status().is_none(), (row, "the agent has ended"), "");
}
