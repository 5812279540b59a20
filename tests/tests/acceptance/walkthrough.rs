//! The walkthrough: an unmodified AWS CLI in a pod, S3 that checks policies, and the pod deleted and made again.

use std::sync::Arc;

use rolegate_tests::clients::aws_cli;
use rolegate_tests::moto::Moto;
use rolegate_tests::netns::NetNs;
use rolegate_tests::skip;
use rolegate_tests::world::{RunningPod, World};
use tokio::time::Instant;

use super::UNABLE;

/// What a pod may read, and only a pod.
const PATHS: [&str; 6] = [
    "/latest/meta-data/",
    "/latest/meta-data/iam/info",
    "/latest/meta-data/iam/security-credentials/",
    "/latest/meta-data/iam/security-credentials/MyPodRole",
    "/latest/meta-data/instance-id",
    "/latest/meta-data/placement/region",
];

/// What `aws s3 ls` prints in this pod, output and errors together.
fn s3_ls(pod: &NetNs) -> String {
    let output = aws_cli(pod, &["s3", "ls"], &[("AWS_ENDPOINT_URL_S3", &Moto::endpoint())]).unwrap();
    String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned()
}

/// 500 and an empty body, with a token and without, whatever it asks for.
fn gets_nothing(pod: &RunningPod) {
    let token = pod.imds().imds_token(300).unwrap();
    for path in PATHS {
        for answer in [pod.imds().get(path).unwrap(), pod.imds().get_v2(path, &token).unwrap()] {
            assert_eq!((answer.status, answer.text().as_str()), (500, ""), "{path}");
        }
    }
}

#[test]
fn pod_lists_its_bucket_once_its_role_may() {
    let test = "walkthrough::pod_lists_its_bucket_once_its_role_may";
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
    assert_eq!(world.sts.assume_role_calls(), 1, "it is the same session that lists now");

    // Deleted by force: its container still runs, and is nobody's.
    world.delete(&pod).unwrap();
    let list = "/latest/meta-data/iam/security-credentials/";
    agent.poll("the deleted pod is refused", || Ok(pod.imds().get(list)?.status != 200)).unwrap();
    gets_nothing(&pod);
    let said = s3_ls(pod.net.ns());
    assert!(said.contains(UNABLE), "{said}");

    let again = world.pod("default", "aws-cli", |pod| pod.role("MyPodRole")).unwrap();
    let said = s3_ls(again.net.ns());
    assert!(said.contains("bucket-one"), "{said}");
    gets_nothing(&pod);
    assert!(world.leaks(start).is_empty(), "{:?}", world.leaks(start));
}
