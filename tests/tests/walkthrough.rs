//! The walkthrough: an unmodified AWS CLI in a pod, S3 that checks policies, and the pod deleted and made again.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::sync::Arc;

use rolegate_tests::clients::aws_cli;
use rolegate_tests::moto::Moto;
use rolegate_tests::netns::NetNs;
use rolegate_tests::skip;
use rolegate_tests::world::World;
use tokio::time::Instant;

/// What `aws s3 ls` prints in this pod, output and errors together.
fn s3_ls(pod: &NetNs) -> String {
    let output = aws_cli(pod, &["s3", "ls"], &[("AWS_ENDPOINT_URL_S3", &Moto::endpoint())]).unwrap();
    String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned()
}

#[test]
fn pod_lists_its_bucket_once_its_role_may() {
    let test = "pod_lists_its_bucket_once_its_role_may";
    if let Some(why) = World::missing().or_else(Moto::missing) {
        return skip(test, &why);
    }
    let world = World::start().unwrap();
    let moto = Arc::new(Moto::start(world.topology.world()).unwrap());
    moto.create_bucket("bucket-one").unwrap();
    moto.create_role("MyPodRole").unwrap();
    world.issue_by(&moto);
    world.namespace("default", &["MyPodRole"]).unwrap();
    let agent = world.agent(&[]).unwrap();
    let start = Instant::now();

    let pod = world.pod("default", "aws-cli", |pod| pod.role("MyPodRole")).unwrap();
    let refused = "An error occurred (AccessDenied) when calling the ListBuckets operation: Access Denied";
    let said = s3_ls(pod.net.ns());
    assert!(said.contains(refused), "{said}\n{}", agent.log());

    moto.attach_policy("MyPodRole", "arn:aws:iam::aws:policy/AmazonS3ReadOnlyAccess").unwrap();
    let said = s3_ls(pod.net.ns());
    assert!(said.contains("bucket-one"), "{said}");

    // Deleted by force: its container still runs, and is nobody's.
    world.delete(&pod).unwrap();
    let list = "/latest/meta-data/iam/security-credentials/";
    agent.poll("the deleted pod is refused", || Ok(pod.imds().get(list)?.status != 200)).unwrap();
    for path in [list.to_owned(), format!("{list}MyPodRole")] {
        let answer = pod.imds().get(&path).unwrap();
        assert_eq!((answer.status, answer.text().as_str()), (500, ""), "{path}");
    }

    let again = world.pod("default", "aws-cli", |pod| pod.role("MyPodRole")).unwrap();
    let said = s3_ls(again.net.ns());
    assert!(said.contains("bucket-one"), "{said}");
    assert!(world.leaks(start).is_empty(), "{:?}", world.leaks(start));
}
