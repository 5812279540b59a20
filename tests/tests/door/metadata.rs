//! Metadata of the instance: what pods are shown of it, and what the real service is asked for that.

use std::collections::BTreeMap;

use crate::lab::{Lab, OPEN, ROLES, USUAL, WIDE, WIDEST, Wrong, only_what_is_open_reached_imds};
use crate::roles::passed_on_by_default;

const INSTANCE: [(&str, &str); 9] = [
    ("/latest/meta-data/instance-id", "i-0123456789abcdef0"),
    ("/latest/meta-data/instance-type", "m5.large"),
    ("/latest/meta-data/ami-id", "ami-0abcdef1234567890"),
    ("/latest/meta-data/local-ipv4", "10.0.0.10"),
    ("/latest/meta-data/mac", "0e:49:61:0f:c3:11"),
    ("/latest/meta-data/placement/availability-zone", "eu-central-1a"),
    ("/latest/meta-data/placement/region", "eu-central-1"),
    ("/latest/meta-data/services/domain", "amazonaws.com"),
    ("/latest/meta-data/services/partition", "aws"),
];

/// P23: what the real service is asked is the normalised path of the list and constants; nothing that a pod sent is with it.
#[test]
fn instance_metadata_is_asked_for_once_with_nothing_of_the_pods() {
    let Some(lab) = Lab::own(&[]) else { return };
    let mut wrong = Wrong::default();
    for pod in ["own", "bare", "forbidden"].map(|name| lab.pod(name)) {
        let token = pod.imds().imds_token(300).unwrap();
        for (path, text) in INSTANCE {
            let old = path.replace("/latest/", "/2009-04-04/");
            for spelling in [path, &format!("{path}/"), &old, &path.replace("meta-data/", "meta-data//./")] {
                let headers =
                    [("X-Canary", "1"), ("User-Agent", "canary"), ("Cookie", "canary"), ("Accept", "canary")];
                let answer = pod.imds().request("GET", spelling, &headers);
                wrong.unless_answered(200, spelling, &answer);
                wrong.unless(answer.is_ok_and(|it| it.text() == text), spelling, text);
            }
            wrong.unless_answered(200, (path, "token"), &pod.imds().get_v2(path, &token));
            wrong.unless_answered(200, (path, "IPv6"), &pod.imds_v6().get(path));
            wrong.unless_answered(404, (path, "query"), &pod.imds().get(&format!("{path}?canary")));
        }
        let identity = pod.imds().get("/latest/dynamic/instance-identity/document");
        wrong.unless_answered(200, "identity", &identity);
        wrong.unless(identity.unwrap().json().unwrap()["region"] == "eu-central-1", "identity", "region");
    }
    let mut asked = BTreeMap::<String, usize>::new();
    for request in lab.world.imds().requests().into_iter().filter(|it| it.at >= lab.start) {
        *asked.entry(request.target).or_default() += 1;
    }
    // The agent asks for its own region and instance as well.
    let once = |path: &str| match path {
        "/latest/meta-data/instance-id" => 2,
        "/latest/meta-data/placement/region" => 2,
        "/latest/dynamic/instance-identity/document" => 2,
        _ => 1,
    };
    for (path, _) in INSTANCE {
        let times = asked.get(path).copied().unwrap_or_default();
        wrong.unless((1..=once(path)).contains(&times), ("times asked", path), times);
    }
    lab.only_constants_reached_imds(passed_on_by_default, &mut wrong);
    wrong.none();
}

#[test]
fn lists_are_made_from_what_is_allowed() {
    let Some(lab) = USUAL.get() else { return };
    let (pod, mut wrong) = (lab.pod("own"), Wrong::default());
    for (path, text) in [
        ("/latest", "dynamic\nmeta-data"),
        ("/latest/", "dynamic\nmeta-data"),
        ("/latest/dynamic/", "instance-identity/"),
        ("/latest/dynamic/instance-identity/", "document"),
        ("/latest/meta-data/placement/", "availability-zone\navailability-zone-id\nregion"),
        ("/latest/meta-data/services/", "domain\npartition"),
    ] {
        let answer = pod.imds().get(path);
        wrong.unless_answered(200, path, &answer);
        wrong.unless(answer.as_ref().is_ok_and(|it| it.text() == text), path, &answer);
    }
    let versions = pod.imds().get("/").unwrap().text();
    let both = ["latest", "1.0"].iter().all(|version| versions.lines().any(|line| line == *version));
    wrong.unless(both, "/", &versions);
    wrong.none();
}

/// Closed whatever is configured.
const NEVER: [&str; 22] = [
    "/latest/user-data",
    "/latest/user-data/",
    "/latest/user-data/x",
    "/2009-04-04/user-data",
    "/1.0/user-data",
    "/latest/meta-data/identity-credentials",
    "/latest/meta-data/identity-credentials/",
    "/latest/meta-data/identity-credentials/ec2/",
    "/latest/meta-data/identity-credentials/ec2/info",
    "/latest/meta-data/identity-credentials/ec2/security-credentials/",
    "/latest/meta-data/identity-credentials/ec2/security-credentials/ec2-instance",
    "/1.0/meta-data/identity-credentials/ec2/security-credentials/ec2-instance",
    "/latest/meta-data/iam/x",
    "/latest/meta-data/iam/info/x",
    "/latest/meta-data/iam/security-credentials-x/",
    "/latest/meta-data/IAM/info",
    "/latest/meta-data/IAM/security-credentials/",
    "/latest/meta-data/x/iam/security-credentials/",
    "/latest/meta-data/User-Data",
    "/latest/dynamic/user-data",
    "/latest/dynamic/iam/info",
    "/latest/dynamic/Identity-Credentials/ec2",
];

/// Of the other tree, closed by default.
const DYNAMIC: [&str; 7] = [
    "/latest/dynamic/instance-identity/pkcs7",
    "/latest/dynamic/instance-identity/rsa2048",
    "/latest/dynamic/instance-identity/signature",
    "/latest/dynamic/instance-identity/document/x",
    "/latest/dynamic/fws/instance-monitoring",
    "/2009-04-04/dynamic/instance-identity/pkcs7",
    "/latest/dynamic/x",
];

/// K6, P24: user data, `iam/` and the instance's own credentials are never asked of the real service, under any flags, and by
/// default nothing of `dynamic/` but the identity document.
#[test]
fn what_nothing_opens_is_not_found_whatever_is_configured() {
    for shared in [&USUAL, &OPEN, &WIDE, &WIDEST] {
        let Some(lab) = shared.get() else { return };
        let (pod, mut wrong) = (lab.pod("own"), Wrong::default());
        let token = pod.imds().imds_token(300).unwrap();
        let dynamic = if shared.opens_metadata() { &[][..] } else { &DYNAMIC };
        for path in NEVER.iter().chain(dynamic) {
            wrong.unless_answered(404, path, &pod.imds().get(path));
            wrong.unless_answered(404, (path, "IPv6"), &pod.imds_v6().get(path));
            wrong.unless_answered(404, (path, "token"), &pod.imds().get_v2(path, &token));
            wrong.unless_answered(404, (path, "HEAD"), &pod.imds().request("HEAD", path, &[]));
            wrong.unless_answered(405, (path, "PUT"), &pod.imds().request("PUT", path, &[]));
            wrong.unless_answered(405, (path, "POST"), &pod.imds().request("POST", path, &[]));
        }
        wrong.unless_answered(200, "document", &pod.imds().get("/latest/dynamic/instance-identity/document"));
        // What of `iam/` is answered is the agent's own word.
        let own = pod.imds().get("/latest/meta-data/iam/info").unwrap().text();
        wrong.unless(own.contains("instance-profile/MyPodRole"), "info", &own);
        only_what_is_open_reached_imds(shared, &lab, &mut wrong);
        wrong.none();
    }
}

#[test]
fn what_is_not_on_the_list_is_closed_until_it_is_configured() {
    let paths = [
        "/latest/meta-data/public-ipv4",
        "/latest/meta-data/public-keys/0/openssh-key",
        "/latest/meta-data/network/interfaces/macs/0e:49:61:0f:c3:11/subnet-id",
        "/latest/meta-data/spot/instance-action",
        "/latest/dynamic/instance-identity/pkcs7",
    ];
    for (shared, status) in [(&USUAL, 404), (&OPEN, 200), (&WIDE, 200)] {
        let Some(lab) = shared.get() else { return };
        let (pod, mut wrong) = (lab.pod("own"), Wrong::default());
        for path in paths {
            wrong.unless_answered(status, path, &pod.imds().get(path));
        }
        let passed = |target: &str| {
            passed_on_by_default(target)
                || status == 200
                    && (target.starts_with("/latest/meta-data/") || target.starts_with("/latest/dynamic/"))
        };
        lab.only_constants_reached_imds(passed, &mut wrong);
        wrong.none();
    }
}

#[test]
fn real_service_that_is_down_is_503_and_credentials_go_on() {
    let Some(lab) = Lab::own(&[]) else { return };
    let (pod, mut wrong) = (lab.pod("own"), Wrong::default());
    let kept = "/latest/meta-data/instance-id";
    wrong.unless_answered(200, "asked for before", &pod.imds().get(kept));
    lab.world.imds().faults().down(true).unwrap();
    wrong.unless_answered(503, "down", &pod.imds().get("/latest/meta-data/mac"));
    wrong.unless_answered(200, "kept", &pod.imds().get(kept));
    wrong.unless_answered(200, "list", &pod.imds().get(ROLES));
    wrong.unless(pod.imds().credentials().is_ok(), "credentials", "");
    lab.world.imds().faults().down(false).unwrap();
    let again = || Ok(pod.imds().get("/latest/meta-data/mac")?.status == 200);
    lab.agent.poll("the service is asked again", again).unwrap();
    lab.world.imds().faults().status(Some(500));
    wrong.unless_answered(503, "500", &pod.imds().get("/latest/meta-data/ami-id"));
    wrong.none();
}
