//! How the `sh` blocks of each page are run, and which cannot be run here and why.

use super::pages::Block;

/// How a block is run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum How {
    /// By an administrator: kubectl and helm with a real API server, the AWS CLI with moto.
    Admin,
    /// By root on a node whose agent runs.
    Node,
    /// In a pod with a role.
    Pod,
    /// Line by line, so that one may be left out, and one that looks for something may find nothing. After `# on the
    /// node` by root there.
    Lines,
    /// Not in this test; the reason.
    No(&'static str),
}

/// Pages by the beginning of their names, and where their blocks are run unless a row of [`EXCEPTIONS`] says otherwise.
const PAGES: &[(&str, How)] = &[
    ("docs/runbooks/", How::Lines),
    ("deploy/helm/rolegate/README.md", How::Lines),
    ("README.md", How::Admin),
    ("deploy/README.md", How::Admin),
    ("docs/before-installing.md", How::Admin),
    ("docs/iam.md", How::Admin),
    ("docs/install.md", How::Admin),
    ("docs/migrating.md", How::Admin),
    ("docs/troubleshooting.md", How::Admin),
];

const KOPS: How = How::No("kOps needs its state store and AWS");
const REGISTRY: How = How::No("there is no registry; tests/tests/image.rs makes and runs the images");
const KUBELET: How = How::No("runs a pod, which needs a kubelet: tests/tests/cluster/install.rs");

/// Page, and how the block's first line begins.
const EXCEPTIONS: &[(&str, &str, How)] = &[
    ("README.md", "make demo", How::No("they are the test run itself, and CI's")),
    ("deploy/README.md", "buildah ", REGISTRY),
    ("deploy/README.md", "helm install", How::Lines),
    ("deploy/README.md", "git checkout", How::No("builds a release for minutes; tests/tests/image.rs")),
    ("deploy/README.md", "rolegate cleanup", How::Node),
    ("docs/before-installing.md", "aws cloudtrail", How::No("moto has no CloudTrail events")),
    ("docs/before-installing.md", "nft ", How::Node),
    (
        "docs/before-installing.md",
        "kubectl --namespace kube-system logs",
        How::No("needs an agent in audit mode: tests/tests/acceptance/allowed_roles.rs"),
    ),
    ("docs/iam.md", "aws cloudtrail", How::No("moto has no CloudTrail events")),
    (
        "docs/install.md",
        "make image",
        How::No("builds a release for minutes, and there is no registry; tests/tests/image.rs"),
    ),
    ("docs/install.md", "kops ", KOPS),
    ("docs/install.md", "helm test", KUBELET),
    (
        "docs/migrating.md",
        "kubectl --namespace kube-system logs",
        How::No("needs an agent in audit mode: tests/tests/cluster/migration.rs"),
    ),
    ("docs/performance.md", "make bench", How::No("takes minutes; CI builds the benches")),
    ("docs/performance.md", "target/release/scale", How::No("takes minutes; CI builds the benches")),
    ("docs/troubleshooting.md", "curl --silent \"http://10.0.0.10", How::Node),
    ("docs/troubleshooting.md", "curl http://127.0.0.1", How::Node),
    ("docs/troubleshooting.md", "T=$(curl", How::Pod),
];

/// What there is before a page's first block: commands of an administrator, in order.
const BEFORE: &[(&str, &[&str])] = &[
    ("README.md", &["true"]),
    ("deploy/README.md", &["kubectl run my-pod --image=app:1"]),
    ("docs/before-installing.md", &[BILLING]),
    ("docs/iam.md", &[ACCOUNT, "kubectl apply -f deploy/daemonset.yaml"]),
    ("docs/install.md", &[ACCOUNT]),
    ("docs/migrating.md", &[ACCOUNT, PEERS]),
    ("docs/runbooks/RolegateSTSMismatched.md", &["kubectl apply -f deploy/daemonset.yaml"]),
    ("deploy/helm/rolegate/README.md", &["true"]),
];

/// What is in the account: the roles of kOps's nodes, with the policy that kOps adds, and of a node group; a role of a
/// pod's that kiam assumes; an instance. One process rather than one call of the CLI for each.
const ACCOUNT: &str = r#"
python-with-boto3 - <<'EOF'
import boto3, json
def statement(**more):
    return json.dumps({"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": ["sts:AssumeRole"], **more}]})
iam, kops = boto3.client("iam"), "nodes.example.cluster.k8s.local"
for name in [kops, "example-nodes", "payments-api"]:
    iam.create_role(RoleName=name, AssumeRolePolicyDocument=statement(Principal={"Service": "ec2.amazonaws.com"}))
iam.put_role_policy(RoleName=kops, PolicyName="additional." + kops, PolicyDocument=statement(Resource=["*"]))
tags = [{"ResourceType": "instance", "Tags": [{"Key": "KubernetesCluster", "Value": "example.cluster.k8s.local"}]}]
boto3.client("ec2").run_instances(ImageId="ami-12c6146b", MinCount=1, MaxCount=1, TagSpecifications=tags)
EOF
"#;

/// The node that runbooks look at.
pub(crate) const NODE_OF_PAGES: &str = "ip-10-0-0-10.ec2.internal";

/// A pod as the agent's DaemonSet would make it.
pub(crate) const AGENT: &str = r#"
kubectl apply -f - <<'EOF'
apiVersion: v1
kind: Pod
metadata: { name: rolegate-abcde, namespace: kube-system, labels: { app.kubernetes.io/name: rolegate } }
spec: { nodeName: node-1.example, hostNetwork: true, containers: [{ name: rolegate, image: rolegate:1 }] }
EOF
"#;

/// DaemonSets of kube2iam and kiam, and a team that uses them.
const PEERS: &str = r#"
kubectl create namespace payments
for name in kube2iam kiam-agent kiam-server; do
  kubectl apply -f - <<EOF
apiVersion: apps/v1
kind: DaemonSet
metadata: { name: $name, namespace: kube-system }
spec:
  selector: { matchLabels: { app: $name } }
  template:
    metadata: { labels: { app: $name } }
    spec: { hostNetwork: true, containers: [{ name: main, image: $name:1 }] }
EOF
done
"#;

/// A stateful set and its pod, which live on the node's role, and a pod on the host's network.
const BILLING: &str = r#"
kubectl label node node-1.example kubernetes.io/hostname=node-1.example
kubectl create namespace billing
kubectl apply -f - <<'EOF'
apiVersion: apps/v1
kind: StatefulSet
metadata: { name: invoices, namespace: billing }
spec:
  serviceName: invoices
  selector: { matchLabels: { app: invoices } }
  template:
    metadata: { labels: { app: invoices } }
    spec: { containers: [{ name: main, image: invoices:1 }] }
---
apiVersion: v1
kind: Pod
metadata: { name: invoices-0, namespace: billing, labels: { app: invoices } }
spec: { nodeName: node-1.example, serviceAccountName: default, containers: [{ name: main, image: invoices:1 }] }
---
apiVersion: v1
kind: Pod
metadata: { name: ebs-csi-controller-0, namespace: kube-system }
spec: { nodeName: node-1.example, hostNetwork: true, containers: [{ name: main, image: ebs:1 }] }
EOF
"#;

/// What is put away after each page, so that the next one finds a cluster without an agent.
pub(crate) const AFTER: &str = r#"
helm uninstall rolegate --namespace kube-system --ignore-not-found
kubectl delete -f deploy/daemonset.yaml --ignore-not-found
curl -sS -X POST "$AWS_ENDPOINT_URL/moto-api/reset"
"#;

/// What is done before a page.
pub(crate) fn before(page: &str) -> String {
    BEFORE.iter().find(|(name, _)| *name == page).map(|(_, commands)| commands.join("\n")).unwrap_or_default()
}

/// How a block of a page is run; nothing if no row says.
pub(crate) fn how(page: &str, block: &Block) -> Option<How> {
    let first = block.text.lines().next().unwrap_or_default();
    let exception = EXCEPTIONS.iter().find(|(name, start, _)| *name == page && first.starts_with(start));
    let page = PAGES.iter().find(|(name, _)| page.starts_with(name)).map(|(_, how)| *how);
    exception.map(|(.., how)| *how).or(page)
}

/// Why a line of [`How::Lines`] is not run here, by how it begins.
pub(crate) fn left_out(line: &str) -> Option<&'static str> {
    const LEFT_OUT: &[(&str, &str)] = &[
        ("curl -sS -o /dev/null -w", "asks AWS"),
        (
            "helm --namespace kube-system test",
            "runs a pod, which needs a kubelet: tests/tests/cluster/install.rs",
        ),
        ("kubectl get podmonitors", "the API server has no resources of the Prometheus operator"),
        ("kubectl top", "there is no metrics server"),
        ("nft monitor", "goes on until it is ended"),
        ("timedatectl", "needs systemd"),
    ];
    LEFT_OUT.iter().find(|(start, _)| line.starts_with(start)).map(|(_, why)| *why)
}

/// Rows of [`EXCEPTIONS`] that no block of its page begins as.
pub(crate) fn unused(blocks: impl Fn(&str) -> Vec<Block>) -> Vec<String> {
    let begins = |page: &str, start: &str| blocks(page).iter().any(|block| block.text.starts_with(start));
    let unused = EXCEPTIONS.iter().filter(|(page, start, _)| !begins(page, start));
    unused.map(|(page, start, _)| format!("{page}: {start}")).collect()
}
