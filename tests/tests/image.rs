//! What an image must have beside the binary, what is in the binary; and the images that were made.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

#[path = "image/bill.rs"]
mod bill;
#[path = "image/contents.rs"]
mod contents;
#[path = "image/running.rs"]
mod running;

use std::collections::BTreeSet;
use std::process::Command;

use rolegate_tests::agent::{Agent, binary};
use rolegate_tests::image::Image;
use rolegate_tests::netns;
use rolegate_tests::skip;
use rolegate_tests::topology::NODE_V4;
use rolegate_tests::world::{Options, World};

/// Hides every program of the machine; `/programs`, made by the script before, is all that the agent can run.
const NOTHING_ELSE: &str = "
for place in /usr/local/sbin /usr/local/bin /usr/sbin /sbin /bin; do
  if [ -d $place ] && [ ! -L $place ]; then mount --bind /run/programs $place; fi
done
mount --bind /run/programs /usr/bin";

/// Copies of the iptables programs, and nothing that they do not need themselves.
const IPTABLES: &str = "
for name in xtables-nft-multi xtables-legacy-multi; do
  program=$(command -v $name) || continue
  cp $program /run/programs/
done
for name in iptables ip6tables; do
  for way in nft legacy; do
    for what in '' -save -restore; do ln -s xtables-$way-multi /run/programs/$name-$way$what; done
  done
  for what in '' -save -restore; do ln -s $name-nft$what /run/programs/$name$what; done
done";

/// Permissive licences, as deny.toml has them.
const LICENCES: [&str; 12] = [
    "0BSD",
    "Apache-2.0",
    "Apache-2.0 WITH LLVM-exception",
    "BSD-2-Clause",
    "BSD-3-Clause",
    "CC0-1.0",
    "ISC",
    "MIT",
    "MIT-0",
    "Unicode-3.0",
    "Unlicense",
    "Zlib",
];

fn world(test: &str) -> Option<World> {
    let world = World::for_test(test, &Options::default())?;
    world.namespace("default", &["MyPodRole"]).unwrap();
    Some(world)
}

/// The agent where there are no programs but those that `script` puts into `/run/programs`.
fn alone(world: &World, script: &str, args: &[String]) -> Agent {
    let script = format!("mkdir /run/programs{script}{NOTHING_ELSE}");
    Agent::start_contained(world.topology.node(), &script, args, &world.environment()).unwrap()
}

/// P42: without the iptables capture the agent runs no other program, so an image of the binary alone will do.
#[test]
fn agent_alone_serves_where_somebody_else_redirects() {
    let Some(world) = world("agent_alone_serves_where_somebody_else_redirects") else { return };
    let pod = world.pod("default", "aws-cli", |pod| pod.role("MyPodRole")).unwrap();
    let rule = "-t nat -A PREROUTING -p tcp -d 169.254.169.254 --dport 80 -j DNAT --to-destination";
    let mut iptables = world.topology.node().command("iptables-nft");
    netns::run(iptables.args(rule.split(' ')).arg(format!("{NODE_V4}:8181"))).unwrap();
    let mut args = world.usual_flags();
    args.retain(|flag| flag != "--iptables");
    let agent = alone(&world, "", &args);
    agent.ready().unwrap();
    assert_eq!(pod.imds().credentials().unwrap()["Code"], "Success", "{}", agent.log());
}

/// P42: policy routing runs no other program either, and is what is chosen where there is none.
#[test]
fn agent_alone_redirects_by_policy_routing() {
    let Some(world) = world("agent_alone_redirects_by_policy_routing") else { return };
    let pod = world.pod("default", "aws-cli", |pod| pod.role("MyPodRole")).unwrap();
    let mut args = world.usual_flags();
    args.retain(|flag| flag != "--iptables");
    args.push("--redirect=auto".into());
    let agent = alone(&world, "", &args);
    agent.ready().unwrap();
    assert_eq!(agent.metric("rolegate_redirect_mode{mode=\"route\"}").unwrap(), 1.0, "{}", agent.log());
    assert_eq!(pod.imds().credentials().unwrap()["Code"], "Success", "{}", agent.log());
}

/// P42: with it, iptables itself is all that an image needs: no shell and none of the tools about it.
#[test]
fn agent_with_iptables_and_no_shell_redirects_and_serves() {
    let Some(world) = world("agent_with_iptables_and_no_shell_redirects_and_serves") else { return };
    let pod = world.pod("default", "aws-cli", |pod| pod.role("MyPodRole")).unwrap();
    let agent = alone(&world, IPTABLES, &world.usual_flags());
    agent.ready().unwrap();
    assert_eq!(pod.imds().credentials().unwrap()["Code"], "Success", "{}", agent.log());
}

/// P10, P42: and where it is missing, too, the agent says so and nothing is open.
#[test]
fn agent_without_iptables_that_needs_it_is_not_ready_and_says_so() {
    let Some(world) = world("agent_without_iptables_that_needs_it_is_not_ready_and_says_so") else { return };
    let agent = alone(&world, "", &world.usual_flags());
    agent.wait_for_line("what is missing", |line| line.text.contains("iptables")).unwrap();
    assert!(agent.status().is_some() || agent.admin("/readyz").is_ok_and(|answer| answer.status == 503));
}

/// P44: the binary loads nothing but the C library and the compiler's own.
#[test]
fn binary_loads_the_c_library_and_nothing_else() {
    let loaded = Command::new("ldd").arg(binary().unwrap()).output().unwrap();
    let text = String::from_utf8(loaded.stdout).unwrap();
    let names: BTreeSet<&str> = text
        .lines()
        .filter_map(|line| line.split_whitespace().next()?.rsplit('/').next()?.split(".so").next())
        .collect();
    let expected = ["libc", "libgcc_s", "libm", "linux-vdso", "ld-linux-x86-64", "ld-linux-aarch64"];
    assert!(names.iter().all(|name| expected.contains(name)), "{text}");
    assert!(names.contains("libc"), "{text}");
}

/// An image that `make image` made, or nothing after the word on why the test is skipped.
fn made(test: &str, variant: &str) -> Option<Image> {
    match rolegate_tests::image::archive(variant) {
        Ok(archive) => Some(Image::open(&archive).unwrap()),
        Err(why) => {
            skip(test, &why);
            None
        }
    }
}

/// P44: nothing copyleft is in it, and of the packages only the cryptography has code in another language.
#[test]
fn packages_of_the_binary_are_permissive_and_rust() {
    let tree = Command::new(env!("CARGO"))
        .args(["tree", "--locked", "-p", "rolegate", "-e", "normal", "--prefix", "none"])
        .args(["--format", "{p}|{l}"])
        .current_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
        .output()
        .unwrap();
    assert!(tree.status.success(), "{}", String::from_utf8_lossy(&tree.stderr));
    let tree = String::from_utf8(tree.stdout).unwrap();
    let packages: BTreeSet<(&str, &str)> = tree
        .lines()
        .map(|line| line.trim_end_matches(" (*)"))
        .filter_map(|line| line.split_once('|'))
        .map(|(package, licence)| (package.split(' ').next().unwrap(), licence))
        .collect();
    assert!(packages.len() > 100, "{packages:?}");
    let copyleft: Vec<_> = packages.iter().filter(|(_, licence)| !is_permissive(licence)).collect();
    assert!(copyleft.is_empty(), "{copyleft:?}");
    // A binding of a C library ends in -sys, by convention. The other two are system calls in Rust.
    let bindings: Vec<&str> =
        packages.iter().map(|(name, _)| *name).filter(|name| name.ends_with("-sys")).collect();
    assert_eq!(bindings, ["aws-lc-sys", "linux-raw-sys", "netlink-sys"]);
}

/// Every part joined by `AND` has an alternative that is permissive. Brackets are read as if they were not there, which
/// is right for alternatives inside of conjunctions, the only nesting there is.
fn is_permissive(licence: &str) -> bool {
    let flat = licence.replace(['(', ')'], "").replace('/', " OR ");
    flat.split(" AND ").all(|part| part.split(" OR ").any(|one| LICENCES.contains(&one.trim())))
}

#[test]
fn copyleft_is_seen_unless_there_is_a_choice() {
    for permissive in ["MIT", "MIT OR GPL-3.0-only", "ISC AND (Apache-2.0 OR ISC)", "MIT/Apache-2.0"] {
        assert!(is_permissive(permissive), "{permissive}");
    }
    for copyleft in ["GPL-3.0-or-later", "MIT AND LGPL-2.1-or-later", "MPL-2.0", ""] {
        assert!(!is_permissive(copyleft), "{copyleft}");
    }
}
