//! The role list, the credentials and the rest of `iam/`: exact bytes, every spelling, one role only.

use regex::Regex;
use rolegate_tests::world::{NODE_ROLE, arn};

use crate::lab::{OWN_DOCUMENT, ROLES, USUAL, Wrong, everything_v4, statuses};

/// Below `iam/security-credentials/`, in every spelling that normalises to it, is the pod's own role.
#[test]
fn list_is_the_bare_name_in_every_spelling_that_normalises() {
    let Some(lab) = USUAL.get() else { return };
    let (pod, mut wrong) = (lab.pod("own"), Wrong::default());
    let token = pod.imds().imds_token(300).unwrap();
    let mut targets = Vec::new();
    for version in ["latest", "1.0", "2009-04-04", "2024-04-11"] {
        targets.push(format!("/{version}/meta-data/iam/security-credentials"));
        targets.push(format!("/{version}/meta-data/iam/security-credentials/"));
    }
    targets.extend(
        [
            "//latest//meta-data///iam/security-credentials//",
            "/latest/./meta-data/iam/./security-credentials/",
            "/latest/meta-data/x/../iam/security-credentials/",
            "/latest/meta-data/iam/security-credentials/x/..",
            "/latest/meta-data/%2e/iam/security-credentials/",
            "/latest/meta-data%2Fiam%2fsecurity-credentials",
            "/latest/meta-data/%69%61%6D/security-credentials/",
            "/latest/meta-data/iam/security-credentials/?",
            "http://169.254.169.254/latest/meta-data/iam/security-credentials/",
        ]
        .map(str::to_owned),
    );
    for target in targets {
        for client in [pod.imds(), pod.imds_v6()] {
            let answer = client.get(&target);
            wrong.unless_answered(200, &target, &answer);
            let Ok(answer) = answer else { continue };
            wrong.unless(answer.body == b"MyPodRole", &target, &answer);
            wrong.unless(answer.header("content-length") == Some("9"), &target, &answer);
        }
        wrong.unless_answered(200, (&target, "token"), &pod.imds().get_v2(&target, &token));
    }
    for target in [
        "/latest/meta-data/iam/security-credentials%252f",
        "/latest/meta-data/../iam/security-credentials/",
        "/latest/meta-data/IAM/security-credentials/",
        "/latest/meta-data/iam/security-credentials;/",
        "/latest/meta-data/iam/security-credentials/%",
        "/2009-4-4/meta-data/iam/security-credentials/",
        "/1.1/meta-data/iam/security-credentials/",
        "/meta-data/iam/security-credentials/",
        "/../latest/meta-data/iam/security-credentials/",
    ] {
        wrong.unless_answered(404, target, &pod.imds().get(target));
    }
    lab.only_constants_reached_imds(passed_on_by_default, &mut wrong);
    wrong.none();
}

#[test]
fn document_has_the_seven_keys_in_the_order_of_the_real_one() {
    let Some(lab) = USUAL.get() else { return };
    let (pod, mut wrong) = (lab.pod("own"), Wrong::default());
    let time = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ";
    let whole = Regex::new(&format!(
        r#"^\{{\s*"Code" : "Success",\s*"LastUpdated" : "{time}",\s*"Type" : "AWS-HMAC",\s*"AccessKeyId" : "\w+",\s*"SecretAccessKey" : "[^"\s]+",\s*"Token" : "[^"\s]+",\s*"Expiration" : "{time}"\s*\}}\s*$"#
    ))
    .unwrap();
    let mut bodies = Vec::new();
    for client in [pod.imds(), pod.imds_v6()] {
        let answer = client.get(OWN_DOCUMENT);
        wrong.unless_answered(200, "document", &answer);
        let text = answer.unwrap().text();
        wrong.unless(whole.is_match(&text), "keys", &text);
        bodies.push(text);
    }
    wrong.unless(bodies[0] == bodies[1], "one session over IPv4 and IPv6", &bodies);

    let document: serde_json::Value = serde_json::from_str(&bodies[0]).unwrap();
    let at = |name: &str| {
        let text = document[name].as_str().unwrap();
        time::OffsetDateTime::parse(text, &time::format_description::well_known::Rfc3339).unwrap()
    };
    let left = at("Expiration") - time::OffsetDateTime::now_utc();
    wrong.unless(left >= time::Duration::minutes(30), "lifetime", left);
    wrong.unless(at("LastUpdated") < at("Expiration"), "updated", &document);
    let issued = lab.world.sts.issued(document["AccessKeyId"].as_str().unwrap()).unwrap();
    wrong.unless(issued.role == arn("MyPodRole"), "role", &issued);
    let told = time::OffsetDateTime::from(issued.expiration).replace_nanosecond(0).unwrap();
    wrong.unless(at("Expiration") == told, "the expiry that STS gave", (&document, told));
    wrong.none();
}

#[test]
fn role_in_the_path_must_be_the_pods_own() {
    let Some(lab) = USUAL.get() else { return };
    let mut wrong = Wrong::default();
    let pathed = "arn%3Aaws%3Aiam%3A%3A123456789012%3Arole%2Fteam%2Fapp%2FPathRole";
    let own_arn = arn("MyPodRole");
    let rows = [
        ("own", "MyPodRole", 200),
        ("own", "MyPodRole/", 200),
        ("own", "MyPodRole//", 200),
        ("own", "MyPodRol%65", 200),
        ("own", &own_arn, 200),
        ("own", "arn%3Aaws%3Aiam%3A%3A123456789012%3Arole%2FMyPodRole", 200),
        ("own", "MyPodRol%2565", 404),
        ("own", "mypodrole", 404),
        ("own", "MyPodRole2", 404),
        ("own", "x/MyPodRole", 404),
        ("own", "OtherRole", 404),
        ("own", "OtherRole,MyPodRole", 404),
        ("own", NODE_ROLE, 404),
        ("own", "arn:aws:iam::210987654321:role/MyPodRole", 404),
        ("own", "arn:aws-cn:iam::123456789012:role/MyPodRole", 404),
        ("by-arn", "MyPodRole", 200),
        ("by-arn", &own_arn, 200),
        ("pathed", "PathRole", 200),
        ("pathed", "team/app/PathRole", 200),
        ("pathed", "team%2Fapp%2FPathRole", 200),
        ("pathed", pathed, 200),
        ("pathed", "app/PathRole", 404),
        ("pathed", "team/other/PathRole", 404),
        ("pathed", "MyPodRole", 404),
        ("bare", "MyPodRole", 404),
        ("bare", NODE_ROLE, 404),
        ("forbidden", "OtherRole", 200),
        ("forbidden", "MyPodRole", 404),
        ("forbidden", NODE_ROLE, 404),
    ];
    for (name, asked, status) in rows {
        let pod = lab.pod(name);
        let answer = pod.imds().get(&format!("{ROLES}{asked}"));
        wrong.unless_answered(status, (name, asked), &answer);
        let Some(answer) = answer.ok().filter(|answer| answer.status == 200) else { continue };
        let document = answer.json().unwrap();
        let refused = name == "forbidden";
        wrong.unless((document["Code"] == "Success") != refused, (name, asked), &document);
        wrong.unless(document.get("AccessKeyId").is_none() == refused, (name, asked), &document);
    }
    wrong.none();
}

#[test]
fn pod_without_a_role_is_answered_as_an_instance_without_a_profile() {
    let Some(lab) = USUAL.get() else { return };
    let (pod, mut wrong) = (lab.pod("bare"), Wrong::default());
    let token = pod.imds().imds_token(300).unwrap();
    for path in [
        "/latest/meta-data/iam",
        "/latest/meta-data/iam/",
        "/latest/meta-data/iam/info",
        ROLES,
        ROLES.trim_end_matches('/'),
        OWN_DOCUMENT,
    ] {
        wrong.unless_answered(404, path, &pod.imds().get(path));
        wrong.unless_answered(404, (path, "token"), &pod.imds().get_v2(path, &token));
        wrong.unless_answered(404, (path, "IPv6"), &pod.imds_v6().get(path));
    }
    wrong.unless_answered(200, "the rest", &pod.imds().get("/latest/meta-data/"));
    wrong.none();
}

#[test]
fn role_that_the_namespace_forbids_is_listed_and_its_document_says_how_to_allow_it() {
    let Some(lab) = USUAL.get() else { return };
    let (pod, mut wrong) = (lab.pod("forbidden"), Wrong::default());
    let list = pod.imds().get(ROLES);
    wrong.unless_answered(200, "list", &list);
    wrong.unless(list.as_ref().is_ok_and(|list| list.body == b"OtherRole"), "list", &list);
    let document = pod.imds().get(&format!("{ROLES}OtherRole"));
    wrong.unless_answered(200, "document", &document);
    let document = document.unwrap().json().unwrap();
    wrong.unless(document["Code"] == "AssumeRoleUnauthorizedAccess", "Code", &document);
    let message = document["Message"].as_str().unwrap_or_default();
    let command = "kubectl annotate namespace default";
    wrong.unless(message.contains(command) && message.contains("OtherRole"), "Message", message);
    wrong.unless(!message.contains(NODE_ROLE), "Message", message);
    let calls = lab.world.sts.calls();
    wrong.unless(calls.iter().all(|call| call.role != arn("OtherRole")), "calls", &calls);
    wrong.none();
}

#[test]
fn info_is_made_from_the_pods_role() {
    let Some(lab) = USUAL.get() else { return };
    let (mut wrong, info) = (Wrong::default(), "/latest/meta-data/iam/info");
    for (name, profile) in [("own", "MyPodRole"), ("pathed", "team/app/PathRole")] {
        let answer = lab.pod(name).imds().get(info);
        wrong.unless_answered(200, name, &answer);
        let document = answer.unwrap().json().unwrap();
        let arn = format!("arn:aws:iam::123456789012:instance-profile/{profile}");
        wrong.unless(document["Code"] == "Success", name, &document);
        wrong.unless(document["InstanceProfileArn"] == *arn, name, &document);
    }
    let directory = lab.pod("own").imds().get("/latest/meta-data/iam/");
    wrong.unless_answered(200, "directory", &directory);
    wrong.unless(directory.unwrap().text() == "info\nsecurity-credentials/", "directory", "");
    wrong.none();
}

#[test]
fn head_is_answered_as_get_without_the_body() {
    let Some(lab) = USUAL.get() else { return };
    let (pod, mut wrong) = (lab.pod("own"), Wrong::default());
    for path in
        ["/", "/latest/", ROLES, OWN_DOCUMENT, "/latest/meta-data/instance-id", "/latest/user-data", "/x"]
    {
        let get = pod.imds().get(path).unwrap();
        let request = format!("HEAD {path} HTTP/1.1\r\nHost: 169.254.169.254\r\n\r\n");
        let answers = everything_v4(&pod, request.as_bytes()).unwrap();
        let text = String::from_utf8_lossy(&answers);
        wrong.unless(statuses(&answers) == [get.status], path, &text);
        wrong.unless(text.ends_with("\r\n\r\n"), (path, "no body"), &text);
        let length = format!("content-length: {}\r\n", get.body.len());
        wrong.unless(text.to_lowercase().contains(&length), (path, &length), &text);
    }
    wrong.none();
}

/// What the default allow-list passes on, written down a second time.
pub(crate) fn passed_on_by_default(target: &str) -> bool {
    let one = |prefix: &str| target.strip_prefix(prefix).is_some_and(|rest| !rest.contains('/'));
    [
        "/latest/dynamic/instance-identity/document",
        "/latest/meta-data/ami-id",
        "/latest/meta-data/hostname",
        "/latest/meta-data/instance-id",
        "/latest/meta-data/instance-type",
        "/latest/meta-data/mac",
    ]
    .contains(&target)
        || one("/latest/meta-data/placement/")
        || one("/latest/meta-data/services/")
        || one("/latest/meta-data/local-")
}
