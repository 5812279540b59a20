//! What of the agent's memory others can come by: core files, `/proc`, a tracer.

use std::os::unix::fs::MetadataExt;
use std::path::Path;

use nix::sys::signal::Signal;
use rolegate_tests::agent::Agent;
use rolegate_tests::world::{RunningPod, World};
use rolegate_tests::{netns, planted, skip};

use super::Scene;

fn cores(dir: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(dir).unwrap().flatten();
    entries.filter_map(|entry| entry.file_name().into_string().ok()).collect()
}

/// Dies by a signal with core files allowed, in `dir`.
fn dies(dir: &Path) {
    let script = "ulimit -c unlimited; cd \"$0\"; kill -SEGV $$";
    let died = std::process::Command::new("sh").args(["-c", script]).arg(dir).output().unwrap();
    assert!(!died.status.success(), "{died:?}");
}

/// P40: `RLIMIT_CORE` is 0 and the process is not dumpable, whatever it was started with: no signal leaves a core file,
/// and what it says as it dies has no secret in it.
#[test]
fn no_signal_leaves_a_core_file_or_a_secret() {
    let Some(scene) = Scene::set("no_signal_leaves_a_core_file_or_a_secret") else { return };
    let control = tempfile::tempdir().unwrap();
    dies(control.path());
    if cores(control.path()).is_empty() {
        let pattern = std::fs::read_to_string("/proc/sys/kernel/core_pattern").unwrap();
        skip(
            "no_signal_leaves_a_core_file_or_a_secret",
            &format!("core files go elsewhere here ({}): only the limit is looked at", pattern.trim()),
        );
    }
    // Not SIGQUIT, which what runs in the background of a shell ignores.
    for signal in [Signal::SIGABRT, Signal::SIGFPE, Signal::SIGILL] {
        let dir = tempfile::tempdir().unwrap();
        let script = format!("ulimit -c unlimited; cd {}", dir.path().display());
        let mut env = scene.world.environment();
        env.insert("RUST_BACKTRACE".into(), "full".into());
        let flags = scene.world.usual_flags();
        let agent = Agent::start_contained(scene.world.topology.node(), &script, &flags, &env).unwrap();
        agent.ready().unwrap();
        assert_eq!(scene.granted.imds().credentials().unwrap()["Code"], "Success");
        let limits = std::fs::read_to_string(format!("/proc/{}/limits", agent.pid())).unwrap();
        let limit = limits.lines().find(|line| line.starts_with("Max core file size")).unwrap();
        let numbers: Vec<&str> = limit.split_whitespace().skip(4).take(2).collect();
        assert_eq!(numbers, ["0", "0"], "{limit}");
        agent.signal(signal).unwrap();
        let status = agent.wait().unwrap();
        assert!(!status.success(), "{status}");
        assert_eq!(cores(dir.path()), Vec::<String>::new(), "{signal}");
    }
}

/// The owner of a process's files in `/proc`, and the user that it runs as.
fn owner_and_user(pid: impl std::fmt::Display) -> (u32, String) {
    let owner = std::fs::metadata(format!("/proc/{pid}/stat")).unwrap().uid();
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let user = status.lines().find_map(|line| line.strip_prefix("Uid:")).unwrap();
    (owner, user.split_whitespace().next().unwrap().to_owned())
}

/// P40: `PR_GET_DUMPABLE` is 0, which the kernel shows by giving the files of the process in `/proc` to root: whoever
/// runs as the same user reads neither its memory nor its environment.
#[test]
fn processes_of_the_same_user_cannot_look_into_it() {
    let test = "processes_of_the_same_user_cannot_look_into_it";
    if !netns::on_path("setpriv") {
        return skip(test, "`setpriv` is not installed");
    }
    if !rolegate_tests::has_other_users() {
        return skip(test, "this is root of a user namespace only");
    }
    let Some(world) = World::for_test(test, &rolegate_tests::world::Options::default()) else { return };
    let mut flags = world.usual_flags();
    let kubeconfig = flags.iter().find_map(|flag| flag.strip_prefix("--kubeconfig=")).unwrap().to_owned();
    flags.retain(|flag| !["--kubeconfig", "--iptables", "--state-dir"].iter().any(|it| flag.starts_with(it)));
    flags.extend(["--kubeconfig=/var/lib/kubeconfig", "--state-dir=/var/lib/none"].map(str::to_owned));
    let other = ["--reuid=65534", "--regid=65534", "--clear-groups"];
    let script = format!(
        "install -m 644 {kubeconfig} /var/lib/kubeconfig; exec setpriv {} /run/agent \"$@\"",
        other.join(" ")
    );
    let agent = Agent::start_contained(world.topology.node(), &script, &flags, &world.environment()).unwrap();
    agent.ready().unwrap();
    assert_eq!(owner_and_user(agent.pid()), (0, "65534".to_owned()));

    let mut plain = std::process::Command::new("setpriv").args(other).args(["sleep", "60"]).spawn().unwrap();
    let became = |pid: u32| {
        owner_and_user(pid).1 == "65534" && std::fs::read(format!("/proc/{pid}/comm")).unwrap() == b"sleep\n"
    };
    agent.poll("another program of that user runs", || Ok(became(plain.id()))).unwrap();
    let usual = owner_and_user(plain.id());
    plain.kill().unwrap();
    plain.wait().unwrap();
    assert_eq!(usual, (65_534, "65534".to_owned()), "a process like any other is its user's");
}

/// P40: nothing secret is handed to the process where `ps` or `/proc` shows it, and it puts nothing there.
#[test]
fn environment_and_command_line_have_no_secret() {
    let Some(scene) = Scene::set("environment_and_command_line_have_no_secret") else { return };
    let agent = scene.world.agent(&[]).unwrap();
    let held =
        |pod: &RunningPod| pod.imds().credentials().unwrap()["SecretAccessKey"].as_str().unwrap().to_owned();
    let secret = held(&scene.granted);
    for file in ["environ", "cmdline"] {
        let bytes = std::fs::read(format!("/proc/{}/{file}", agent.pid())).unwrap();
        let text = String::from_utf8_lossy(&bytes).replace('\0', "\n");
        assert!(text.contains("AWS_ENDPOINT_URL_STS") || text.contains("--kubeconfig"), "{text}");
        assert!(!text.contains(&secret), "{file}");
        assert_eq!(planted::find(&text), None, "{file}");
    }
}
