//! IMDSv2: how a token is got, what it is good for, and where it is needed.

use rolegate_tests::agent::Agent;
use rolegate_tests::http::Client;
use rolegate_tests::world::RunningPod;

use crate::lab::{
    Lab, OWN_DOCUMENT, ROLES, Shared, TOKEN, TOKENS_REQUIRED, TTL, USUAL, Wrong, everything_v4, statuses,
};

const TOKEN_PATH: &str = "/latest/api/token";

#[test]
fn token_is_given_for_every_ttl_that_there_is_and_refused_for_every_other() {
    let Some(lab) = USUAL.get() else { return };
    let (pod, mut wrong) = (lab.pod("own"), Wrong::default());
    for ttl in ["1", "60", "300", "21599", "21600"] {
        for name in [TTL, "x-aws-ec2-metadata-token-ttl-seconds", "X-AWS-EC2-METADATA-TOKEN-TTL-SECONDS"] {
            let answer = pod.imds().request("PUT", TOKEN_PATH, &[(name, ttl)]);
            wrong.unless_answered(200, (name, ttl), &answer);
            let answer = answer.unwrap();
            wrong.unless(answer.header(TTL) == Some(ttl), ("echo", ttl), &answer);
            let fine = answer.body.len() == 56 && answer.body.iter().all(|byte| byte.is_ascii_graphic());
            wrong.unless(fine, ("56 characters, no newline", ttl), &answer);
            wrong.unless(answer.header("content-length") == Some("56"), ("length", ttl), &answer);
        }
    }
    for ttl in ["0", "21601", "99999999999999999999", "abc", "", "-1", "+60", "6e1", "60.0", "60s", "6 0"] {
        let answer = pod.imds().request("PUT", TOKEN_PATH, &[(TTL, ttl)]);
        wrong.unless_answered(400, ("ttl", ttl), &answer);
    }
    wrong.unless_answered(400, "no ttl", &pod.imds().request("PUT", TOKEN_PATH, &[]));
    let twice = pod.imds().request("PUT", TOKEN_PATH, &[(TTL, "60"), (TTL, "60")]);
    wrong.unless_answered(400, "ttl twice", &twice);
    wrong.none();
}

#[test]
fn token_is_put_on_one_path_by_nobody_that_forwards() {
    let Some(lab) = USUAL.get() else { return };
    let (pod, mut wrong) = (lab.pod("own"), Wrong::default());
    for (status, method, target, forwarded) in [
        (200, "PUT", TOKEN_PATH, None),
        (200, "PUT", "//latest//api/./token", None),
        (403, "PUT", TOKEN_PATH, Some("1.2.3.4")),
        (403, "PUT", TOKEN_PATH, Some("")),
        (403, "PUT", "/latest/api/token/", None),
        (403, "PUT", "/2021-03-23/api/token", None),
        (403, "PUT", "/1.0/api/token", None),
        (405, "GET", TOKEN_PATH, None),
        (405, "HEAD", TOKEN_PATH, None),
        (405, "POST", TOKEN_PATH, None),
        (405, "DELETE", TOKEN_PATH, None),
        (405, "OPTIONS", TOKEN_PATH, None),
        (405, "GET", "/2021-03-23/api/token", None),
        (405, "PUT", ROLES, None),
        (405, "POST", OWN_DOCUMENT, None),
        (405, "PUT", "/latest/meta-data/instance-id", None),
    ] {
        let mut headers = vec![(TTL, "60"), ("Content-Length", "0")];
        headers.extend(forwarded.map(|value| ("X-Forwarded-For", value)));
        let answer = pod.imds().request(method, target, &headers);
        wrong.unless_answered(status, (method, target, forwarded), &answer);
        let allow = answer.as_ref().ok().and_then(|answer| answer.header("allow"));
        let wanted = match (status, target.ends_with("/token")) {
            (405, true) => Some("OPTIONS, PUT"),
            (405, false) => Some("GET, HEAD"),
            _ => None,
        };
        wrong.unless(allow == wanted, ("Allow", method, target), &answer);
    }
    wrong.none();
}

#[test]
fn body_and_expectation_of_a_put_change_nothing() {
    let Some(lab) = USUAL.get() else { return };
    let (pod, mut wrong) = (lab.pod("own"), Wrong::default());
    for rest in [
        "Expect: 100-continue\r\nContent-Length: 0\r\n\r\n",
        "Expect: 100-continue\r\nContent-Length: 2\r\n\r\n{}",
        "Expect: 100-continue\r\n\r\n",
        "Content-Length: 2\r\n\r\n{}",
        "Transfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n",
    ] {
        let request = format!("PUT {TOKEN_PATH} HTTP/1.1\r\nHost: 169.254.169.254\r\n{TTL}: 60\r\n{rest}");
        let answers = everything_v4(&pod, request.as_bytes()).unwrap();
        let last = statuses(&answers).into_iter().rfind(|status| *status != 100);
        wrong.unless(last == Some(200), rest, String::from_utf8_lossy(&answers));
    }
    wrong.none();
}

#[test]
fn answer_to_a_token_says_how_long_it_is_still_good_until_it_is_not() {
    let Some(lab) = USUAL.get() else { return };
    let pod = lab.pod("own");
    let token = pod.imds().imds_token(3).unwrap();
    let mut left = vec![3];
    let expired = || {
        let answer = pod.imds().role_list(&token)?;
        match answer.header(TTL) {
            Some(seconds) => left.push(seconds.parse::<u32>()?),
            None => assert_eq!((answer.status, answer.body.len()), (401, 0), "{answer:?}"),
        }
        Ok(answer.status == 401)
    };
    lab.agent.poll("the token expires", expired).unwrap();
    assert!(left.is_sorted_by(|before, after| before >= after) && !left.contains(&0), "{left:?}");
}

/// Tokens that are not good at the first address of `lab`, beside one that is. `other` has the same address at another node.
fn bad_tokens(lab: &Lab, other: &Lab) -> (String, Vec<(&'static str, String)>) {
    let (pod, twin) = (lab.pod("own"), other.pod("own"));
    assert_eq!(pod.net.ips(), twin.net.ips(), "only the node's key tells them apart");
    let token = |client: Client<'_>| client.imds_token(300).unwrap();
    let good = token(pod.imds());
    let mut flipped = good.clone().into_bytes();
    flipped[20] = if flipped[20] == b'A' { b'B' } else { b'A' };
    let bad = vec![
        ("none at all", String::new()),
        ("garbled", "INVALID".to_owned()),
        ("of the right length", "A".repeat(56)),
        ("one character changed", String::from_utf8(flipped).unwrap()),
        ("cut", good[..55].to_owned()),
        ("longer", format!("{good}A")),
        ("in quotes", format!("\"{good}\"")),
        ("twice in one header", format!("{good}, {good}")),
        ("of another pod", token(lab.pod("neighbour").imds())),
        ("of the pod's other address", token(pod.imds_v6())),
        ("of the same address at another node", token(twin.imds())),
    ];
    (good, bad)
}

/// P26: where tokens are required every GET without a good one is 401; and so is, everywhere, one that was given to another
/// address, by another node's key, or by nobody.
#[test]
fn token_that_is_not_of_this_address_and_node_is_401_and_empty_and_so_is_none_where_one_is_required() {
    let (Some(allow), Some(deny)) = (Lab::own(&[]), Lab::own(&["--imds-v1=deny"])) else { return };
    let paths = [
        "/",
        "/latest/",
        "/latest/meta-data/",
        "/latest/meta-data/iam/",
        "/latest/meta-data/iam/info",
        ROLES,
        OWN_DOCUMENT,
        "/latest/meta-data/instance-id",
        "/latest/dynamic/instance-identity/document",
        "/latest/user-data",
        "/1.0/meta-data/mac",
        "/nothing",
    ];
    let mut wrong = Wrong::default();
    for (lab, other, required) in [(&allow, &deny, false), (&deny, &allow, true)] {
        let pod = lab.pod("own");
        let (good, bad) = bad_tokens(lab, other);
        for path in paths {
            for method in ["GET", "HEAD"] {
                for (row, token) in &bad {
                    let answer = pod.imds().request(method, path, &[(TOKEN, token)]);
                    wrong.unless_answered(401, (method, path, row), &answer);
                }
                let twice = pod.imds().request(method, path, &[(TOKEN, &good), (TOKEN, &good)]);
                wrong.unless_answered(401, (method, path, "twice"), &twice);
                let none = pod.imds().request(method, path, &[]);
                let refused = none.as_ref().is_ok_and(|it| it.status == 401);
                wrong.unless(refused == required, (method, path, "no token"), &none);
            }
            let answer = pod.imds().get_v2(path, &good).unwrap();
            wrong.unless([200, 404].contains(&answer.status), (path, "the good one"), &answer);
        }
    }
    // Who is nobody is told the same.
    for (lab, required) in [(&allow, false), (&deny, true)] {
        let pod = lab.pod("own");
        let good = pod.imds().imds_token(300).unwrap();
        lab.world.delete(&pod).unwrap();
        let gone = || Ok(pod.imds().get_v2(ROLES, &good)?.status == 500);
        lab.agent.poll("the pod is gone", gone).unwrap();
        let none = pod.imds().get(ROLES);
        wrong.unless_answered(if required { 401 } else { 500 }, "nobody, no token", &none);
        wrong.unless_answered(401, "nobody, bad token", &pod.imds().get_v2(ROLES, "INVALID"));
    }
    wrong.none();
}

#[test]
fn name_of_the_tokens_header_may_be_in_any_case() {
    let Some(lab) = USUAL.get() else { return };
    let (pod, mut wrong) = (lab.pod("own"), Wrong::default());
    let token = pod.imds().imds_token(300).unwrap();
    for name in [TOKEN, "x-aws-ec2-metadata-token", "X-AWS-EC2-METADATA-TOKEN", "X-Aws-Ec2-Metadata-Token"] {
        let answer = pod.imds().request("GET", ROLES, &[(name, &token)]);
        wrong.unless_answered(200, name, &answer);
        wrong.unless(answer.as_ref().is_ok_and(|it| it.header(TTL).is_some()), name, &answer);
        let bad = pod.imds().request("GET", ROLES, &[(name, "INVALID")]);
        wrong.unless_answered(401, name, &bad);
    }
    wrong.none();
}

/// Every path without a token is `status` for `pod`, and 200 with one.
fn without_a_token(shared: &Shared, pod: &'static str, status: u16) {
    let Some(lab) = shared.get() else { return };
    let (pod, mut wrong) = (lab.pod(pod), Wrong::default());
    let token = pod.imds().imds_token(300).unwrap();
    for path in ["/", "/latest/", "/latest/meta-data/iam/info", ROLES, OWN_DOCUMENT, "/1.0/meta-data/mac"] {
        let tokenless = pod.imds().get(path);
        wrong.unless_answered(status, ("no token", path), &tokenless);
        wrong.unless(tokenless.is_ok_and(|it| it.header(TTL).is_none()), path, "a TTL without a token");
        wrong.unless_answered(200, ("token", path), &pod.imds().get_v2(path, &token));
        wrong.unless_answered(status, ("HEAD", path), &pod.imds().request("HEAD", path, &[]));
    }
    wrong.none();
}

#[test]
fn request_without_a_token_is_served_by_default() {
    without_a_token(&USUAL, "own", 200);
}

#[test]
fn request_without_a_token_is_401_where_tokens_are_required() {
    without_a_token(&TOKENS_REQUIRED, "own", 401);
}

#[test]
fn namespace_may_require_tokens_where_the_agent_does_not() {
    without_a_token(&USUAL, "v1-denied", 401);
}

#[test]
fn namespace_may_go_without_tokens_where_the_agent_requires_them() {
    without_a_token(&TOKENS_REQUIRED, "v1-allowed", 200);
}

#[test]
fn path_that_is_nothing_is_401_without_a_token_where_tokens_are_required() {
    let mut wrong = Wrong::default();
    for (shared, name, tokenless) in [
        (&TOKENS_REQUIRED, "own", 401),
        (&TOKENS_REQUIRED, "v1-allowed", 404),
        (&USUAL, "own", 404),
        (&USUAL, "v1-denied", 401),
    ] {
        let Some(lab) = shared.get() else { return };
        let pod = lab.pod(name);
        let token = pod.imds().imds_token(300).unwrap();
        wrong.unless_answered(tokenless, (name, "no token"), &pod.imds().get("/nothing"));
        wrong.unless_answered(404, (name, "token"), &pod.imds().get_v2("/nothing", &token));
    }
    wrong.none();
}

#[test]
fn token_outlives_the_agent_that_gave_it() {
    let Some(lab) = Lab::own(&["--imds-v1=deny"]) else { return };
    let pod = lab.pod("own");
    let token = pod.imds().imds_token(21_600).unwrap();
    let still_good = |agent: &Agent, pod: &RunningPod| {
        agent.poll("the list is answered", || Ok(pod.imds().role_list(&token)?.status != 500)).unwrap();
        let list = pod.imds().role_list(&token).unwrap();
        assert_eq!((list.status, list.text().as_str()), (200, "MyPodRole"), "{}", agent.log());
        let left: u32 = list.header(TTL).unwrap().parse().unwrap();
        assert!((1..=21_600).contains(&left), "{left}");
    };
    still_good(&lab.agent, &pod);
    lab.agent.kill9().unwrap();
    let agent = lab.world.agent(&["--imds-v1=deny"]).unwrap();
    still_good(&agent, &pod);
}
