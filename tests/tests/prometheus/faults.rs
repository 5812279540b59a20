//! A real Prometheus scrapes a real agent: nobody is called while all is well, and each fault calls by its own name.
//!
//! The rules are those that operators get, with shorter durations ([`hurried`]).

use std::time::Duration;

use anyhow::Result;
use rolegate_tests::agent::Agent;
use rolegate_tests::prometheus::{Prometheus, hurried};
use rolegate_tests::skip;
use rolegate_tests::sts::Fault;
use rolegate_tests::world::{RunningPod, World};

use crate::{ALERTS, CONFIG, text};

/// Nothing was wrong with the scrapes of 25 seconds, which in the hurried rules is longer than what any alert of an agent
/// waits for: a machine that stands still for some seconds is no fault of the agent's.
const WELL: &str = "count_over_time(up[25s]) >= 20 and min_over_time(up[25s]) == 1";
/// Less than the 20 minutes that a session may have left.
const SHORT_SESSION: Duration = Duration::from_mins(15);

struct Lab {
    world: World,
    agent: Agent,
    prometheus: Prometheus,
    pod: RunningPod,
}

#[test]
fn a_healthy_agent_calls_nobody_and_each_fault_is_called_by_its_name() {
    let test = "a_healthy_agent_calls_nobody_and_each_fault_is_called_by_its_name";
    if let Some(why) = Prometheus::missing() {
        return skip(test, &why);
    }
    let Some(world) = World::for_test_with_faults(test) else { return };
    let mut lab = Lab::new(world).unwrap();
    lab.all_is_well().unwrap();
    lab.refusals().unwrap();
    lab.rules_are_removed_again_and_again().unwrap();
    lab.sts_is_down().unwrap();
    lab.the_api_server_is_silent_and_then_forgets().unwrap();
    lab.the_agent_restarts_and_stays_away().unwrap();
    assert_eq!(lab.prometheus.rule_errors().unwrap(), [""; 0]);
}

// === impl Lab ===

impl Lab {
    fn new(world: World) -> Result<Self> {
        world.namespace("default", &["MyPodRole", "OtherRole"])?;
        let pod = world.pod("default", "pod", |pod| pod.role("MyPodRole"))?;
        // A watch that works is heard of within the hurried rule's 10 s.
        world.cluster.double()?.faults().bookmark_every(Duration::from_secs(1));
        let agent = world.agent(&[])?;
        agent.poll("the pod has a session", || Ok(pod.imds().credentials().is_ok()))?;
        let rules = hurried(&text(ALERTS));
        let prometheus = Prometheus::start(world.topology.node(), CONFIG, &[("alerts.yaml", &rules)])?;
        Ok(Self { world, agent, prometheus, pod })
    }

    fn all_is_well(&self) -> Result<()> {
        let prometheus = &self.prometheus;
        prometheus.wait_for("25 s of scrapes", |prometheus| {
            self.pod.imds().credentials()?;
            Ok((!prometheus.query(WELL)?.is_empty()).then_some(()))
        })?;
        let called = prometheus.query(r#"count_over_time(ALERTS{alertstate="firing"}[5s])"#)?;
        assert_eq!(called, [], "{:#?}", prometheus.alerts());
        assert_eq!(prometheus.rule_errors()?, [""; 0]);
        Ok(())
    }

    fn refusals(&self) -> Result<()> {
        let stranger = self.world.pod("default", "stranger", |pod| pod.role("ForbiddenRole"))?;
        self.called("RolegateRefusalsRising", &[("reason", "not_in_list")], |_| {
            // The first may come before the agent knows the pod.
            let _ = stranger.imds().credentials();
            Ok(())
        })
    }

    fn rules_are_removed_again_and_again(&self) -> Result<()> {
        self.called("RolegateRedirectRepaired", &[("node", "node-1.example")], |lab| {
            let node = lab.world.topology.node();
            node.run("iptables-nft", &["-t", "nat", "-F", "PREROUTING"])?;
            lab.agent.poll("the rule is back", || {
                Ok(node.run("iptables-nft", &["-t", "nat", "-S", "PREROUTING"])?.contains("-j "))
            })?;
            lab.agent.ready()
        })
    }

    fn sts_is_down(&self) -> Result<()> {
        let faults = self.world.sts.faults().clone();
        faults.session_life(Some(SHORT_SESSION));
        let short =
            self.world.pod("default", "short", |pod| pod.role("OtherRole").service_account("short"))?;
        self.agent.poll("the pod has a session", || Ok(short.imds().credentials().is_ok()))?;
        faults.every(Some(Fault::Hangup));
        let late = self.world.pod("default", "late", |pod| pod.role("OtherRole").service_account("late"))?;
        let ask = |_: &Self| {
            let answer = late.imds().get("/latest/meta-data/iam/security-credentials/OtherRole")?;
            assert_eq!(answer.status, 500);
            Ok(())
        };
        self.called("RolegateSTSFailing", &[("result", "unavailable")], ask)?;
        self.called("RolegateErrorBudgetBurn", &[("window", "1h"), ("severity", "critical")], ask)?;
        self.called("RolegateRequestsSlow", &[("node", "node-1.example")], ask)?;
        self.called("RolegateSessionsExpiring", &[("node", "node-1.example")], ask)?;

        faults.clear();
        for name in ["RolegateSTSFailing", "RolegateErrorBudgetBurn", "RolegateRequestsSlow"] {
            self.prometheus.wait_for("the end of an alert", |prometheus| {
                // The agent finds STS again within about a second.
                let _ = late.imds().credentials();
                let alerts = prometheus.alerts()?;
                Ok((!alerts.iter().any(|alert| alert.name == name && alert.firing)).then_some(()))
            })?;
        }
        Ok(())
    }

    fn the_api_server_is_silent_and_then_forgets(&self) -> Result<()> {
        let faults = self.world.cluster.double()?.faults();
        faults.stall_all_watches(true);
        self.called("RolegateWatchStale", &[("node", "node-1.example")], |_| Ok(()))?;
        faults.stall_all_watches(false);
        self.called("RolegateAPIErrors", &[("node", "node-1.example")], |lab| {
            // Every watch ends with 410.
            lab.world.cluster.double()?.faults().expire();
            Ok(())
        })
    }

    fn the_agent_restarts_and_stays_away(&mut self) -> Result<()> {
        let Self { world, agent, prometheus, .. } = self;
        prometheus.wait_for("RolegateRestarting", |prometheus| {
            // Each start has been scraped before the next, which is in another second.
            if !prometheus.query("time() - process_start_time_seconds > 1")?.is_empty() {
                agent.kill9()?;
                *agent = world.start_agent(&[])?;
            }
            Ok(prometheus.alerts()?.into_iter().find(|it| it.firing && it.name == "RolegateRestarting"))
        })?;
        agent.kill9()?;
        self.called("RolegateAgentDown", &[("node", "node-1.example"), ("severity", "critical")], |_| Ok(()))
    }

    /// Does `meanwhile` until an alert of this name with these labels fires, and reads what it says.
    fn called(
        &self,
        name: &str,
        labels: &[(&str, &str)],
        meanwhile: impl Fn(&Self) -> Result<()>,
    ) -> Result<()> {
        let alert = self.prometheus.wait_for(name, |prometheus| {
            meanwhile(self)?;
            Ok(prometheus.alerts()?.into_iter().find(|alert| {
                let has = |label: &(&str, &str)| alert.labels.get(label.0).is_some_and(|it| it == label.1);
                alert.firing && alert.name == name && labels.iter().all(has)
            }))
        })?;
        for (what, said) in &alert.annotations {
            assert!(!said.contains("<no value>") && !said.contains("<error"), "{name}: {what}: {said}");
            assert!(!said.contains(" on  "), "{name} names no node: {said}");
        }
        Ok(())
    }
}
