//! What the chart runs beside the agent: `rolegate probe`, which says that requests are captured where they are and nowhere
//! else, and `rolegate cleanup --stay`.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::io::{BufRead as _, BufReader};
use std::process::{Output, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use rolegate_tests::agent::{binary, run_to_end};
use rolegate_tests::imds::ImdsConfig;
use rolegate_tests::topology::Backend;
use rolegate_tests::world::{Options, RunningPod, World};
use serde_json::{Value, json};

/// The probe in a pod, asking once.
fn probe(pod: &RunningPod, flags: &[&str]) -> Output {
    let args = [&["probe", "--wait=0"], flags].concat();
    run_to_end(Some(pod.net.ns()), &args).unwrap()
}

/// Its exit code and all it says.
fn said(output: &Output) -> (Option<i32>, String) {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (output.status.code(), text(&output.stdout) + &text(&output.stderr))
}

fn report(output: &Output) -> Value {
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {output:?}"))
}

#[test]
fn probe_fails_with_the_real_service_or_the_guards_alone_and_passes_with_the_agent() {
    let test = "probe_fails_with_the_real_service_or_the_guards_alone_and_passes_with_the_agent";
    let imds = ImdsConfig { hop_limit: 2, ..ImdsConfig::default() };
    let Some(world) = World::for_test(test, &Options { imds, ..Options::default() }) else { return };
    world.namespace("default", &["MyPodRole"]).unwrap();
    let plain = world.pod("default", "plain", |pod| pod).unwrap();
    let with_role = world.pod("default", "with-role", |pod| pod.role("MyPodRole")).unwrap();

    let (code, text) = said(&probe(&plain, &[]));
    assert_eq!(code, Some(1), "{text}");
    assert!(text.contains("not captured: pods' requests reach something that is not rolegate"), "{text}");
    let real = report(&probe(&plain, &["--output=json"]));
    assert_eq!(real["captured"], false);
    for ip in ["169.254.169.254", "fd00:ec2::254"] {
        assert_eq!(real["addresses"][ip]["answers"], "other", "{real}");
    }

    assert!(run_to_end(Some(world.topology.node()), &["guard"]).unwrap().status.success());
    let guarded = report(&probe(&plain, &["--output=json"]));
    assert_eq!(guarded["addresses"]["169.254.169.254"]["answers"], "nobody", "{guarded}");
    let (code, text) = said(&probe(&plain, &[]));
    assert!(code == Some(1) && text.contains("not captured: nobody answers pods"), "{code:?} {text}");

    let agent = world.agent(&[]).unwrap();
    let asked = world.sts.calls().len();
    let (code, text) = said(&probe(&plain, &[]));
    assert_eq!(code, Some(0), "{text}");
    assert!(text.contains("169.254.169.254: rolegate answers, with no role for this pod"), "{text}");
    let captured = probe(&with_role, &["--output=json"]);
    assert_eq!(captured.status.code(), Some(0));
    let answer = json!({"answers": "rolegate", "role": "MyPodRole"});
    let addresses = json!({"169.254.169.254": answer, "fd00:ec2::254": answer});
    assert_eq!(report(&captured), json!({"captured": true, "addresses": addresses}));
    assert!(world.sts.calls().len() <= asked + 1, "the probe asks for no credentials; prefetch may");

    // A cluster of IPv6 alone.
    with_role.net.ns().run("ip", &["-4", "route", "flush", "table", "main"]).unwrap();
    let (code, text) = said(&probe(&with_role, &[]));
    assert!(
        code == Some(0) && text.contains("169.254.169.254: this pod has no route to it"),
        "{code:?} {text}"
    );

    world.delete(&plain).unwrap();
    agent
        .poll("the pod is forgotten", || {
            let (code, text) = said(&probe(&plain, &[]));
            Ok(code == Some(1) && text.contains("captured, but rolegate does not know this pod"))
        })
        .unwrap();
    agent.kill9().unwrap();
    let (code, text) = said(&probe(&with_role, &[]));
    assert!(code == Some(1) && text.contains("not captured: nobody answers pods"), "{code:?} {text}");
}

#[test]
fn probe_fails_where_the_hop_limit_alone_keeps_pods_from_the_real_service() {
    let test = "probe_fails_where_the_hop_limit_alone_keeps_pods_from_the_real_service";
    let imds = ImdsConfig { hop_limit: 1, ..ImdsConfig::default() };
    let Some(world) = World::for_test(test, &Options { imds, ..Options::default() }) else { return };
    world.namespace("default", &[]).unwrap();
    let pod = world.pod("default", "plain", |pod| pod).unwrap();
    let output = probe(&pod, &["--output=json"]);
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(report(&output)["addresses"]["169.254.169.254"]["answers"], "nobody");
    let _agent = world.agent(&[]).unwrap();
    assert_eq!(probe(&pod, &[]).status.code(), Some(0));
}

/// In a DaemonSet: what ends is started again.
#[test]
fn cleanup_that_is_to_stay_removes_what_there_is_and_ends_when_it_is_told_to() {
    let test = "cleanup_that_is_to_stay_removes_what_there_is_and_ends_when_it_is_told_to";
    let Some(world) = World::for_test(test, &Options::default()) else { return };
    let ours = || {
        let rules = world.topology.rules(Backend::Nft).unwrap();
        rules.iter().filter(|rule| rule.contains("169.254.169.254") || rule.contains("fd00:ec2::254")).count()
    };
    let agent = world.start_agent(&[]).unwrap();
    agent.ready().unwrap();
    agent.sigterm().unwrap();
    agent.wait().unwrap();
    assert_ne!(ours(), 0, "they outlive the agent");

    let mut command = world.topology.node().command(binary().unwrap());
    let mut cleanup = command.args(["cleanup", "--stay"]).stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(cleanup.stdout.take().unwrap()).lines();
    let said = lines.next().unwrap().unwrap();
    assert!(said.starts_with("removed "), "{said}");
    assert_eq!(ours(), 0);
    assert!(cleanup.try_wait().unwrap().is_none(), "it stays");
    kill(Pid::from_raw(i32::try_from(cleanup.id()).unwrap()), Signal::SIGTERM).unwrap();
    assert!(cleanup.wait().unwrap().success());
}
