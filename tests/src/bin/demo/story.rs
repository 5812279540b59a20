//! What happens, step by step, in plain words.

use std::sync::Arc;

use anyhow::Result;
use rolegate_tests::agent::Agent;
use rolegate_tests::clients;
use rolegate_tests::moto::Moto;
use rolegate_tests::netns::NetNs;
use rolegate_tests::topology::{IMDS_V4, NODE_V4};
use rolegate_tests::world::{RunningPod, World};
use tokio::time::Instant;

use super::tell::Teller;

const READ_ONLY: &str = "arn:aws:iam::aws:policy/AmazonS3ReadOnlyAccess";
const CREDENTIALS: &str = "latest/meta-data/iam/security-credentials/";

/// The cast and the stage.
pub(crate) struct Story<'a> {
    teller: &'a Teller,
    world: &'a World,
    moto: &'a Moto,
    aws_cli: RunningPod,
    other: RunningPod,
    plain: RunningPod,
    forbidden: RunningPod,
    started: Instant,
}

// === impl Story ===

impl<'a> Story<'a> {
    pub(crate) fn new(teller: &'a Teller, world: &'a World, moto: &'a Arc<Moto>) -> Result<Self> {
        world.namespace("default", &["MyPodRole"])?;
        world.namespace("team-b", &["OtherRole"])?;
        world.namespace("sandbox", &["SomethingElse"])?;
        world.host_pod("kube-system", "host-daemon", |pod| pod.role("MyPodRole"))?;
        world.namespace("kube-system", &["MyPodRole"])?;
        Ok(Self {
            aws_cli: world.pod("default", "aws-cli", |pod| pod.role("MyPodRole"))?,
            other: world.pod("team-b", "other", |pod| pod.role("OtherRole"))?,
            plain: world.pod("default", "plain", |pod| pod)?,
            forbidden: world.pod("sandbox", "forbidden", |pod| pod.role("MyPodRole"))?,
            teller,
            world,
            moto,
            started: Instant::now(),
        })
    }

    /// True when everything was as promised.
    pub(crate) fn tell(&self) -> Result<bool> {
        self.cast();
        let agent = self.start("The agent starts on the node")?;
        self.own_roles()?;
        self.s3()?;
        self.refusals()?;
        let agent = self.killed(agent)?;
        self.figures(&agent)?;
        self.nothing_leaked();
        self.teller.progress("cleaning up");
        drop(agent);
        Ok(self.teller.end())
    }

    fn cast(&self) {
        let teller = self.teller;
        teller.step("Who is there");
        teller.say("pod aws-cli    namespace default   iam.amazonaws.com/role: MyPodRole   (allowed there)");
        teller.say("pod other      namespace team-b    iam.amazonaws.com/role: OtherRole   (allowed there)");
        teller.say("pod plain      namespace default   no role");
        teller.say(
            "pod forbidden  namespace sandbox   iam.amazonaws.com/role: MyPodRole   (not allowed there)",
        );
        teller.say("host-daemon    on the node's own network, annotated all the same");
        teller.say(&format!("the node's metadata service, {IMDS_V4}, holds the node's own credentials"));
    }

    fn start(&self, what: &str) -> Result<Agent> {
        self.teller.step(what);
        self.teller.say(&format!(
            "$ rolegate --iptables --host-ip={NODE_V4} --auto-discover-base-arn --node=... --kubeconfig=..."
        ));
        let agent = self.world.agent(&[])?;
        let rules =
            self.world.topology.node().run("iptables", &["-t", "nat", "-S", "ROLEGATE-PREROUTING"])?;
        for rule in rules.lines().filter(|line| line.contains("DNAT")) {
            self.teller.say(&format!("rule: {rule}"));
        }
        self.teller.gets(
            "",
            agent.admin("/readyz")?.status == 200,
            "ready: rules in, pods and namespaces known",
        );
        Ok(agent)
    }

    fn own_roles(&self) -> Result<()> {
        self.teller.step("Each pod asks for credentials, as every AWS SDK does");
        for (pod, name, role) in
            [(&self.aws_cli, "aws-cli", "MyPodRole"), (&self.other, "other", "OtherRole")]
        {
            self.teller.asks(name, &format!("curl http://{IMDS_V4}/{CREDENTIALS}{role}"));
            let document = pod.imds().credentials()?;
            let id = document["AccessKeyId"].as_str().unwrap_or_default();
            let issued =
                self.world.sts.calls().into_iter().find(|call| call.access_key_id.as_deref() == Some(id));
            let of = issued.map_or_else(|| "nobody knows whose".to_owned(), |call| call.role);
            let shown = format!("AccessKeyId {id}, until {}", document["Expiration"].as_str().unwrap_or("?"));
            self.teller.gets(&shown, of.ends_with(role), &format!("a session of {of}"));
        }
        Ok(())
    }

    fn s3(&self) -> Result<()> {
        self.teller.step("The AWS CLI in aws-cli lists buckets: IAM decides, with the pod's own role");
        let (text, listed) = self.list_buckets()?;
        let denied = !listed && text.contains("AccessDenied");
        self.teller.gets(&text, denied, "S3 knows the role and refuses it: MyPodRole has no permission yet");
        self.teller.say(&format!("attaching {READ_ONLY} to MyPodRole"));
        self.moto.attach_policy("MyPodRole", READ_ONLY)?;
        let (text, listed) = self.list_buckets()?;
        self.teller.gets(
            &text,
            listed && text.contains("bucket-one"),
            "the same session may now list buckets",
        );
        Ok(())
    }

    fn list_buckets(&self) -> Result<(String, bool)> {
        self.teller.asks("aws-cli", "aws s3 ls");
        let endpoint = Moto::endpoint();
        let output =
            clients::aws_cli(self.aws_cli.net.ns(), &["s3", "ls"], &[("AWS_ENDPOINT_URL_S3", &endpoint)])?;
        let text = [output.stdout.as_slice(), output.stderr.as_slice()].concat();
        Ok((String::from_utf8_lossy(&text).trim().to_owned(), output.status.success()))
    }

    fn refusals(&self) -> Result<()> {
        let teller = self.teller;
        teller.step("What else a pod can ask is refused, and says why where there is somebody to tell");
        teller.asks("plain", &format!("curl http://{IMDS_V4}/{CREDENTIALS}"));
        let answer = self.plain.imds().get(&format!("/{CREDENTIALS}"))?;
        teller.gets(
            &format!("{} (empty)", answer.status),
            answer.status == 404,
            "no role, as on a machine without one",
        );

        teller.asks("forbidden", &format!("curl http://{IMDS_V4}/{CREDENTIALS}MyPodRole"));
        let document = self.forbidden.imds().credentials()?;
        let message = document["Message"].as_str().unwrap_or_default();
        let refused = document["Code"] == "AssumeRoleUnauthorizedAccess" && document["AccessKeyId"].is_null();
        teller.gets(message, refused, "the namespace does not allow the role; the message says what would");

        teller.asks("aws-cli", &format!("curl http://{IMDS_V4}/latest/user-data"));
        let answer = self.aws_cli.imds().get("/latest/user-data")?;
        teller.gets(
            &format!("{} (empty)", answer.status),
            answer.status == 404,
            "the node's bootstrap secrets stay its own",
        );

        teller.asks("host-daemon", &format!("curl http://{NODE_V4}:8181/{CREDENTIALS}"));
        let answer = self.straight_to_the_port(self.world.topology.node())?;
        teller.gets(
            &format!("{answer}"),
            answer == 404,
            "not captured on its way to the metadata service: no credentials",
        );
        Ok(())
    }

    fn straight_to_the_port(&self, node: &NetNs) -> Result<u16> {
        let port = rolegate_tests::http::Client::new(node, (NODE_V4, 8181).into());
        Ok(port.get(&format!("/{CREDENTIALS}"))?.status)
    }

    fn killed(&self, agent: Agent) -> Result<Agent> {
        self.teller.step("The agent is killed with -9: refused, not opened");
        agent.kill9()?;
        self.teller.asks("aws-cli", &format!("curl http://{IMDS_V4}/{CREDENTIALS}"));
        let answer = self.aws_cli.imds().get(&format!("/{CREDENTIALS}"));
        let shown = match &answer {
            Ok(answer) => format!("{} {}", answer.status, answer.text()),
            Err(error) => error.to_string(),
        };
        self.teller.gets(
            &shown,
            answer.is_err(),
            "the rule outlives the process: nobody reaches the node's credentials",
        );
        drop(agent);
        let agent = self.start("It is started again")?;
        self.teller.asks("aws-cli", &format!("curl http://{IMDS_V4}/{CREDENTIALS}MyPodRole"));
        let served = self.aws_cli.imds().credentials()?;
        self.teller.gets(
            &format!("AccessKeyId {}", served["AccessKeyId"].as_str().unwrap_or_default()),
            served["Code"] == "Success",
            "served again",
        );
        Ok(agent)
    }

    fn figures(&self, agent: &Agent) -> Result<()> {
        self.teller.step("A few of the agent's metrics, as Prometheus sees them");
        let page = agent.admin("/metrics")?.text();
        let wanted = [
            "rolegate_credentials_issued_total",
            "rolegate_credentials_sessions",
            "rolegate_kubernetes_objects",
            "rolegate_redirect_rule_present",
            "rolegate_sts_calls_total",
        ];
        let shown: Vec<&str> = page
            .lines()
            .filter(|line| wanted.iter().any(|name| line.starts_with(name)) && !line.ends_with(" 0"))
            .collect();
        self.teller.gets(
            &shown.join("\n"),
            !shown.is_empty(),
            "no ARN, address or pod name among the labels",
        );
        Ok(())
    }

    fn nothing_leaked(&self) {
        self.teller.step("What the metadata service saw of all this");
        let leaks = self.world.leaks(self.started);
        let shown: Vec<String> = leaks.iter().map(|it| format!("{} {}", it.method, it.target)).collect();
        self.teller.gets(
            &shown.join("\n"),
            leaks.is_empty(),
            "not one request of a pod for credentials, iam/ or user-data reached it",
        );
    }
}
