//! The key of session tokens in a state directory that is full, read-only, lost, or has something else in the key's
//! place: pods are served, and the operator is told once.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;

use rolegate_tests::agent::Agent;
use rolegate_tests::world::{Options, RunningPod, World};

const LIST: &str = "/latest/meta-data/iam/security-credentials/";
/// Where the agent of a container has its state.
const STATE: &str = "/var/lib/rolegate";
const KEY: &str = "/var/lib/rolegate/imds-token.key";

/// How a state directory is found at the start.
struct Row {
    name: &'static str,
    /// Makes it, as a shell script in the agent's own mount namespace; `$KEY` is the key's file.
    make: &'static str,
    /// What the one warning says; nothing where none is due.
    warns: &'static str,
    /// A good key is in a plain file of its own afterwards.
    kept: bool,
}

const FULL: &str =
    "mount -t tmpfs -o size=4k,mode=700 tmpfs $STATE; cat /dev/zero > $STATE/ballast 2>/dev/null || :";

const ROWS: &[Row] = &[
    Row { name: "nothing is there yet", make: "rmdir $STATE", warns: "", kept: true },
    Row { name: "the disk is full", make: FULL, warns: "cannot be kept", kept: false },
    Row {
        name: "no more files can be made",
        make: "mount -t tmpfs -o nr_inodes=1 tmpfs $STATE",
        warns: "cannot be kept",
        kept: false,
    },
    Row {
        name: "it is read-only",
        make: "mount -t tmpfs -o ro tmpfs $STATE",
        warns: "cannot be kept",
        kept: false,
    },
    Row {
        name: "a file stands in its place",
        make: "rmdir $STATE; : > $STATE",
        warns: "cannot be kept",
        kept: false,
    },
    Row { name: "a directory is the key", make: "mkdir $KEY", warns: "cannot be kept", kept: false },
    Row { name: "the key is empty", make: "put 0 /dev/zero", warns: "was damaged", kept: true },
    Row { name: "the key is cut off", make: "put 31 /dev/urandom", warns: "was damaged", kept: true },
    Row { name: "the key is too long", make: "put 33 /dev/urandom", warns: "was damaged", kept: true },
    Row { name: "the key is zeros", make: "put 32 /dev/zero", warns: "was damaged", kept: true },
    Row {
        name: "the key is for all to read",
        make: "put 32 /dev/urandom; chmod 644 $KEY",
        warns: "readable by others",
        kept: true,
    },
    Row {
        name: "the key is another user's",
        make: "put 32 /dev/urandom; chown 65534 $KEY",
        warns: "readable by others",
        kept: true,
    },
    Row {
        name: "the key is a link to one elsewhere",
        make: "put 32 /dev/urandom; mv $KEY /var/lib/elsewhere; cp /var/lib/elsewhere /var/lib/copy; ln -s /var/lib/elsewhere $KEY",
        warns: "was damaged",
        kept: true,
    },
    Row {
        name: "the key is a link to nothing",
        make: "ln -s /var/lib/nowhere $KEY",
        warns: "was damaged",
        kept: true,
    },
    Row { name: "the key is a pipe", make: "mkfifo -m 600 $KEY", warns: "was damaged", kept: true },
    Row { name: "the key is a device", make: "mknod -m 600 $KEY c 1 5", warns: "was damaged", kept: true },
    Row { name: "the key is good", make: "put 32 /dev/urandom", warns: "", kept: true },
    Row {
        name: "a writer was killed",
        make: "put 16 /dev/urandom; mv $KEY $KEY.0123456789abcdef",
        warns: "",
        kept: true,
    },
];

/// Starts an agent whose `/var/lib/rolegate` was made so.
fn start(world: &World, make: &str) -> Agent {
    let script = format!(
        "STATE={STATE}; KEY={KEY}; mkdir -m 700 $STATE
         put() {{ head -c $1 $2 > $KEY; chmod 600 $KEY; }}
         {make}"
    );
    let mut flags = world.usual_flags();
    flags.retain(|flag| !flag.starts_with("--state-dir"));
    flags.push(format!("--state-dir={STATE}"));
    Agent::start_contained(world.topology.node(), &script, &flags, &world.environment()).unwrap()
}

/// A file as the agent sees it.
fn inside(agent: &Agent, path: &str) -> PathBuf {
    PathBuf::from(format!("/proc/{}/root{path}", agent.pid()))
}

fn check(world: &World, pod: &RunningPod, row: &Row) {
    let name = row.name;
    let agent = start(world, row.make);
    agent.ready().unwrap();
    let token = pod.imds().imds_token(300).unwrap();
    assert_eq!(pod.imds().get_v2(LIST, &token).unwrap().status, 200, "{name}: {}", agent.log());
    assert_eq!(pod.imds().credentials().unwrap()["Code"], "Success", "{name}: {}", agent.log());

    let warnings: Vec<String> = agent
        .lines()
        .iter()
        .filter(|line| line.text_of("level").as_deref() == Some("WARN"))
        .filter_map(|line| line.text_of("warning"))
        .collect();
    assert_eq!(warnings.len(), usize::from(!row.warns.is_empty()), "{name}: {warnings:?}");
    assert!(
        warnings.iter().all(|text| text.contains(row.warns) && text.contains(STATE)),
        "{name}: {warnings:?}"
    );

    let key = inside(&agent, KEY);
    let found = std::fs::symlink_metadata(&key);
    if row.kept {
        let found = found.unwrap();
        assert!(found.is_file(), "{name}");
        assert_eq!(
            (found.mode() & 0o777, found.len(), found.uid(), found.nlink()),
            (0o600, 32, 0, 1),
            "{name}"
        );
        assert!(std::fs::read(&key).unwrap().iter().any(|byte| *byte != 0), "{name}");
    } else {
        assert!(found.is_err() || found.is_ok_and(|found| found.is_dir()), "{name}: nothing is half kept");
    }
    let entries = std::fs::read_dir(inside(&agent, STATE)).into_iter().flatten().flatten();
    let names: Vec<_> = entries.filter_map(|entry| entry.file_name().into_string().ok()).collect();
    let beside = names.iter().find(|name| name.starts_with("imds-token.key."));
    assert_eq!(beside, None, "{name}: nothing is left beside the key");
    if row.make.contains("/var/lib/copy") {
        let [theirs, before] =
            ["/var/lib/elsewhere", "/var/lib/copy"].map(|path| std::fs::read(inside(&agent, path)).unwrap());
        assert_eq!(theirs, before, "{name}: nothing is written through a link");
        assert_ne!(std::fs::read(&key).unwrap(), before, "{name}: nothing is read through a link");
    }
    if row.make.contains("nowhere") {
        assert!(!inside(&agent, "/var/lib/nowhere").exists(), "{name}: nothing is made through a link");
    }
    agent.sigterm().unwrap();
    assert_eq!(agent.wait().unwrap().code(), Some(0), "{name}: {}", agent.log());
}

#[test]
fn whatever_the_state_directory_is_like_tokens_are_given_and_the_operator_is_told_once() {
    let test = "whatever_the_state_directory_is_like_tokens_are_given_and_the_operator_is_told_once";
    let Some(world) = World::for_test(test, &Options::default()) else { return };
    world.namespace("default", &["MyPodRole"]).unwrap();
    let pod = world.pod("default", "pod", |pod| pod.role("MyPodRole")).unwrap();
    for row in ROWS {
        if !rolegate_tests::has_other_users() && ["chown", "mknod"].iter().any(|it| row.make.contains(it)) {
            rolegate_tests::skip(test, &format!("{}: this is root of a user namespace only", row.name));
            continue;
        }
        check(&world, &pod, row);
    }
}

/// As after a node was made anew at the same address: a token proves nothing any more, and its holder is told to get
/// another.
#[test]
fn lost_state_directory_makes_old_tokens_401_and_new_ones_good() {
    let test = "lost_state_directory_makes_old_tokens_401_and_new_ones_good";
    let Some(world) = World::for_test(test, &Options::default()) else { return };
    world.namespace("default", &["MyPodRole"]).unwrap();
    let pod = world.pod("default", "pod", |pod| pod.role("MyPodRole")).unwrap();
    let old = {
        let agent = start(&world, "");
        agent.ready().unwrap();
        pod.imds().imds_token(21_600).unwrap()
    };
    let agent = start(&world, "");
    agent.ready().unwrap();
    for path in [LIST.to_owned(), format!("{LIST}MyPodRole")] {
        let answer = pod.imds().get_v2(&path, &old).unwrap();
        assert_eq!((answer.status, answer.text().as_str()), (401, ""), "{path}: {}", agent.log());
    }
    let new = pod.imds().imds_token(21_600).unwrap();
    assert_eq!(pod.imds().document("MyPodRole", &new).unwrap().status, 200);
}
