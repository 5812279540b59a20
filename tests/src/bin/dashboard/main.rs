//! Draws docs/dashboard.svg: the dashboard of a real agent under traffic, while one thing after the other goes wrong.
//!
//! `dashboard FILE.svg`; it takes about four minutes.

mod draw;
mod scale;

use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use draw::{Line, Shown};
use rolegate_tests::agent::Agent;
use rolegate_tests::dashboard::{Dashboard, Panel, PanelKind};
use rolegate_tests::prometheus::{Prometheus, hurried};
use rolegate_tests::sts::Fault;
use rolegate_tests::world::{RunningPod, World};
use tokio::time::Instant;

/// As the chart's, with a second where it has half a minute.
const CONFIG: &str = "
global: { scrape_interval: 1s, evaluation_interval: 1s }
rule_files: [alerts.yaml]
scrape_configs:
  - job_name: kube-system/rolegate
    static_configs: [{ targets: ['127.0.0.1:9543'], labels: { node: node-1.example } }]
";
/// What is shown, and how often.
const SHOWN_SECONDS: f64 = 240.0;
const STEP_SECONDS: f64 = 3.0;
const LIST: &str = "/latest/meta-data/iam/security-credentials/";

/// Everything, and how long it has run.
struct Story {
    world: World,
    agent: Agent,
    prometheus: Prometheus,
    asking: Vec<RunningPod>,
    began: Instant,
}

fn main() -> ExitCode {
    match draw_it() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

fn draw_it() -> Result<()> {
    let file = std::env::args().nth(1).context("usage: dashboard FILE.svg")?;
    if let Some(why) = World::missing().or_else(Prometheus::missing) {
        bail!("this machine cannot draw it: {why}");
    }
    let chart = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/helm/rolegate/files");
    let dashboard = Dashboard::read(&std::fs::read_to_string(chart.join("dashboard.json"))?)?;
    let mut story = Story::begin(&hurried(&std::fs::read_to_string(chart.join("alerts.yaml"))?))?;
    story.tell()?;
    let to = story.prometheus.query("time()")?.first().context("the time")?.value;
    let shown: Vec<Shown> =
        dashboard.panels.iter().map(|panel| shown(&story.prometheus, panel, to)).collect::<Result<_>>()?;
    std::fs::write(&file, draw::dashboard(&dashboard, &shown, SHOWN_SECONDS))?;
    Ok(())
}

// === impl Story ===

impl Story {
    fn begin(rules: &str) -> Result<Self> {
        let world = World::start()?;
        world.namespace("default", &["MyPodRole", "OtherRole"])?;
        world.namespace("batch", &["OtherRole"])?;
        world.cluster.double()?.faults().bookmark_every(Duration::from_secs(2));
        let asking = vec![
            world.pod("default", "web", |pod| pod.role("MyPodRole").service_account("web"))?,
            world.pod("default", "api", |pod| pod.role("OtherRole").service_account("api"))?,
            world.pod("batch", "job", |pod| pod.role("MyPodRole"))?,
            world.pod("batch", "cron", |pod| pod)?,
        ];
        let prometheus = Prometheus::start(world.topology.node(), CONFIG, &[("alerts.yaml", rules)])?;
        let agent = world.agent(&[])?;
        Ok(Self { world, agent, prometheus, asking, began: Instant::now() })
    }

    fn tell(&mut self) -> Result<()> {
        self.until(50, "pods ask; one namespace does not permit the role, one pod has none")?;
        for end in [54, 58, 62, 66, 70] {
            self.world.topology.node().run("iptables-nft", &["-t", "nat", "-F", "PREROUTING"])?;
            self.until(end, "somebody removes the rules")?;
        }
        self.world.sts.faults().every(Some(Fault::Hangup));
        let late = self.world.pod("default", "late", |pod| pod.role("OtherRole").service_account("late"))?;
        self.asking.push(late);
        self.until(115, "STS is down, and a new pod comes")?;
        self.world.sts.faults().clear();
        self.until(140, "STS is back")?;
        let faults = self.world.cluster.double()?.faults();
        faults.stall_all_watches(true);
        self.until(185, "the API server is silent")?;
        self.world.cluster.double()?.faults().stall_all_watches(false);
        self.world.cluster.double()?.faults().expire();
        self.until(205, "the API server is back")?;
        self.agent.kill9()?;
        self.until(213, "the agent is killed")?;
        self.agent = self.world.agent(&[])?;
        self.until(240, "and back")
    }

    /// Pods ask until so many seconds after the beginning.
    fn until(&self, seconds: u64, what: &str) -> Result<()> {
        eprintln!("until {seconds} s: {what}");
        let end = self.began + Duration::from_secs(seconds);
        while Instant::now() < end {
            for pod in &self.asking {
                // What they are told is what is drawn: refusals, time-outs and closed doors too.
                let _ = pod.imds().credentials();
                let _ = pod.imds().get(LIST);
                let _ = pod.imds().get("/latest/meta-data/placement/availability-zone");
            }
            std::thread::sleep(Duration::from_millis(200));
        }
        Ok(())
    }
}

fn shown(prometheus: &Prometheus, panel: &Panel, to: f64) -> Result<Shown> {
    match panel.kind {
        PanelKind::Row => Ok(Shown::Nothing),
        PanelKind::Stat => {
            let query = panel.queries.first().with_context(|| panel.title.clone())?;
            let samples = prometheus.query(&query.expanded("15s", "4m"))?;
            Ok(Shown::Figure(samples.first().map(|sample| sample.value).filter(|value| value.is_finite())))
        }
        PanelKind::Graph { .. } => {
            let mut lines = Vec::new();
            for query in &panel.queries {
                let expr = query.expanded("15s", "4m");
                for series in prometheus.query_range(&expr, to - SHOWN_SECONDS, to, STEP_SECONDS)? {
                    let legend = query.legend_labels().iter().fold(query.legend.clone(), |legend, label| {
                        let value = series.labels.get(label).map_or("", String::as_str);
                        legend.replace(&format!("{{{{{label}}}}}"), value)
                    });
                    lines.push(Line { legend, values: values(&series.points, to) });
                }
            }
            Ok(Shown::Lines(lines))
        }
    }
}

/// The value at each step, where there is one.
fn values(points: &[(f64, f64)], to: f64) -> Vec<Option<f64>> {
    let steps = std::iter::successors(Some(to - SHOWN_SECONDS), |at| Some(at + STEP_SECONDS));
    steps
        .take_while(|at| *at <= to + STEP_SECONDS / 2.0)
        .map(|at| {
            let point = points.iter().find(|(when, _)| (when - at).abs() < STEP_SECONDS / 2.0);
            point.map(|(_, value)| *value).filter(|value| value.is_finite())
        })
        .collect()
}
