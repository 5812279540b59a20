//! Requests that an attacker writes: none of them gets anything of the node's, and the real IMDS never sees one.

use rolegate_tests::world::NODE_ROLE;

use crate::lab::{
    Lab, OPEN, Shared, TOKENS_REQUIRED, USUAL, WIDE, Wrong, everything_v4, has_marker, statuses,
};
use crate::roles::passed_on_by_default;

/// What stands for the name of the node's role.
const NODE: &str = "NODE";

/// Targets that some proxy or server reads as the node's credentials, its user data or its identity.
const TARGETS: [&str; 76] = [
    "/latest/meta-data/iam/security-credentials/NODE",
    "//latest/meta-data/iam/security-credentials/NODE",
    "/latest//meta-data/iam/security-credentials//NODE",
    "/latest/./meta-data/iam/security-credentials/NODE",
    "/latest/x/../meta-data/iam/security-credentials/NODE",
    "/latest/%2e/meta-data/iam/security-credentials/NODE",
    "/latest/meta-data/iam%2fsecurity-credentials%2fNODE",
    "/latest/meta-data/iam/security-credentials/NODE%0a",
    "/latest/meta-data/iam/security-credentials/NODE%0d%0a",
    "/latest/meta-data/iam/security-credentials/NODE%00",
    "/latest/meta-data/iam/security-credentials/x%0a",
    "/latest/meta-data/iam/security-credentials/NODE/",
    "/latest/meta-data/iam/security-credentials/NODE?x=y",
    "/latest/meta-data/iam/security-credentials/NODE#x",
    "/latest/meta-data/iam/security-credentials/MyPodRole/../NODE",
    "/latest/meta-data/iam/security-credentials/MyPodRole%2f..%2fNODE",
    "/latest/meta-data/iam/security-credentials/MyPodRole%252f..%252fNODE",
    "/latest/meta-data/iam/security-credentials/MyPodRole/../../info/x",
    "/latest/meta-data%252fiam/security-credentials/NODE",
    "/latest/meta-data/%2569am/security-credentials/NODE",
    "/latest/meta-data/iam%252Fsecurity-credentials/NODE",
    "/latest/Meta-Data/IAM/security-credentials/NODE",
    "/latest/meta-data/IAM/security-credentials/NODE",
    "/LATEST/meta-data/iam/security-credentials/NODE",
    "/latest/meta-data/iam/security-credentials%20/NODE",
    "/latest/meta-data/iam%20/security-credentials/NODE",
    "/latest/meta-data/iam;x/security-credentials/NODE",
    "/latest/meta-data;x=y/iam/security-credentials/NODE",
    "/latest/meta-data/iam/..;/iam/security-credentials/NODE",
    "/latest/meta-data\\iam\\security-credentials\\NODE",
    "/latest/meta-data%5ciam%5csecurity-credentials%5cNODE",
    "/latest\\..\\latest/meta-data/iam/security-credentials/NODE",
    "/latest/meta-data%c0%afiam/security-credentials/NODE",
    "/latest/meta-data/%c0%aeiam/security-credentials/NODE",
    "/latest/meta-data/%ef%bd%89am/security-credentials/NODE",
    "/latest/meta-data/%u0069am/security-credentials/NODE",
    "/latest/meta-data/ｉａｍ/security-credentials/NODE",
    "/a/latest/meta-data/iam/security-credentials/NODE",
    "/meta-data/iam/security-credentials/NODE",
    "/iam/security-credentials/NODE",
    "/latest/dynamic/../meta-data/iam/security-credentials/NODE",
    "/latest/meta-data/placement/../iam/security-credentials/NODE",
    "/latest/meta-data/placement/%2e%2e/iam/security-credentials/NODE",
    "/latest/meta-data/placement/..%2fiam%2fsecurity-credentials%2fNODE",
    "/latest/meta-data/placement/region/../../iam/security-credentials/NODE",
    "/latest/meta-data/instance-id/../iam/security-credentials/NODE",
    "/latest/meta-data/local-/../iam/security-credentials/NODE",
    "/latest/meta-data/local-%2f..%2fiam%2fsecurity-credentials%2fNODE",
    "/latest/meta-data/services/..%5ciam",
    "/latest/user-data",
    "/latest/user-data/",
    "/latest//user-data",
    "/latest/user-data?x",
    "/latest/user%2ddata",
    "/latest/user%2Ddata%00",
    "/latest/USER-DATA",
    "/latest/meta-data/../user-data",
    "/latest/meta-data/%2e%2e/user-data",
    "/latest/meta-data/..%2fuser-data",
    "/latest/meta-data/%252e%252e/user-data",
    "/latest/meta-data/instance-id/../../user-data",
    "/latest/dynamic/instance-identity/../../user-data",
    "/2009-04-04/user-data",
    "/1.0/user-data",
    "/latest/meta-data/identity-credentials/ec2/info",
    "/latest/meta-data/identity-credentials/ec2/security-credentials/ec2-instance",
    "/latest/meta-data/x/../identity-credentials/ec2/security-credentials/ec2-instance",
    "/latest/meta-data/identity%2dcredentials/ec2/security-credentials/ec2-instance",
    "http://169.254.169.254/latest/meta-data/iam/security-credentials/NODE",
    "http://169.254.169.254/latest/user-data",
    "HTTP://169.254.169.254:80//latest/user-data",
    "http://evil.example/latest/user-data",
    "http://evil.example@169.254.169.254/latest/user-data",
    "http://169.254.169.254\\@evil.example/latest/user-data",
    "https://169.254.169.254/latest/user-data",
    "/latest/meta-data/iam/security-credentials/%4e%4f%44%45",
];

/// A request is refused, whatever its method and the agent's flags.
#[test]
fn target_that_means_the_nodes_secrets_is_refused_in_every_spelling() {
    for shared in [&USUAL, &OPEN, &WIDE, &TOKENS_REQUIRED] {
        let Some(lab) = shared.get() else { return };
        let (pod, mut wrong) = (lab.pod("own"), Wrong::default());
        let token = pod.imds().imds_token(21_600).unwrap();
        for target in TARGETS.map(|target| target.replace(NODE, NODE_ROLE)) {
            for method in ["GET", "HEAD", "POST", "PUT"] {
                let request = format!(
                    "{method} {target} HTTP/1.1\r\nHost: 169.254.169.254\r\nX-Canary: 1\r\n\
                     X-aws-ec2-metadata-token: {token}\r\n\r\n"
                );
                unless_refused(&lab, &pod, &mut wrong, &target, request.as_bytes());
            }
        }
        only_what_is_open_reached_imds(shared, &lab, &mut wrong);
        wrong.none();
    }
}

/// Every byte, plain and encoded, at the places where a path could be cut.
#[test]
fn no_byte_anywhere_in_a_path_leads_to_the_nodes_secrets() {
    let Some(lab) = OPEN.get() else { return };
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
    only_what_is_open_reached_imds(&OPEN, &lab, &mut wrong);
    wrong.none();
}

/// Heads that two parsers read differently. What is right is an answer of this status to the first request alone; 0:
/// none, the connection is closed. A length beside a coding is harmless where nothing can follow the first request.
const HEADS: [(&str, u16, &str); 47] = [
    ("bare LF", 200, "GET /latest/meta-data/mac HTTP/1.1\nHost: 169.254.169.254\n\n"),
    ("obs-fold", 400, "GET / HTTP/1.1\r\nHost: 169.254.169.254\r\nX-A: b\r\n c\r\n\r\n"),
    ("folded Host", 400, "GET / HTTP/1.1\r\nHost:\r\n 169.254.169.254\r\n\r\n"),
    ("space before colon", 400, "GET / HTTP/1.1\r\nHost : 169.254.169.254\r\n\r\n"),
    ("NUL in a name", 400, "GET / HTTP/1.1\r\nHost: 169.254.169.254\r\nX-\0A: b\r\n\r\n"),
    ("NUL in a value", 400, "GET / HTTP/1.1\r\nHost: 169.254.169.254\r\nX-A: \0\r\n\r\n"),
    ("CR in a value", 400, "GET / HTTP/1.1\r\nHost: 169.254.169.254\r\nX-A: a\rb\r\n\r\n"),
    ("NUL in the target", 400, "GET /latest/user-data\0 HTTP/1.1\r\nHost: 169.254.169.254\r\n\r\n"),
    ("tab for space", 400, "GET\t/latest/user-data\tHTTP/1.1\r\nHost: 169.254.169.254\r\n\r\n"),
    ("two spaces", 400, "GET  /latest/user-data HTTP/1.1\r\nHost: 169.254.169.254\r\n\r\n"),
    ("space in the target", 400, "GET /latest/user-data x HTTP/1.1\r\nHost: 169.254.169.254\r\n\r\n"),
    ("no version", 400, "GET /latest/user-data\r\n\r\n"),
    ("version 2", 400, "GET /latest/user-data HTTP/2.0\r\nHost: 169.254.169.254\r\n\r\n"),
    ("h2 preface", 0, "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"),
    ("no slash", 400, "GET latest/user-data HTTP/1.1\r\nHost: 169.254.169.254\r\n\r\n"),
    ("asterisk", 404, "GET * HTTP/1.1\r\nHost: 169.254.169.254\r\n\r\n"),
    ("OPTIONS asterisk", 404, "OPTIONS * HTTP/1.1\r\nHost: 169.254.169.254\r\n\r\n"),
    ("authority-form", 404, "GET 169.254.169.254:80 HTTP/1.1\r\nHost: 169.254.169.254\r\n\r\n"),
    ("CONNECT", 404, "CONNECT 169.254.169.254:80 HTTP/1.1\r\nHost: 169.254.169.254\r\n\r\n"),
    ("CONNECT another", 404, "CONNECT evil.example:443 HTTP/1.1\r\nHost: 169.254.169.254\r\n\r\n"),
    ("TRACE", 405, "TRACE / HTTP/1.1\r\nHost: 169.254.169.254\r\nX-Canary: 1\r\n\r\n"),
    ("lower-case method", 405, "get / HTTP/1.1\r\nHost: 169.254.169.254\r\n\r\n"),
    ("made-up method", 405, "LATEST / HTTP/1.1\r\nHost: 169.254.169.254\r\n\r\n"),
    (
        "absolute-form, foreign Host",
        403,
        "GET http://169.254.169.254/ HTTP/1.1\r\nHost: evil.example\r\n\r\n",
    ),
    ("foreign absolute-form", 403, "GET http://evil.example/ HTTP/1.1\r\nHost: 169.254.169.254\r\n\r\n"),
    ("no Host", 403, "GET / HTTP/1.1\r\n\r\n"),
    ("two Hosts", 403, "GET / HTTP/1.1\r\nHost: 169.254.169.254\r\nHost: evil.example\r\n\r\n"),
    ("HTTP/1.0", 404, "GET /latest/user-data HTTP/1.0\r\n\r\n"),
    (
        "HTTP/1.0, kept",
        200,
        "GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\nGET /latest/user-data HTTP/1.0\r\n\r\n",
    ),
    (
        "pipelined",
        200,
        "GET / HTTP/1.1\r\nHost: 169.254.169.254\r\n\r\nGET /latest/user-data HTTP/1.1\r\nHost: 169.254.169.254\r\n\r\n",
    ),
    (
        "pipelined, kept",
        200,
        "GET / HTTP/1.1\r\nHost: 169.254.169.254\r\nConnection: keep-alive\r\n\r\nGET /latest/user-data HTTP/1.1\r\nHost: 169.254.169.254\r\n\r\n",
    ),
    (
        "body that is a request",
        200,
        "GET / HTTP/1.1\r\nHost: 169.254.169.254\r\nContent-Length: 63\r\n\r\nGET /latest/user-data HTTP/1.1\r\nHost: 169.254.169.254\r\n\r\n12345",
    ),
    (
        "chunked GET",
        200,
        "GET / HTTP/1.1\r\nHost: 169.254.169.254\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nGET /latest/user-data HTTP/1.1\r\nHost: 169.254.169.254\r\n\r\n",
    ),
    (
        "two lengths",
        400,
        "GET / HTTP/1.1\r\nHost: 169.254.169.254\r\nContent-Length: 0\r\nContent-Length: 5\r\n\r\n12345",
    ),
    (
        "length that is none",
        400,
        "GET / HTTP/1.1\r\nHost: 169.254.169.254\r\nContent-Length: 0x5\r\n\r\n12345",
    ),
    ("length with sign", 400, "GET / HTTP/1.1\r\nHost: 169.254.169.254\r\nContent-Length: +5\r\n\r\n12345"),
    (
        "length and chunked",
        200,
        "GET / HTTP/1.1\r\nHost: 169.254.169.254\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    ),
    (
        "coding not last",
        400,
        "GET / HTTP/1.1\r\nHost: 169.254.169.254\r\nTransfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n",
    ),
    (
        "unknown coding",
        400,
        "GET / HTTP/1.1\r\nHost: 169.254.169.254\r\nTransfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
    ),
    (
        "h2c",
        200,
        "GET / HTTP/1.1\r\nHost: 169.254.169.254\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\n\r\n",
    ),
    (
        "websocket",
        200,
        "GET / HTTP/1.1\r\nHost: 169.254.169.254\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n",
    ),
    (
        "Host named by Connection",
        200,
        "GET / HTTP/1.1\r\nHost: 169.254.169.254\r\nConnection: close, Host\r\n\r\n",
    ),
    (
        "token named by Connection",
        401,
        "GET / HTTP/1.1\r\nHost: 169.254.169.254\r\nX-aws-ec2-metadata-token: bad\r\nConnection: X-aws-ec2-metadata-token\r\n\r\n",
    ),
    (
        "original URL",
        200,
        "GET / HTTP/1.1\r\nHost: 169.254.169.254\r\nX-Original-URL: /latest/user-data\r\nX-Rewrite-URL: /latest/user-data\r\nX-Canary: 1\r\n\r\n",
    ),
    (
        "another method",
        200,
        "GET / HTTP/1.1\r\nHost: 169.254.169.254\r\nX-HTTP-Method-Override: PUT\r\nX-HTTP-Method: PUT\r\n\r\n",
    ),
    (
        "another host by header",
        200,
        "GET / HTTP/1.1\r\nHost: 169.254.169.254\r\nX-Forwarded-Host: evil.example\r\nForwarded: for=10.0.0.10;host=evil.example\r\n\r\n",
    ),
    (
        "another pod by header",
        200,
        "GET / HTTP/1.1\r\nHost: 169.254.169.254\r\nX-Forwarded-For: 10.0.0.10\r\nX-Real-IP: 10.0.0.10\r\nTrue-Client-IP: 10.0.0.10\r\n\r\n",
    ),
];

#[test]
fn head_that_parsers_read_differently_is_answered_once_and_gives_nothing_away() {
    let Some(lab) = USUAL.get() else { return };
    let (pod, mut wrong) = (lab.pod("own"), Wrong::default());
    for (row, status, request) in HEADS {
        let answers = everything_v4(&pod, request.as_bytes()).unwrap();
        let answered = statuses(&answers);
        let once = answered == [status] || status == 0 && answered.is_empty();
        wrong.unless(once, (row, status), String::from_utf8_lossy(&answers));
        wrong.unless(
            !has_marker(&answers),
            (row, "something of the node's"),
            String::from_utf8_lossy(&answers),
        );
    }
    only_what_is_open_reached_imds(&USUAL, &lab, &mut wrong);
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

/// No token that the agent gives is one of the real service's, and none of that service's is shown to a pod.
#[test]
fn tokens_of_agent_and_real_service_are_worth_nothing_to_each_other() {
    let Some(lab) = Lab::own(&[]) else { return };
    let (pod, mut wrong) = (lab.pod("own"), Wrong::default());
    let token = pod.imds().imds_token(21_600).unwrap();
    wrong.unless(!has_marker(token.as_bytes()), "token", "the real service's");
    let node = rolegate_tests::http::Client::imds(lab.world.topology.node());
    let real = node.imds_token(60).unwrap();
    wrong.unless(node.get_v2("/latest/meta-data/mac", &real).unwrap().status == 200, "real token", "");
    let answer = node.get_v2("/latest/meta-data/mac", &token).unwrap();
    wrong.unless(answer.status == 401, "the agent's token at the real service", &answer);
    wrong.unless_answered(
        401,
        "a real token at the agent",
        &pod.imds().get_v2("/latest/meta-data/mac", &real),
    );
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

fn only_what_is_open_reached_imds(shared: &Shared, lab: &Lab, wrong: &mut Wrong) {
    let open = shared.opens_metadata();
    let never = ["/iam", "identity-credentials", "user-data"];
    let passed = |target: &str| {
        let below = target.starts_with("/latest/meta-data/") || target.starts_with("/latest/dynamic/");
        passed_on_by_default(target) || open && below && !never.iter().any(|never| target.contains(never))
    };
    lab.only_constants_reached_imds(passed, wrong);
}
