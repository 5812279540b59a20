//! The unit that puts the guards in at boot.

use std::path::{Path, PathBuf};
use std::process::Command;

use rolegate_tests::agent::binary;
use rolegate_tests::netns::{on_path, run};
use rolegate_tests::siege::Capture;
use rolegate_tests::topology::imds_v4;
use rolegate_tests::traffic::{Got, Traffic};

const UNIT: &str = "rolegate-guard.service";

fn unit() -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/node").join(UNIT);
    std::fs::read_to_string(path).unwrap()
}

/// All values of a key.
fn values<'u>(unit: &'u str, key: &str) -> Vec<&'u str> {
    let lines = unit.lines().filter_map(|line| line.strip_prefix(key)?.strip_prefix('='));
    lines.flat_map(str::split_whitespace).collect()
}

#[test]
fn kubelet_starts_after_the_guards_or_not_at_all() {
    let unit = unit();
    assert!(values(&unit, "Before").contains(&"kubelet.service"), "{unit}");
    assert_eq!(values(&unit, "RequiredBy"), ["kubelet.service"]);
    // Done is what it is when it has ended well, and it stays done.
    assert_eq!((values(&unit, "Type"), values(&unit, "RemainAfterExit")), (vec!["oneshot"], vec!["yes"]));
    assert_eq!(values(&unit, "ExecStart"), ["/usr/local/bin/rolegate", "guard"]);
}

#[test]
fn systemd_finds_no_fault_with_the_unit() {
    if !on_path("systemd-analyze") {
        return rolegate_tests::skip("systemd_finds_no_fault_with_the_unit", "there is no systemd-analyze");
    }
    let dir = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| -> PathBuf {
        let path = dir.path().join(name);
        std::fs::write(&path, text).unwrap();
        path
    };
    // What it starts has to be there.
    let installed = unit().replace("/usr/local/bin/rolegate", &binary().unwrap().display().to_string());
    let path = write(UNIT, &installed);
    write("kubelet.service", "[Service]\nExecStart=/bin/true\n");
    let search = format!("{}:/lib/systemd/system:/usr/lib/systemd/system", dir.path().display());
    let verify = |path: &Path| {
        let mut command = Command::new("systemd-analyze");
        let output = command.arg("verify").arg(path).env("SYSTEMD_UNIT_PATH", &search).output().unwrap();
        (output.status.success(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    let (fine, said) = verify(&path);
    assert!(fine && !said.contains(UNIT), "{said}");
    let wrong = write("wrong.service", &installed.replace("Before=", "Befor="));
    assert!(verify(&wrong).1.contains("Befor"), "it looks at such lines: {:?}", verify(&wrong));
}

/// P2: with what the unit lets it have (one capability, a read-only root, neither API server nor AWS) the guards close a node
/// before the first agent's start.
#[test]
fn guard_as_the_unit_runs_it_closes_the_node() {
    let test = "guard_as_the_unit_runs_it_closes_the_node";
    if !on_path("setpriv") {
        return rolegate_tests::skip(test, "there is no setpriv");
    }
    assert_eq!(values(&unit(), "CapabilityBoundingSet"), ["CAP_NET_ADMIN"]);
    let Some(world) = Capture::Route.world(test) else { return };
    let pod = world.pod("default", "pod", |pod| pod.role("MyPodRole")).unwrap();
    let traffic = Traffic::start(&pod.net, imds_v4());
    traffic.wait_for(2, |got| got == Got::NodeCredentials).unwrap();
    let run_unit = "mount -o remount,bind,ro / && exec setpriv --bounding-set=-all,+net_admin --inh-caps=-all \
                    --no-new-privs \"$0\" guard";
    let mut command = world.topology.node().command("unshare");
    let said = run(command.args(["--mount", "sh", "-c", run_unit]).arg(binary().unwrap())).unwrap();
    assert!(said.contains("the guards stand now"), "{said}");
    traffic.wait_for(2, |got| got == Got::Nothing).unwrap();
}
