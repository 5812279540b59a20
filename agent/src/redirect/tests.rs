//! The task in a network namespace of its own, with the node's iptables. Without root it is skipped by name.

use std::future::Future;
use std::process::Command;

use nix::sched::{CloneFlags, unshare};

use super::*;
use crate::cluster::index::{Event, Index};
use crate::config::RedirectMode;
use crate::ready::Gates;

/// Runs `test` on a thread with a network namespace of its own.
fn in_netns<F: Future<Output = ()>>(name: &str, test: impl FnOnce() -> F + Send + 'static) {
    if !nix::unistd::geteuid().is_root()
        || sh_output("iptables-restore --version; ip -V; nft --version").is_none()
    {
        eprintln!("skipped: {name}: it needs root, iptables, nft and ip");
        return;
    }
    let thread = std::thread::spawn(move || {
        unshare(CloneFlags::CLONE_NEWNET).expect("a new network namespace");
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("runtime");
        runtime.block_on(test());
    });
    thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
}

fn sh_output(script: &str) -> Option<String> {
    let output = Command::new("sh").args(["-ec", script]).output().ok()?;
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).into_owned())
}

fn sh(script: &str) -> String {
    sh_output(script).expect(script)
}

fn config(interfaces: &str) -> config::Redirect {
    config::Redirect {
        mode: RedirectMode::Iptables,
        interfaces: interfaces.to_owned(),
        host_ips: vec!["10.0.0.10".parse().expect("address")],
        reconcile_every: Duration::from_secs(5),
        preference: 2,
        table: 43_518,
        shared_l2: config::SharedL2::Pin,
        cni_results: "/nonexistent".into(),
    }
}

fn redirect(config: &config::Redirect) -> (Gates, Redirect) {
    let gates = Gates::new();
    let gate = gates.add("rule", "not installed");
    let choice = Choice::told(config.mode).expect("a mode");
    let redirect = Redirect::new(config, choice, 8181, gate, &Registry::new()).expect("redirect");
    (gates, redirect)
}

/// Everything is listed, and there is nothing.
fn listed() -> Arc<Snapshot> {
    let mut index = Index::new();
    for event in [Event::PodsInit, Event::PodsInitDone, Event::NamespacesInit, Event::NamespacesInitDone] {
        index.apply(event);
    }
    index.snapshot()
}

fn reason(gates: &Gates) -> Option<String> {
    gates.list()[0].state.clone().err().map(Into::into)
}

/// Waits until the only gate's reason (or its being open) is as asked.
async fn gate_shows(gates: &Gates, shown: impl Fn(Option<&str>) -> bool) {
    let mut states = gates.subscribe();
    let waited = states.wait_for(|states| shown(states[0].state.as_ref().err().map(AsRef::as_ref)));
    tokio::time::timeout(Duration::from_secs(30), waited).await.expect("in time").expect("gates live").len();
}

#[test]
fn rules_stand_before_anything_else_are_mended_and_outlive_the_task() {
    in_netns("rules_stand_before_anything_else_are_mended_and_outlive_the_task", || async {
        let (gates, mut redirect) = redirect(&config("auto"));
        redirect.install_once().await.expect("installed");
        assert!(sh("iptables-save").contains("--to-destination 10.0.0.10:8181"));
        assert!(!gates.ready(), "nobody has looked at the pods");
        let (trigger, repairs) = (redirect.trigger(), redirect.metrics.repairs.clone());
        let present = redirect.metrics.present.clone();
        let missing = repairs.with_label_values(&["missing"]);
        assert_eq!((missing.get(), present.get()), (0, 1), "the first installation is no repair");
        let shutdown = CancellationToken::new();
        let (_pods, receiver) = watch::channel(listed());
        let task = redirect.run(shutdown.clone(), receiver);
        let story = async {
            gates.wait().await;
            sh("iptables -t nat -F; iptables -t nat -X");
            trigger.notify_one();
            gate_shows(&gates, |reason| reason.is_some_and(|reason| reason.contains("IPv4 nat: missing")))
                .await;
            gates.wait().await;
            assert_eq!((missing.get(), present.get()), (1, 1));
            shutdown.cancel();
        };
        let (ended, ()) = tokio::join!(task, story);
        ended.expect("ended as told");
        assert!(sh("iptables-save").contains("--to-destination 10.0.0.10:8181"));
    });
}

/// P4: what becomes of the rules in nf_tables is seen by the kernel's word.
#[test]
fn rules_that_others_change_are_mended_without_being_told() {
    in_netns("rules_that_others_change_are_mended_without_being_told", || async {
        let (gates, redirect) = redirect(&config("auto"));
        let (repairs, shutdown) = (redirect.metrics.repairs.clone(), CancellationToken::new());
        let (_pods, receiver) = watch::channel(listed());
        // Neither the timer nor the trigger helps.
        let redirect = Redirect { look_every: Duration::from_secs(3_600), ..redirect };
        let task = redirect.run(shutdown.clone(), receiver);
        let story = async {
            gates.wait().await;
            sh("iptables-nft -t nat -I PREROUTING -j ACCEPT");
            gate_shows(&gates, |reason| reason.is_some_and(|reason| reason.contains("jump_not_first"))).await;
            gates.wait().await;
            assert_eq!(repairs.with_label_values(&["jump_not_first"]).get(), 1);
            shutdown.cancel();
        };
        tokio::join!(task, story).0.expect("ended as told");
    });
}

#[test]
fn a_link_that_comes_makes_the_task_look() {
    in_netns("a_link_that_comes_makes_the_task_look", || async {
        let (gates, redirect) = redirect(&config("auto"));
        let chain_changed = redirect.metrics.repairs.with_label_values(&["chain_changed"]);
        let shutdown = CancellationToken::new();
        let (_pods, receiver) = watch::channel(listed());
        let task = redirect.run(shutdown.clone(), receiver);
        let story = async {
            gates.wait().await;
            sh("ip link add up0 type bridge; ip addr add 10.0.0.10/24 dev up0; ip link set up0 up
                ip route add default via 10.0.0.1");
            gate_shows(&gates, |reason| reason.is_some_and(|reason| reason.contains("chain_changed"))).await;
            gates.wait().await;
            assert!(sh("iptables-save").contains("-i up0 -m comment --comment rolegate -j RETURN"));
            assert_eq!(chain_changed.get(), 1);
            shutdown.cancel();
        };
        tokio::join!(task, story).0.expect("ended as told");
    });
}

#[test]
fn pods_routed_elsewhere_close_the_gate_until_they_are_behind_the_interface() {
    in_netns("pods_routed_elsewhere_close_the_gate_until_they_are_behind_the_interface", || async {
        sh("ip link add cali1 type bridge; ip link set cali1 up; ip route add 10.1.0.11 dev cali1");
        for (interfaces, expected) in [
            ("cbr0", Some("--host-interface=cbr0 matches no interface, but pods are routed by cali1")),
            ("cali+", None),
            ("cal+", None),
        ] {
            let (gates, mut redirect) = redirect(&config(interfaces));
            let mut notices = Notices::new();
            redirect.look(&mut notices).await.expect("looked");
            assert!(reason(&gates).is_some_and(|reason| reason.contains("not listed yet")), "{interfaces}");
            notices.listed = true;
            redirect.look(&mut notices).await.expect("looked");
            assert_eq!(reason(&gates), None, "{interfaces}: there are no pods");
            notices.addresses = vec!["10.1.0.11".parse().expect("address")];
            redirect.look(&mut notices).await.expect("looked");
            assert_eq!(reason(&gates).as_deref(), expected, "{interfaces}");
        }
    });
}

#[test]
fn without_iptables_the_gate_is_closed_and_says_why() {
    in_netns("without_iptables_the_gate_is_closed_and_says_why", || async {
        let (gates, mut redirect) = redirect(&config("auto"));
        redirect.search = "/nonexistent".into();
        assert!(redirect.install_once().await.is_err());
        assert!(redirect.look(&mut Notices::new()).await.is_err());
        assert!(reason(&gates).expect("closed").contains("no iptables for IPv4"));
        assert_eq!((redirect.metrics.errors.get(), redirect.metrics.present.get()), (1, 0));
    });
}

#[test]
fn beside_the_operators_own_redirect_stand_the_guards() {
    in_netns("beside_the_operators_own_redirect_stand_the_guards", || async {
        let (gates, mut redirect) =
            redirect(&config::Redirect { mode: RedirectMode::None, ..config("auto") });
        redirect.install_once().await.expect("installed");
        assert!(!sh("iptables-save").contains("rolegate"));
        let shutdown = CancellationToken::new();
        let guards = redirect.metrics.guards.clone();
        let (_pods, receiver) = watch::channel(Arc::default());
        let run = redirect.run(shutdown.clone(), receiver);
        let story = async {
            gates.wait().await;
            assert!(sh("ip rule").contains("to 169.254.169.254 prohibit"));
            assert_eq!(guards.get(), 1);
            shutdown.cancel();
        };
        tokio::join!(run, story).0.expect("ended as told");
    });
}

/// P4: what becomes of the guards is seen by the kernel's word.
#[test]
fn guards_that_others_take_away_are_mended_without_being_told() {
    in_netns("guards_that_others_take_away_are_mended_without_being_told", || async {
        let (gates, redirect) = redirect(&config("auto"));
        let (repairs, shutdown) = (redirect.metrics.repairs.clone(), CancellationToken::new());
        let (_pods, receiver) = watch::channel(listed());
        // Neither the timer nor the trigger helps.
        let mut redirect = Redirect { look_every: Duration::from_secs(3_600), ..redirect };
        redirect.install_once().await.expect("installed");
        let task = redirect.run(shutdown.clone(), receiver);
        let story = async {
            for (damage, cause) in
                [("ip rule del pref 4", "guard_rules"), ("nft flush ruleset", "guard_table_missing")]
            {
                gates.wait().await;
                sh(damage);
                gate_shows(&gates, |reason| reason.is_some_and(|reason| reason.contains(cause))).await;
                gates.wait().await;
                assert_eq!(repairs.with_label_values(&[cause]).get(), 1);
            }
            shutdown.cancel();
        };
        tokio::join!(task, story).0.expect("ended as told");
    });
}

/// P4: a rule or route of the capture that goes is back by the kernel's word, and the gate is closed meanwhile.
#[test]
fn policy_routing_that_others_take_away_is_mended_without_being_told() {
    in_netns("policy_routing_that_others_take_away_is_mended_without_being_told", || async {
        sh("ip link set lo up");
        let config = config::Redirect { mode: RedirectMode::Route, ..config("auto") };
        let (gates, redirect) = redirect(&config);
        let (repairs, shutdown) = (redirect.metrics.repairs.clone(), CancellationToken::new());
        let (_pods, receiver) = watch::channel(listed());
        // Neither the timer nor the trigger helps.
        let mut redirect = Redirect { look_every: Duration::from_secs(3_600), ..redirect };
        redirect.install_once().await.expect("installed");
        let task = redirect.run(shutdown.clone(), receiver);
        let story = async {
            for (n, damage) in (1_u64..).zip([
                "ip rule del pref 3",
                "ip -6 rule del pref 3",
                "ip route flush table 43518",
                "ip -6 route flush table 43518",
            ]) {
                gates.wait().await;
                sh(damage);
                gate_shows(&gates, |reason| reason.is_some_and(|reason| reason.contains("policy routing")))
                    .await;
                gates.wait().await;
                assert_eq!(repairs.with_label_values(&["route_changed"]).get(), n, "{damage}");
            }
            shutdown.cancel();
        };
        tokio::join!(task, story).0.expect("ended as told");
    });
}

/// P4: where the kernel says nothing, the next look is five seconds off at most, whatever was asked for.
#[test]
fn legacy_tables_are_looked_at_every_five_seconds_at_least() {
    let every = |asked| {
        let (_, redirect) = redirect(&config::Redirect { reconcile_every: asked, ..config("auto") });
        redirect.look_every
    };
    assert_eq!(every(Duration::from_secs(3_600)), Duration::from_secs(5));
    assert_eq!(every(Duration::from_secs(1)), Duration::from_secs(1));
}

#[test]
fn what_the_operator_got_wrong_is_said_by_its_flag() {
    let wrong = |config: config::Redirect| {
        let gate = Gates::new().add("rule", "not installed");
        let choice = Choice::told(config.mode).expect("a mode");
        Redirect::new(&config, choice, 8181, gate, &Registry::new()).err().expect("refused").to_string()
    };
    assert!(wrong(config("ca+li")).starts_with("--host-interface: "));
    let loopback = vec!["127.0.0.1".parse().expect("address")];
    assert!(wrong(config::Redirect { host_ips: loopback, ..config("auto") }).starts_with("--host-ip: "));
    assert!(wrong(config::Redirect { host_ips: Vec::new(), ..config("auto") }).starts_with("--host-ip: "));
}
