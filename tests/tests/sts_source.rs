//! The real source of sessions against a double of STS that checks signatures, trust, ids and durations.
#![allow(clippy::unwrap_used, clippy::panic, reason = "what fails in a test's helper fails the test")]

use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, SystemTime};

use aws_config::{BehaviorVersion, Region, SdkConfig};
use aws_credential_types::Credentials;
use aws_credential_types::provider::SharedCredentialsProvider;
use futures::future::join_all;
use rolegate::credentials::{
    Ask, AssumeRoleSource, Broker, BrokerError, CredentialSource, Session, SessionKey, SourceError,
};
use rolegate::metrics::Registry;
use rolegate::types::{Clock, ExternalId, PodUid, RoleArn, SessionName};
use rolegate_tests::sts::{Call, Fault, SECRET_MARK, Sts, TOKEN_MARK};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::Instant;
use tokio_util::task::TaskTracker;

const NODE: &str = "arn:aws:iam::123456789012:role/nodes.example.cluster.k8s.local";
const NODE_KEY: (&str, &str, &str) = ("ASIANODENODENODENODE", "node-secret", "node-token");
const ROLE: &str = "arn:aws:iam::123456789012:role/MyPodRole";
const HOUR: Duration = Duration::from_secs(3_600);

/// The trust policy of a role that EC2 and the node may assume.
fn trust(principal: &str, condition: &str) -> String {
    format!(
        r#"{{"Version":"2012-10-17","Statement":[
        {{"Sid":"","Effect":"Allow","Principal":{{"Service":"ec2.amazonaws.com"}},"Action":"sts:AssumeRole"}},
        {{"Sid":"","Effect":"Allow","Principal":{{"AWS":"{principal}"}},"Action":"sts:AssumeRole"{condition}}}]}}"#
    )
}

/// STS with the node's own session and `MyPodRole`, which trusts it.
fn sts() -> Sts {
    let sts = Sts::on_loopback().unwrap();
    sts.add_principal(NODE_KEY.0, NODE_KEY.1, Some(NODE_KEY.2), NODE);
    sts.put_role("MyPodRole", &trust(NODE, ""), HOUR * 2).unwrap();
    sts
}

fn settings(url: &str, region: &str, secret: &str) -> SdkConfig {
    let own = Credentials::new(NODE_KEY.0, secret, Some(NODE_KEY.2.into()), None, "test");
    SdkConfig::builder()
        .behavior_version(BehaviorVersion::latest())
        .region(Region::new(region.to_owned()))
        .credentials_provider(SharedCredentialsProvider::new(own))
        .endpoint_url(url)
        .build()
}

fn source(sts: &Sts) -> AssumeRoleSource {
    AssumeRoleSource::new(&settings(&sts.url(), "eu-central-1", NODE_KEY.1), true, Clock::system())
}

fn config(regional_endpoint: bool) -> rolegate::config::Credentials {
    rolegate::config::Credentials {
        refresh_age: HOUR / 4,
        error_ttl: None,
        calls_in_flight: 32,
        calls_burst: 50,
        calls_per_second: 5,
        prefetch: true,
        region: None,
        regional_endpoint,
    }
}

fn key(external_id: Option<&str>, duration: Duration) -> SessionKey {
    SessionKey {
        role: RoleArn::parse(ROLE).unwrap(),
        external_id: external_id.map(|id| ExternalId::parse(id).unwrap()),
        session_name: SessionName::parse("default.aws-cli").unwrap(),
        duration,
    }
}

async fn fetch(sts: &Sts) -> Result<Session, SourceError> {
    source(sts).fetch(key(None, HOUR)).await
}

fn last(sts: &Sts) -> Call {
    sts.calls().pop().unwrap()
}

#[tokio::test]
async fn a_session_is_the_one_that_sts_issued_for_this_role_name_and_duration() {
    let sts = sts();
    let session = fetch(&sts).await.unwrap();
    let issued = sts.issued(&session.access_key_id).unwrap();
    assert_eq!((issued.role.as_str(), issued.session_name.as_str()), (ROLE, "default.aws-cli"));
    assert_eq!(
        (session.secret_access_key.expose(), session.token.expose()),
        (&*issued.secret, &*issued.token)
    );
    assert!(session.token.expose().starts_with(TOKEN_MARK));
    assert!(session.secret_access_key.expose().starts_with(SECRET_MARK));
    let unix = |at: SystemTime| at.duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs();
    assert_eq!(unix(session.expiration), unix(issued.expiration));
    let call = last(&sts);
    assert_eq!((call.duration, call.region.as_str()), (Some(HOUR), "eu-central-1"));
    assert_eq!(
        call.principal,
        "arn:aws:sts::123456789012:assumed-role/nodes.example.cluster.k8s.local/i-0123456789abcdef0"
    );
    assert!(!format!("{session:?}").contains("Planted"));
}

#[tokio::test]
async fn a_trust_policy_of_another_node_is_a_refusal_with_the_words_of_sts() {
    let sts = sts();
    sts.put_role("MyPodRole", &trust("arn:aws:iam::123456789012:role/nodes.cluster.k8s.local", ""), HOUR)
        .unwrap();
    let SourceError::Unauthorized { message } = fetch(&sts).await.unwrap_err() else { panic!() };
    assert_eq!(
        message,
        "User: arn:aws:sts::123456789012:assumed-role/nodes.example.cluster.k8s.local/i-0123456789abcdef0 is not \
         authorized to perform: sts:AssumeRole on resource: arn:aws:iam::123456789012:role/MyPodRole"
    );
    sts.put_role("MyPodRole", &trust(NODE, ""), HOUR).unwrap();
    sts.put_permissions(NODE, r#"{"Statement":[]}"#).unwrap();
    assert!(matches!(fetch(&sts).await, Err(SourceError::Unauthorized { .. })));
    sts.remove_role("MyPodRole");
    assert!(matches!(fetch(&sts).await, Err(SourceError::Unauthorized { .. })));
    assert_eq!(sts.assume_role_calls(), 3);
}

#[tokio::test]
async fn the_external_id_reaches_sts_and_counts() {
    let sts = sts();
    let condition = r#","Condition":{"StringEquals":{"sts:ExternalId":"a:b/c=d"}}"#;
    sts.put_role("MyPodRole", &trust(NODE, condition), HOUR).unwrap();
    let source = source(&sts);
    assert!(source.fetch(key(Some("a:b/c=d"), HOUR)).await.is_ok());
    for wrong in [Some("other"), None] {
        let refused = source.fetch(key(wrong, HOUR)).await;
        assert!(matches!(refused, Err(SourceError::Unauthorized { .. })), "{refused:?}");
        assert_eq!(last(&sts).external_id.as_deref(), wrong);
    }
}

#[tokio::test]
async fn durations_that_sts_does_not_give_are_rejected_with_its_code() {
    let sts = sts();
    let rejection = async |duration| match source(&sts).fetch(key(None, duration)).await {
        Err(SourceError::Rejected { code, message }) if code == "ValidationError" => message,
        other => panic!("{other:?}"),
    };
    assert!(rejection(HOUR * 2).await.contains("1 hour session limit for roles assumed by role chaining"));
    assert!(rejection(Duration::from_secs(600)).await.contains("greater than or equal to 900"));
    sts.add_principal(NODE_KEY.0, NODE_KEY.1, Some(NODE_KEY.2), "arn:aws:iam::123456789012:user/node");
    sts.put_role("MyPodRole", &trust("*", ""), HOUR).unwrap();
    assert!(rejection(HOUR * 2).await.contains("MaxSessionDuration"));
}

#[tokio::test]
async fn throttling_is_known_by_its_code() {
    let sts = sts();
    sts.faults().throttle(Some(1));
    let source = source(&sts);
    assert!(source.fetch(key(None, HOUR)).await.is_ok());
    assert_eq!(source.fetch(key(None, HOUR)).await.unwrap_err(), SourceError::Throttled);
    assert_eq!(sts.assume_role_calls(), 2, "the SDK does not retry");
}

#[tokio::test]
async fn a_wrong_secret_an_unknown_key_and_expired_credentials_are_the_agents_own_fault() {
    let sts = sts();
    let code = async |source: &AssumeRoleSource| match source.fetch(key(None, HOUR)).await {
        Err(SourceError::OwnCredentials { code }) => code,
        other => panic!("{other:?}"),
    };
    let wrong = AssumeRoleSource::new(&settings(&sts.url(), "eu-central-1", "wrong"), true, Clock::system());
    assert_eq!(code(&wrong).await, "SignatureDoesNotMatch");
    assert_eq!(sts.assume_role_calls(), 2, "tried once more with the right time");
    sts.expire_principal(NODE_KEY.0);
    assert_eq!(code(&source(&sts)).await, "ExpiredToken");
    let other = Sts::on_loopback().unwrap();
    assert_eq!(code(&source(&other)).await, "InvalidClientTokenId");
    assert_eq!(other.assume_role_calls(), 2, "tried once more with credentials loaded anew");
}

#[tokio::test]
async fn a_clock_an_hour_off_is_corrected_from_the_date_of_the_refusal() {
    for ahead in [3_600, -3_600] {
        let sts = sts();
        sts.faults().clock_ahead(ahead);
        let source = source(&sts);
        assert!(source.fetch(key(None, HOUR)).await.is_ok());
        assert!(source.fetch(key(None, HOUR)).await.is_ok());
        let errors: Vec<_> = sts.calls().into_iter().map(|call| call.error).collect();
        assert_eq!(errors, [Some("SignatureDoesNotMatch".to_owned()), None, None]);
    }
}

#[tokio::test]
async fn what_is_no_answer_of_sts_is_unavailable_and_shows_nothing_of_it() {
    let sts = sts();
    let source = source(&sts);
    for fault in [
        Fault::ServerError,
        Fault::HalfAnswer,
        Fault::Malformed,
        Fault::Hangup,
        Fault::Redirect("http://127.0.0.1:1/elsewhere".into()),
        Fault::Error { status: 400, code: "IDPCommunicationError", message: "transient" },
        Fault::Error { status: 503, code: "ServiceUnavailable", message: "down" },
    ] {
        sts.faults().every(Some(fault.clone()));
        let error = source.fetch(key(None, HOUR)).await.unwrap_err();
        assert!(matches!(error, SourceError::Unavailable { .. }), "{fault:?}: {error:?}");
        let shown = format!("{error} {error:?}");
        assert!(
            !shown.contains("Planted") && !shown.contains("node-") && !shown.contains("Credentials>"),
            "{shown}"
        );
    }
    sts.faults().clear();
    assert!(source.fetch(key(None, HOUR)).await.is_ok());
}

#[tokio::test]
async fn errors_are_classified_by_code_whatever_the_status() {
    let sts = sts();
    let source = source(&sts);
    for (code, rejected) in [
        ("MalformedPolicyDocument", true),
        ("PackedPolicyTooLarge", true),
        ("RegionDisabledException", true),
        ("Throttling", false),
    ] {
        for status in [400, 403, 500] {
            sts.faults().every(Some(Fault::Error { status, code, message: "said so" }));
            match source.fetch(key(None, HOUR)).await.unwrap_err() {
                SourceError::Rejected { code: said, message } if rejected => {
                    assert_eq!(said, code);
                    assert!(message.starts_with("said so"), "{status}: {message}");
                    let helps = message.contains("eu-central-1") && message.contains("AWS_REGION");
                    assert_eq!(helps, code == "RegionDisabledException", "{message}");
                }
                error => assert_eq!((error, rejected), (SourceError::Throttled, false), "{code} {status}"),
            }
        }
    }
}

#[tokio::test]
async fn nobody_there_is_unavailable_and_says_so() {
    let url = {
        let gone = Sts::on_loopback().unwrap();
        gone.url()
    };
    let source = AssumeRoleSource::new(&settings(&url, "eu-central-1", NODE_KEY.1), true, Clock::system());
    let SourceError::Unavailable { reason } = source.fetch(key(None, HOUR)).await.unwrap_err() else {
        panic!()
    };
    assert!(reason.contains("refused"), "{reason}");
}

#[tokio::test]
async fn the_global_endpoint_is_signed_for_its_region() {
    let sts = sts();
    let global =
        AssumeRoleSource::new(&settings(&sts.url(), "eu-central-1", NODE_KEY.1), false, Clock::system());
    assert!(global.fetch(key(None, HOUR)).await.is_ok());
    assert_eq!(last(&sts).region, "us-east-1");
}

#[tokio::test]
async fn the_caller_is_named_with_its_role() {
    let sts = sts();
    let identity = source(&sts).caller_identity().await.unwrap();
    assert_eq!(identity.account, "123456789012");
    assert_eq!(identity.role_name.as_deref(), Some("nodes.example.cluster.k8s.local"));
    assert_eq!(last(&sts).action, "GetCallerIdentity");
}

fn broker(sts: &Sts) -> Broker {
    let source = Arc::new(source(sts));
    let document = |session: &Session| session.access_key_id.clone().into();
    Broker::new(source, config(true), Clock::system(), TaskTracker::new(), document, &Registry::new())
}

async fn ask(broker: &Broker, role: &str, pod: &str) -> Result<Arc<Session>, BrokerError> {
    let role = RoleArn::parse(&format!("arn:aws:iam::123456789012:role/{role}")).unwrap();
    let ask = Ask { key: SessionKey { role, ..key(None, HOUR) }, asker: PodUid::new(pod), revision: 0 };
    broker.get(&ask, Instant::now() + Duration::from_secs(10)).await
}

#[tokio::test]
async fn two_hundred_and_fifty_pods_of_25_roles_are_25_calls() {
    let sts = sts();
    sts.faults().every(Some(Fault::Delay(Duration::from_millis(150))));
    let names: Vec<_> = (0..250).map(|n| (format!("role-{}", n % 25), format!("pod-{n}"))).collect();
    for (role, _) in &names[..25] {
        sts.put_role(role, &trust(NODE, ""), HOUR).unwrap();
    }
    let broker = broker(&sts);
    let answers = join_all(names.iter().map(|(role, pod)| ask(&broker, role, pod))).await;
    for ((role, _), answer) in names.iter().zip(answers) {
        let issued = sts.issued(&answer.unwrap().access_key_id).unwrap();
        assert!(issued.role.ends_with(&format!("role/{role}")), "{role} got {}", issued.role);
    }
    assert_eq!(sts.assume_role_calls(), 25);
}

#[tokio::test]
async fn a_trust_policy_put_right_serves_the_pod_made_again_at_its_first_request() {
    let sts = sts();
    sts.put_role("MyPodRole", &trust("arn:aws:iam::123456789012:role/nodes.cluster.k8s.local", ""), HOUR)
        .unwrap();
    let broker = broker(&sts);
    for _ in 0..5 {
        let refused = ask(&broker, "MyPodRole", "first").await;
        assert!(matches!(refused, Err(BrokerError::Unauthorized { .. })), "{refused:?}");
    }
    assert_eq!(sts.assume_role_calls(), 1);
    sts.put_role("MyPodRole", &trust(NODE, ""), HOUR).unwrap();
    assert!(ask(&broker, "MyPodRole", "made-again").await.is_ok());
}

/// A node's IMDS that knows nothing but the instance role's credentials, and counts how often they are read.
async fn imds(listener: tokio::net::TcpListener, loads: Arc<AtomicUsize>) {
    loop {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut request = [0_u8; 4_096];
        let read = stream.read(&mut request).await.unwrap();
        let line = String::from_utf8_lossy(&request[..read]).lines().next().unwrap_or_default().to_owned();
        let body = match line.split(' ').nth(1).unwrap_or_default().trim_end_matches('/') {
            "/latest/api/token" => "token".to_owned(),
            "/latest/meta-data/iam/security-credentials" => "nodes".to_owned(),
            path if path.contains("/security-credentials") => {
                loads.fetch_add(1, Ordering::SeqCst);
                let (id, secret, token) = NODE_KEY;
                format!(
                    r#"{{"Code":"Success","Type":"AWS-HMAC","LastUpdated":"2026-01-01T00:00:00Z","AccessKeyId":"{id}",
                    "SecretAccessKey":"{secret}","Token":"{token}","Expiration":"2099-01-01T00:00:00Z"}}"#
                )
            }
            other => panic!("the agent asked its IMDS for {other}"),
        };
        let length = body.len();
        let head = format!(
            "HTTP/1.1 200 OK\r\nX-Aws-Ec2-Metadata-Token-Ttl-Seconds: 21600\r\nContent-Length: {length}\r\n\
             Connection: close\r\n\r\n"
        );
        stream.write_all(format!("{head}{body}").as_bytes()).await.unwrap();
    }
}

#[tokio::test]
#[ignore = "the child of the test of the node's own IMDS"]
async fn child_that_loads_from_imds() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (address, loads) = (listener.local_addr().unwrap(), Arc::new(AtomicUsize::new(0)));
    let serving = imds(listener, Arc::clone(&loads));
    let asking = async {
        let source =
            AssumeRoleSource::load(&config(true), Some("eu-central-1"), address, Clock::system()).await;
        let source = source.unwrap();
        source.fetch(key(None, HOUR)).await.unwrap();
        source.fetch(key(None, HOUR)).await.unwrap();
        assert_eq!(loads.load(Ordering::SeqCst), 1, "kept while STS takes them");
    };
    tokio::select! { () = serving => {}, () = asking => {} }
}

#[test]
fn the_nodes_own_imds_has_the_agents_credentials() {
    let sts = sts();
    let output = run_with("child_that_loads_from_imds", &[("AWS_ENDPOINT_URL_STS", &*sts.url())]);
    assert!(output.status.success(), "{output:?}");
    assert_eq!(sts.assume_role_calls(), 2);
}

#[tokio::test]
#[ignore = "the child of the test of an agent without credentials"]
async fn child_without_credentials() {
    let nobody = ([127, 0, 0, 1], 9).into();
    let source = AssumeRoleSource::load(&config(true), Some("eu-central-1"), nobody, Clock::system()).await;
    let error = source.unwrap().fetch(key(None, HOUR)).await.unwrap_err();
    assert_eq!(error, SourceError::OwnCredentials { code: "CredentialsNotLoaded".into() });
}

#[test]
fn an_agent_without_credentials_says_so_and_asks_sts_nothing() {
    let sts = sts();
    let output = run_with("child_without_credentials", &[("AWS_ENDPOINT_URL_STS", &*sts.url())]);
    assert!(output.status.success(), "{output:?}");
    assert!(sts.calls().is_empty());
}

/// Runs the ignored test `name` of this file as a process with `environment` and nothing else of AWS's.
fn run_with(name: &str, environment: &[(&str, &str)]) -> std::process::Output {
    let mut child = Command::new(std::env::current_exe().unwrap());
    child.args(["--exact", name, "--ignored", "--nocapture"]).env_clear().env("HOME", "/nonexistent");
    child.envs(environment.iter().copied()).output().unwrap()
}

#[test]
fn the_sdks_environment_names_endpoint_and_credentials() {
    let sts = sts();
    let environment = [
        ("AWS_ENDPOINT_URL_STS", &*sts.url()),
        ("AWS_ACCESS_KEY_ID", NODE_KEY.0),
        ("AWS_SECRET_ACCESS_KEY", NODE_KEY.1),
        ("AWS_SESSION_TOKEN", NODE_KEY.2),
    ];
    let output = run_with("child_that_loads_settings", &environment);
    assert!(output.status.success(), "{output:?}");
    let regions: Vec<_> = sts.calls().into_iter().map(|call| (call.region, call.error)).collect();
    assert_eq!(regions, [("eu-central-1".to_owned(), None), ("us-east-1".to_owned(), None)]);
}

#[test]
fn a_profile_file_names_endpoint_and_credentials() {
    let sts = sts();
    let directory = tempfile::tempdir().unwrap();
    let profile = format!(
        "[default]\nendpoint_url = {}\naws_access_key_id = {}\naws_secret_access_key = {}\naws_session_token = {}\n",
        sts.url(),
        NODE_KEY.0,
        NODE_KEY.1,
        NODE_KEY.2
    );
    let file = directory.path().join("config");
    std::fs::write(&file, profile).unwrap();
    let environment = [("AWS_CONFIG_FILE", file.to_str().unwrap())];
    let output = run_with("child_that_loads_settings", &environment);
    assert!(output.status.success(), "{output:?}");
    assert_eq!(sts.assume_role_calls(), 2);
}

#[tokio::test]
#[ignore = "the child of the tests of the environment and the profile file"]
async fn child_that_loads_settings() {
    let imds = ([127, 0, 0, 1], 9).into();
    for regional_endpoint in [true, false] {
        let config = config(regional_endpoint);
        let source =
            AssumeRoleSource::load(&config, Some("eu-central-1"), imds, Clock::system()).await.unwrap();
        source.fetch(key(None, HOUR)).await.unwrap();
    }
}
