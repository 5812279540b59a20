//! What is in the images that were made: every file, the labels, and that making them again makes the same.

use std::path::Path;
use std::process::Command;

use rolegate_tests::agent::binary;
use rolegate_tests::{clients, netns, skip};
use rustls::RootCertStore;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;

use super::made;

const VARIANTS: [&str; 2] = ["default", "slim"];

/// What the binary may take, in bytes. Its pages are most of the agent's resident memory, on every node.
const MOST_BINARY: u64 = 12_000_000;

/// What all files of the slim image may take together, in bytes.
const MOST_SLIM: u64 = 13_000_000;

/// Everything but directories that both images have. `@` stands for the C library's name of the platform.
const BOTH: [&str; 10] = [
    "etc/group",
    "etc/passwd",
    "etc/ssl/certs/ca-certificates.crt",
    "usr/local/bin/rolegate",
    "usr/share/common-licenses/GPL-2",
    "usr/share/common-licenses/MPL-2.0",
    "usr/share/doc/ca-certificates/copyright",
    "usr/share/doc/rolegate/LICENSE",
    "usr/share/doc/rolegate/crates",
    "usr/share/sbom/rolegate.cdx.json",
];

/// And what the default one has besides.
const IPTABLES: [&str; 36] = [
    "lib/@/libc.so.6",
    "lib/@/libm.so.6",
    "usr/lib/@/libip4tc.so.2",
    "usr/lib/@/libip6tc.so.2",
    "usr/lib/@/libmnl.so.0",
    "usr/lib/@/libnetfilter_conntrack.so.3",
    "usr/lib/@/libnfnetlink.so.0",
    "usr/lib/@/libnftnl.so.11",
    "usr/lib/@/libxtables.so.12",
    "usr/sbin/ip6tables-legacy",
    "usr/sbin/ip6tables-legacy-restore",
    "usr/sbin/ip6tables-legacy-save",
    "usr/sbin/ip6tables-nft",
    "usr/sbin/ip6tables-nft-restore",
    "usr/sbin/ip6tables-nft-save",
    "usr/sbin/iptables-legacy",
    "usr/sbin/iptables-legacy-restore",
    "usr/sbin/iptables-legacy-save",
    "usr/sbin/iptables-nft",
    "usr/sbin/iptables-nft-restore",
    "usr/sbin/iptables-nft-save",
    "usr/sbin/xtables-legacy-multi",
    "usr/sbin/xtables-nft-multi",
    "usr/share/common-licenses/Artistic",
    "usr/share/common-licenses/LGPL-2.1",
    "usr/share/doc/iptables/SOURCES",
    "usr/share/doc/iptables/copyright",
    "usr/share/doc/libc6/copyright",
    "usr/share/doc/libip4tc2/copyright",
    "usr/share/doc/libip6tc2/copyright",
    "usr/share/doc/libmnl0/copyright",
    "usr/share/doc/libnetfilter-conntrack3/copyright",
    "usr/share/doc/libnfnetlink0/copyright",
    "usr/share/doc/libnftnl11/copyright",
    "usr/share/doc/libxtables12/copyright",
    "@loader",
];

/// P42: the images have these files and no other, so no shell, all of them root's and none setuid.
#[test]
fn files_of_the_images_are_those_and_no_other() {
    for variant in VARIANTS {
        let Some(image) = made("files_of_the_images_are_those_and_no_other", variant) else { return };
        let entries = image.entries().unwrap();
        for entry in &entries {
            assert_eq!(entry.owner, "0/0", "{entry:?}");
            assert!(!entry.mode.contains(['s', 'S']), "{entry:?}");
            let writable = entry.mode.as_bytes()[8] == b'w' && !entry.mode.starts_with('l');
            assert!(!writable || entry.path == "tmp", "others may write: {entry:?}");
        }
        let (extensions, files): (Vec<&str>, Vec<&str>) = entries
            .iter()
            .filter(|entry| !entry.mode.starts_with('d'))
            .map(|entry| entry.path.as_str())
            .partition(|path| path.contains("/xtables/"));
        assert_eq!(files, expected(variant), "{variant}");
        // Matches and targets of everybody's rules: a table cannot be read without those that are in it.
        let all = extensions.iter().all(|path| path.ends_with(".so"));
        assert!(all && extensions.is_empty() == (variant == "slim"), "{extensions:?}");
        if variant == "default" {
            for used in ["tcp", "comment", "NAT", "mark", "addrtype", "statistic", "set"] {
                assert!(extensions.iter().any(|path| path.ends_with(&format!("/libxt_{used}.so"))), "{used}");
            }
        }
    }
}

fn expected(variant: &str) -> Vec<String> {
    let architecture = std::env::consts::ARCH;
    let loader = match architecture {
        "x86_64" => "lib64/ld-linux-x86-64.so.2",
        _ => "lib/ld-linux-aarch64.so.1",
    };
    let name = loader.rsplit('/').next().unwrap();
    let mut files: Vec<String> = BOTH.map(String::from).into();
    if variant == "default" {
        files.extend(
            IPTABLES.map(|path| {
                path.replace("@loader", loader).replace('@', &format!("{architecture}-linux-gnu"))
            }),
        );
        files.push(format!("lib/{architecture}-linux-gnu/{name}"));
    }
    files.sort();
    files
}

#[test]
fn binary_and_slim_image_keep_within_their_sizes() {
    let Some(image) = made("binary_and_slim_image_keep_within_their_sizes", "slim") else { return };
    let entries = image.entries().unwrap();
    let binary = entries.iter().find(|entry| entry.path == "usr/local/bin/rolegate").unwrap().size;
    let all: u64 = entries.iter().map(|entry| entry.size).sum();
    println!("binary {binary} bytes, slim image {all} bytes");
    for (what, size, most) in [("binary", binary, MOST_BINARY), ("slim image", all, MOST_SLIM)] {
        assert!(
            size <= most,
            "the {what} has {size} bytes, {most} are allowed. The heading Size of docs/performance.md says what it is made of \
             and how to look; a new package off the hot path is built small unless Cargo.toml names it. Where it must \
             grow, raise the number here in the same change and say why."
        );
    }
}

#[test]
fn images_say_what_they_are() {
    for variant in VARIANTS {
        let Some(image) = made("images_say_what_they_are", variant) else { return };
        let label = |name: &str| {
            image.label(&format!("org.opencontainers.image.{name}")).unwrap_or_else(|| panic!("{name}"))
        };
        assert_eq!(label("title"), "rolegate");
        assert_eq!(label("version"), env!("CARGO_PKG_VERSION"));
        assert_eq!(label("source"), env!("CARGO_PKG_REPOSITORY"));
        assert!(label("documentation").starts_with(env!("CARGO_PKG_REPOSITORY")));
        assert!(label("licenses").starts_with("Apache-2.0 AND MPL-2.0"));
        assert_eq!(label("licenses").contains("GPL-2.0-or-later"), variant == "default");
        assert!(!label("description").is_empty() && !label("revision").is_empty());
        assert_eq!(label("created"), image.config["created"].as_str().unwrap());
        assert_eq!(image.config["config"]["Entrypoint"], serde_json::json!(["/usr/local/bin/rolegate"]));
        assert_eq!(image.config["config"]["Cmd"].as_array().map_or(0, Vec::len), 0);
        assert_eq!(image.config["os"], "linux");
    }
}

/// P44: the binary in the images loads nothing at all, and says nothing of where it was made.
#[test]
fn binary_of_the_images_is_static_stripped_and_names_no_place() {
    let test = "binary_of_the_images_is_static_stripped_and_names_no_place";
    let Some(image) = made(test, "slim") else { return };
    let path = image.unpack().unwrap().join("usr/local/bin/rolegate");
    let read = |what| netns::run(Command::new("readelf").env("LC_ALL", "C").arg(what).arg(&path)).unwrap();
    assert!(!read("--program-headers").contains("INTERP"));
    assert!(!read("--dynamic").contains("NEEDED"));
    assert!(!read("--sections").contains(".symtab"));
    let bytes = std::fs::read(&path).unwrap();
    let repository = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_str().unwrap();
    for place in [repository, "/.cargo/", "/.rustup/", "/registry/src/github"] {
        let found = bytes.windows(place.len()).position(|window| window == place.as_bytes());
        let around = found.map(|at| String::from_utf8_lossy(&bytes[at..bytes.len().min(at + 120)]));
        assert_eq!(around, None, "{place}");
    }
}

#[test]
fn roots_of_trust_are_many_and_can_be_read() {
    let Some(image) = made("roots_of_trust_are_many_and_can_be_read", "slim") else { return };
    let file = image.unpack().unwrap().join("etc/ssl/certs/ca-certificates.crt");
    let mut store = RootCertStore::empty();
    for certificate in CertificateDer::pem_file_iter(file).unwrap() {
        store.add(certificate.unwrap()).unwrap();
    }
    assert!(store.len() > 100, "{}", store.len());
}

/// P44: what is in an image depends on what it is made of, not on where, when or by whom.
#[test]
fn assembling_again_makes_the_same_archive() {
    let test = "assembling_again_makes_the_same_archive";
    let Some(image) = made(test, "default") else { return };
    if let Some(why) = cannot_assemble() {
        return skip(test, &why);
    }
    let binary = image.unpack().unwrap().join("usr/local/bin/rolegate");
    let dir = tempfile::tempdir().unwrap();
    // Another time zone, another language, another mask for new files.
    let [one, other] =
        [("UTC", "C", "022"), ("Asia/Tokyo", "C.UTF-8", "077")].map(|(zone, language, mask)| {
            let output = dir.path().join(mask);
            let mut command = assemble(&binary, &output, mask);
            netns::run(command.env("TZ", zone).env("LC_ALL", language)).unwrap();
            std::fs::read(output).unwrap()
        });
    assert!(one == other, "two assemblies of one binary differ");
}

#[test]
fn binary_that_is_not_static_is_refused() {
    if let Some(why) = cannot_assemble() {
        return skip("binary_that_is_not_static_is_refused", &why);
    }
    let dir = tempfile::tempdir().unwrap();
    let output = dir.path().join("image.tar");
    let refused = assemble(&binary().unwrap(), &output, "022").output().unwrap();
    assert!(!refused.status.success() && !output.exists());
    assert!(String::from_utf8_lossy(&refused.stderr).contains("is not static"), "{refused:?}");
}

fn cannot_assemble() -> Option<String> {
    ["buildah", "python3", "readelf", "apt-get"]
        .into_iter()
        .find(|program| !netns::on_path(program))
        .map(|program| format!("`{program}` is not installed"))
}

/// `deploy/image/assemble.sh`, with this mask for new files.
fn assemble(binary: &Path, output: &Path, mask: &str) -> Command {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/image/assemble.sh");
    let mut command = Command::new("sh");
    command.args(["-c", "umask $0; exec \"$@\"", mask]).arg(script);
    command.arg("--binary").arg(binary).arg("--output").arg(output);
    command.args(["--variant", "default", "--name", "localhost/rolegate:again"]);
    command.env("SOURCE_DATE_EPOCH", "1000000000").env("ROLEGATE_CACHE", clients::cache());
    command
}
