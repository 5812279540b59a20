//! moto as the judge of what a session may do: the S3 half of the walkthrough, without an agent.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use rolegate_tests::clients::aws_cli;
use rolegate_tests::moto::{Moto, Session};
use rolegate_tests::topology::Topology;
use rolegate_tests::{netns, skip};

const READ_ONLY: &str = "arn:aws:iam::aws:policy/AmazonS3ReadOnlyAccess";

fn list_buckets(topology: &Topology, session: &Session, secret: &str) -> (String, String) {
    let output = aws_cli(
        topology.node(),
        &["s3", "ls"],
        &[
            ("AWS_ENDPOINT_URL_S3", &Moto::endpoint()),
            ("AWS_ACCESS_KEY_ID", &session.access_key_id),
            ("AWS_SECRET_ACCESS_KEY", secret),
            ("AWS_SESSION_TOKEN", &session.session_token),
        ],
    )
    .unwrap();
    (
        String::from_utf8_lossy(&output.stdout).into_owned(),
        String::from_utf8_lossy(&output.stderr).into_owned(),
    )
}

#[test]
fn session_may_list_buckets_once_its_role_has_the_policy() {
    if let Some(why) = netns::missing().or_else(Moto::missing) {
        return skip("session_may_list_buckets_once_its_role_has_the_policy", &why);
    }
    let topology = Topology::new().unwrap();
    let moto = Moto::start(topology.world()).unwrap();
    moto.create_bucket("bucket-one").unwrap();
    moto.create_role("MyPodRole").unwrap();
    let session =
        moto.assume_role("arn:aws:iam::123456789012:role/MyPodRole", "default.default", 3600).unwrap();

    let (_, refused) = list_buckets(&topology, &session, &session.secret_access_key);
    assert!(
        refused.contains(
            "An error occurred (AccessDenied) when calling the ListBuckets operation: Access Denied"
        ),
        "{refused}"
    );

    moto.attach_policy("MyPodRole", READ_ONLY).unwrap();
    let (listed, _) = list_buckets(&topology, &session, &session.secret_access_key);
    assert!(listed.contains("bucket-one"), "{listed}");

    let (_, forged) = list_buckets(&topology, &session, "not-its-secret");
    assert!(forged.contains("SignatureDoesNotMatch"), "{forged}");

    moto.detach_policy("MyPodRole", READ_ONLY).unwrap();
    let (_, refused) = list_buckets(&topology, &session, &session.secret_access_key);
    assert!(refused.contains("AccessDenied"), "{refused}");
}
