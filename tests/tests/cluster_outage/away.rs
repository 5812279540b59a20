//! Before there is an API server, behind another one, and callers that must not cost it anything.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use rolegate_tests::agent::Agent;
use rolegate_tests::cluster::Cluster;
use rolegate_tests::kube_api::Resource;
use rolegate_tests::world::World;
use tokio::time::Instant;

use crate::{LIST, becomes, gate, held, listed, role, world_with_faults};

/// Where a container finds its service account.
const ACCOUNT_DIR: &str = "/run/secrets/kubernetes.io/serviceaccount";

fn api_requests(world: &World) -> usize {
    world.cluster.double().unwrap().requests().len()
}

/// K12: started while no API server answers, the agent lives, says what it waits for, refuses every pod (and none
/// reaches the node's credentials), and serves without a restart once there is one.
#[test]
fn agent_started_without_an_api_server_refuses_and_then_serves_by_itself() {
    let test = "agent_started_without_an_api_server_refuses_and_then_serves_by_itself";
    let Some(world) = world_with_faults(test) else { return };
    let pod = world.pod("default", "early", |pod| pod.role("MyPodRole")).unwrap();
    let faults = world.cluster.double().unwrap().faults();
    let hour = Duration::from_secs(3600);
    let ways: [(&str, &dyn Fn(bool)); 2] = [
        ("accepts and never answers", &|on| {
            faults.delay_lists(Resource::Pods, if on { hour } else { Duration::ZERO });
        }),
        ("is down", &|on| faults.down(on)),
    ];
    for (way, switch) in ways {
        switch(true);
        let agent = world.start_agent(&[]).unwrap();
        agent
            .poll("it lives", || Ok(agent.admin("/livez").is_ok_and(|answer| answer.status == 200)))
            .unwrap();
        agent.poll("the rule", || Ok(agent.metric("rolegate_redirect_rule_present")? > 0.0)).unwrap();
        let start = Instant::now();
        assert_eq!(listed(pod.imds()), Err(500), "{way}");
        let document = pod.imds().get(&format!("{LIST}MyPodRole")).unwrap();
        assert_eq!((document.status, document.text().as_str()), (500, ""), "{way}");
        assert_eq!(agent.admin("/healthz").unwrap().status, 200, "{way}");
        let ready = agent.admin("/readyz").unwrap();
        assert_eq!(ready.status, 503, "{way}");
        assert!(ready.text().contains("[-]pods "), "{way}: {}", ready.text());
        assert!(world.leaks(start).is_empty(), "{way}");
        switch(false);
        if way == "is down" {
            agent.ready().unwrap();
            assert_eq!(pod.imds().credentials().unwrap()["Code"], "Success");
            assert!(world.leaks(start).is_empty());
        }
    }
}

/// K10, P38: who nobody knows, and an address that two pods claim, cost neither a request to the API server nor a
/// call to STS, however often they ask.
#[test]
fn unknown_and_ambiguous_callers_cost_no_request_to_anybody() {
    let Some(world) = world_with_faults("unknown_and_ambiguous_callers_cost_no_request_to_anybody") else {
        return;
    };
    let unknown = world.pod("default", "unknown", |pod| pod.role("MyPodRole")).unwrap();
    world.delete(&unknown).unwrap();
    let first = world.pod("default", "first", |pod| pod.role("MyPodRole")).unwrap();
    let second = world.run(Arc::clone(&first.net), "default", "second", |pod| pod.role("MyPodRole")).unwrap();
    let agent = world.agent(&["--prefetch=false"]).unwrap();
    let double = world.cluster.double().unwrap();
    agent.poll("both watches are open", || Ok(double.open_watches() == 2)).unwrap();
    let before = api_requests(&world);
    std::thread::scope(|scope| {
        for n in 0..100 {
            let (path, pod) = (["", "MyPodRole"][n % 2], &unknown);
            scope.spawn(move || assert_eq!(pod.imds().get(&format!("{LIST}{path}")).unwrap().status, 500));
        }
    });
    for _ in 0..100 {
        assert_eq!(listed(second.imds()), Err(500));
    }
    assert_eq!(held(&agent, "expired"), 100.0, "the unknown were held, nobody else was");
    assert_eq!(api_requests(&world), before, "{:?}", double.requests());
    assert_eq!(world.sts.assume_role_calls(), 0);
}

/// K11: a pod without an annotation is answered with one look, and a caller that hangs up ends its wait.
#[test]
fn what_waiting_cannot_help_is_not_waited_for() {
    let Some(world) = world_with_faults("what_waiting_cannot_help_is_not_waited_for") else { return };
    let plain = world.pod("default", "plain", |pod| pod).unwrap();
    let unknown = world.pod("default", "unknown", |pod| pod).unwrap();
    world.delete(&unknown).unwrap();
    let agent = world.agent(&[]).unwrap();
    let before = api_requests(&world);
    for _ in 0..20 {
        assert_eq!(listed(plain.imds()), Err(404));
        assert_eq!(plain.imds().get(&format!("{LIST}MyPodRole")).unwrap().status, 404);
    }
    for outcome in ["answered", "expired", "refused"] {
        assert_eq!(held(&agent, outcome), 0.0, "{outcome}");
    }
    assert_eq!((api_requests(&world), world.sts.assume_role_calls()), (before, 0));

    let accepted = || agent.metric("rolegate_connections_total{destination=\"imds\"}").unwrap();
    let start = accepted();
    let mut leaving: Vec<_> = (0..20).map(|_| unknown.imds().connect().unwrap()).collect();
    for connection in &mut leaving {
        connection.send(&unknown.imds().bytes("GET", LIST, &[])).unwrap();
    }
    agent.poll("they are there", || Ok(accepted() >= start + 20.0)).unwrap();
    drop(leaving);
    agent.poll("they are gone", || Ok(agent.metric("rolegate_connections_open")? < 1.0)).unwrap();
    assert_eq!(held(&agent, "expired"), 0.0, "nobody waited to the end");
    assert_eq!(listed(unknown.imds()), Err(500));
    assert_eq!(held(&agent, "expired"), 1.0, "who stays does");
}

/// K13: no probe depends on IMDS: while it is down or fails, the agent lives, is healthy and stays ready, and pods
/// get what is cached.
#[test]
fn probes_do_not_depend_on_imds() {
    let Some(world) = world_with_faults("probes_do_not_depend_on_imds") else { return };
    let pod = world.pod("default", "known", |pod| pod.role("MyPodRole")).unwrap();
    let agent = world.agent(&[]).unwrap();
    assert_eq!(pod.imds().credentials().unwrap()["Code"], "Success");
    let check = |what: &str| {
        for page in ["/livez", "/healthz", "/readyz"] {
            assert_eq!(agent.admin(page).unwrap().status, 200, "{page} while IMDS {what}");
        }
        assert_eq!(pod.imds().credentials().unwrap()["Code"], "Success", "while IMDS {what}");
    };
    for imds in [world.imds(), world.imds_v6()] {
        imds.faults().status(Some(500));
    }
    check("fails");
    for imds in [world.imds(), world.imds_v6()] {
        imds.faults().down(true).unwrap();
    }
    check("is down");
    for imds in [world.imds(), world.imds_v6()] {
        imds.faults().down(false).unwrap();
        imds.faults().status(None);
    }
}

/// A pod that is seen before its namespace is held, then 500 and never a refusal; a namespace that comes meanwhile
/// lets it be served.
#[test]
fn pod_seen_before_its_namespace_is_held_and_never_refused() {
    let Some(world) = world_with_faults("pod_seen_before_its_namespace_is_held_and_never_refused") else {
        return;
    };
    let agent = world.agent(&["--prefetch=false"]).unwrap();
    let early = world.pod("nowhere", "early", |pod| pod.role("MyPodRole")).unwrap();
    let refusals = || -> f64 {
        let page = agent.admin("/metrics").unwrap().text();
        let denied = page.lines().filter(|line| line.starts_with("rolegate_credentials_denied_total{"));
        denied.map(|line| line.rsplit(' ').next().unwrap().parse::<f64>().unwrap()).sum()
    };
    let unknown = "rolegate_identity_refused_total{reason=\"namespace_unknown\"}";
    agent
        .poll("the pod is known", || Ok(listed(early.imds()) == Err(500) && agent.metric(unknown)? > 0.0))
        .unwrap();
    let document = early.imds().get(&format!("{LIST}MyPodRole")).unwrap();
    assert_eq!((document.status, document.text().as_str()), (500, ""));
    assert_eq!(refusals(), 0.0, "a namespace that is not known forbids nothing");

    // Whether the namespace came before the request or during its hold only the agent knows.
    let faults = world.cluster.double().unwrap().faults();
    faults.delay_events(Resource::Namespaces, Duration::from_millis(300));
    for n in 0..20 {
        let name = format!("late-{n}");
        let pod = world.pod(&name, "web", |pod| pod.role("MyPodRole")).unwrap();
        let answered = held(&agent, "answered");
        let mut connection = pod.imds().connect().unwrap();
        connection.send(&pod.imds().bytes("GET", &format!("{LIST}MyPodRole"), &[])).unwrap();
        world.namespace(&name, &["MyPodRole"]).unwrap();
        let answer = connection.read(false).unwrap();
        assert_eq!(answer.status, 200, "{}", agent.log());
        assert_eq!(answer.json().unwrap()["Code"], "Success");
        if held(&agent, "answered") > answered {
            return;
        }
    }
    panic!("no request was held:\n{}", agent.log());
}

/// Makes `dir` what the kubelet projects: the files are links into `..data`, itself a link that is replaced.
fn project(dir: &Path, version: &str, ca: &str, token: &str) {
    let data = dir.join(format!("..{version}"));
    std::fs::create_dir(&data).unwrap();
    for (name, text) in [("token", token), ("ca.crt", ca), ("namespace", "kube-system")] {
        std::fs::write(data.join(name), text).unwrap();
        if !dir.join(name).exists() {
            std::os::unix::fs::symlink(format!("..data/{name}"), dir.join(name)).unwrap();
        }
    }
    std::os::unix::fs::symlink(format!("..{version}"), dir.join("..new")).unwrap();
    std::fs::rename(dir.join("..new"), dir.join("..data")).unwrap();
}

/// In a pod's place the agent finds server, authority and token where the kubelet puts them; a token that is no
/// longer good is said, and the one that replaced it is read.
#[test]
fn token_that_the_kubelet_rotates_is_read_anew() {
    let Some(world) = world_with_faults("token_that_the_kubelet_rotates_is_read_anew") else { return };
    let Cluster::Double(api) = &world.cluster else { return };
    let dir = tempfile::tempdir().unwrap();
    project(dir.path(), "first", api.ca_pem(), &api.token());
    let mut args = world.usual_flags();
    // The state directory would be hidden below.
    args.retain(|flag| !flag.starts_with("--kubeconfig") && !flag.starts_with("--state-dir"));
    let mut env: BTreeMap<_, _> = world.environment();
    env.insert("KUBERNETES_SERVICE_HOST".into(), api.address().ip().to_string());
    env.insert("KUBERNETES_SERVICE_PORT".into(), api.address().port().to_string());
    let script = format!("mkdir -p {ACCOUNT_DIR}; mount --bind {} {ACCOUNT_DIR}", dir.path().display());
    let agent = Agent::start_contained(world.topology.node(), &script, &args, &env).unwrap();
    agent.ready().unwrap();
    let known = world.pod("default", "known", |pod| pod.role("MyPodRole")).unwrap();
    becomes(&agent, &known, &role("MyPodRole"));

    let old = api.token();
    api.faults().set_token("the-next-token");
    api.faults().cut_watches();
    let words = "unauthorized; is the token valid for this API server?";
    for name in ["pods", "namespaces"] {
        agent.poll(words, || Ok(gate(&agent, name).contains(words))).unwrap();
    }
    assert_eq!(listed(known.imds()), role("MyPodRole"), "what is known is served");
    project(dir.path(), "second", api.ca_pem(), "the-next-token");
    agent.ready().unwrap();
    let new = world.pod("default", "new", |pod| pod.role("OtherRole")).unwrap();
    becomes(&agent, &new, &role("OtherRole"));
    for line in agent.lines() {
        assert!(!line.text.contains(&old) && !line.text.contains("the-next-token"), "{}", line.text);
    }
}

/// A server with a new certificate of the same authority is followed; one of another authority is not listened to.
#[test]
fn server_with_another_certificate_is_followed_if_its_authority_is_the_same() {
    let test = "server_with_another_certificate_is_followed_if_its_authority_is_the_same";
    let Some(world) = world_with_faults(test) else { return };
    let known = world.pod("default", "known", |pod| pod.role("MyPodRole")).unwrap();
    let agent = world.agent(&[]).unwrap();
    let api = world.cluster.double().unwrap();
    let replace = |same_authority: bool| {
        // Every connection ends, idle ones too.
        api.faults().down(true);
        agent.poll("nobody is connected", || Ok(api.open_watches() == 0)).unwrap();
        api.renew_certificate(same_authority).unwrap();
        api.faults().down(false);
    };
    replace(true);
    let renewed = world.pod("default", "renewed", |pod| pod.role("OtherRole")).unwrap();
    becomes(&agent, &renewed, &role("OtherRole"));

    replace(false);
    let seen = agent.lines().len();
    let impostor = world.pod("default", "impostor", |pod| pod.role("OtherRole")).unwrap();
    agent
        .poll("the certificate is named", || {
            let lines = agent.lines();
            let errors = lines[seen..].iter().filter_map(|line| line.text_of("error"));
            Ok(errors.into_iter().any(|error| error.to_lowercase().contains("certificate")))
        })
        .unwrap();
    assert_eq!(listed(impostor.imds()), Err(500), "what an impostor says is not believed");
    assert_eq!(listed(known.imds()), role("MyPodRole"));
    replace(true);
    becomes(&agent, &impostor, &role("OtherRole"));
}
