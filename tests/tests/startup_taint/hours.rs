//! Hours of a node, told with a paused clock against a double on the same clock.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rolegate::cluster::own_node::OwnNode;
use rolegate::config::{ApiSource, Kubernetes, NodeSelection};
use rolegate::metrics::Registry;
use rolegate::ready::{Gate, Gates};
use rolegate::types::Clock;
use rolegate_tests::kube_api::{KubeApi, Resource};
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::{CONDITION, KEY, allow, condition_of, ours, theirs};

/// Longer than the agent waits for anything but a heartbeat.
const A_WHILE: Duration = Duration::from_secs(60);

struct Story {
    api: Arc<KubeApi>,
    redirect: Gate,
    shutdown: CancellationToken,
    tasks: TaskTracker,
    _node: watch::Sender<Option<String>>,
}

impl Story {
    /// A node with our taint and another, and its first agent.
    fn begin() -> Self {
        let api = Arc::new(KubeApi::start().unwrap());
        allow(&api);
        api.apply_node("n1", &json!([ours("NoSchedule"), theirs()]));
        Self::go_on(api)
    }

    /// An agent starts; the gate `redirect` is closed.
    fn go_on(api: Arc<KubeApi>) -> Self {
        let config = Kubernetes {
            api: ApiSource::InCluster,
            insecure: false,
            node: NodeSelection::Name("n1".into()),
            resync: Duration::ZERO,
            pin_roles: false,
            startup_taint: Some(KEY.into()),
        };
        let in_process = api.in_process();
        let service = tower::service_fn(move |request| in_process.clone().answer(request));
        let clock = Clock::anchored(SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000));
        let own_node = OwnNode::new(config, KEY.into(), clock, &Registry::new())
            .with_client(kube::Client::new(service, "default"));
        let gates = Gates::new();
        let redirect = gates.add("redirect", "not installed yet");
        let (node, name) = watch::channel(Some("n1".to_owned()));
        let (shutdown, tasks) = (CancellationToken::new(), TaskTracker::new());
        let stop = shutdown.clone();
        tasks.spawn(async move { own_node.run(name, gates, stop).await });
        Self { api, redirect, shutdown, tasks, _node: node }
    }

    fn node(&self) -> Value {
        self.api.node("n1").unwrap()
    }

    fn condition(&self) -> Value {
        condition_of(&self.node(), CONDITION)
    }

    /// Patches so far of the node, and of its status.
    fn patches(&self) -> (usize, usize) {
        let requests = self.api.requests();
        let of = |path: &str| {
            let patches = requests.iter().filter(|request| request.method == "PATCH");
            patches.filter(|request| request.path.ends_with(path)).count()
        };
        (of("/n1"), of("/status"))
    }

    async fn end(self) -> Arc<KubeApi> {
        self.shutdown.cancel();
        self.tasks.close();
        self.tasks.wait().await;
        self.api
    }
}

async fn pass(time: Duration) {
    tokio::time::sleep(time).await;
}

#[tokio::test(start_paused = true)]
async fn what_is_mended_in_seconds_is_not_told_and_what_is_not_is_told_once() {
    let story = Story::begin();
    pass(Duration::from_secs(5)).await;
    assert_eq!(
        story.patches(),
        (0, 0),
        "an agent that starts in seconds is not told as one that is not ready"
    );
    pass(A_WHILE).await;
    assert_eq!((story.patches(), &story.condition()["reason"]), ((0, 1), &json!("NotIntercepting")));

    story.redirect.open();
    pass(Duration::from_secs(1)).await;
    assert_eq!((story.patches(), &story.condition()["status"]), ((1, 2), &json!("True")));
    assert_eq!(story.node()["spec"]["taints"], json!([theirs()]));
    for _ in 0..100 {
        story.redirect.close("rules missing");
        pass(Duration::from_millis(900)).await;
        story.redirect.open();
        pass(Duration::from_millis(100)).await;
    }
    assert_eq!(story.patches(), (1, 2), "a hundred repairs");
    story.redirect.close("rules missing");
    pass(A_WHILE).await;
    story.redirect.close("rules missing, for another reason");
    pass(A_WHILE).await;
    assert_eq!((story.patches(), &story.condition()["status"]), ((1, 3), &json!("False")));
    story.end().await;
}

#[tokio::test(start_paused = true)]
async fn taint_stays_when_readiness_is_lost_while_the_node_is_read() {
    let story = Story::begin();
    story.api.faults().delay_lists(Resource::Nodes, Duration::from_secs(20));
    story.redirect.open();
    pass(Duration::from_secs(10)).await;
    story.redirect.close("rules missing");
    pass(Duration::from_secs(19)).await;
    assert_eq!(story.patches(), (0, 0));
    story.redirect.open();
    pass(Duration::from_secs(70)).await;
    assert_eq!((story.patches(), &story.node()["spec"]["taints"]), ((1, 1), &json!([theirs()])));
    story.end().await;
}

#[tokio::test(start_paused = true)]
async fn heartbeats_keep_the_condition_and_heal_what_others_did_to_it() {
    let story = Story::begin();
    story.redirect.open();
    pass(A_WHILE).await;
    let first = story.condition();
    pass(Duration::from_secs(3600)).await;
    let (taints, conditions) = story.patches();
    // Every 300 to 330 s.
    assert!(taints == 1 && (11..=13).contains(&conditions), "{taints}, {conditions}");
    let last = story.condition();
    assert_eq!(last["lastTransitionTime"], first["lastTransitionTime"]);
    assert_ne!(last["lastHeartbeatTime"], first["lastHeartbeatTime"]);

    // The node registers anew, as its kubelet was told to: tainted, and without the condition.
    story.api.apply_node("n1", &json!([ours("NoSchedule")]));
    pass(Duration::from_secs(360)).await;
    assert_eq!(
        (&story.node()["spec"]["taints"], &story.condition()["status"]),
        (&json!(null), &json!("True"))
    );
    story.end().await;
}

#[tokio::test(start_paused = true)]
async fn next_agent_that_is_ready_in_seconds_changes_nothing() {
    let story = Story::begin();
    story.redirect.open();
    pass(A_WHILE).await;
    let (before, patches) = (story.node(), story.patches());
    let story = Story::go_on(story.end().await);
    pass(Duration::from_secs(5)).await;
    story.redirect.open();
    pass(A_WHILE).await;
    assert_eq!((story.node(), story.patches()), (before, patches));
    story.end().await;
}

#[tokio::test(start_paused = true)]
async fn an_hour_without_the_api_server_is_tried_at_a_slow_pace_and_caught_up() {
    let story = Story::begin();
    story.redirect.open();
    story.api.faults().down(true);
    pass(Duration::from_secs(3600)).await;
    let tried = story.api.turned_away();
    // Up to 30 s apart, and no less than 15 once it is slow.
    assert!((120..=250).contains(&tried), "{tried}");
    story.api.faults().down(false);
    pass(A_WHILE).await;
    assert_eq!((story.patches(), &story.condition()["status"]), ((1, 1), &json!("True")));
    story.end().await;
}
