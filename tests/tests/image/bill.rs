//! The bill of materials: that it names what is there.

use std::collections::BTreeSet;
use std::process::Command;

use rolegate_tests::netns;
use serde_json::Value;

use super::{is_permissive, made};

/// P44: the bill of materials names every crate of the binary, each permissive, and every package of Debian's.
#[test]
fn bill_of_materials_names_what_is_in_the_images() {
    for variant in ["default", "slim"] {
        let Some(image) = made("bill_of_materials_names_what_is_in_the_images", variant) else { return };
        let root = image.unpack().unwrap();
        let bill = std::fs::read(root.join("usr/share/sbom/rolegate.cdx.json")).unwrap();
        let bill: Value = serde_json::from_slice(&bill).unwrap();
        assert_eq!((&bill["bomFormat"], &bill["specVersion"]), (&"CycloneDX".into(), &"1.5".into()));
        assert_eq!(bill["metadata"]["component"]["name"], "rolegate");
        assert_eq!(bill["metadata"]["component"]["version"], env!("CARGO_PKG_VERSION"));

        let components = bill["components"].as_array().unwrap();
        let named = |kind: &str| -> BTreeSet<String> {
            let begins = format!("pkg:{kind}/");
            let of_kind = components.iter().filter(|one| one["purl"].as_str().unwrap().starts_with(&begins));
            of_kind
                .map(|one| format!("{} {}", one["name"].as_str().unwrap(), one["version"].as_str().unwrap()))
                .collect()
        };
        let (named_crates, known) = (named("cargo"), crates(&image.config));
        let missing: Vec<_> = known.difference(&named_crates).collect();
        let unknown: Vec<_> = named_crates.difference(&known).collect();
        assert!(missing.is_empty() && unknown.is_empty(), "missing {missing:?}, unknown {unknown:?}");
        for one in components.iter().filter(|one| one["purl"].as_str().unwrap().starts_with("pkg:cargo/")) {
            assert!(is_permissive(one["licenses"][0]["expression"].as_str().unwrap_or_default()), "{one}");
        }

        // Of each package there is the word on its licence.
        let packages: BTreeSet<String> =
            named("deb").iter().map(|one| one.split(' ').next().unwrap().to_owned()).collect();
        let described: BTreeSet<String> = std::fs::read_dir(root.join("usr/share/doc"))
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .filter(|name| name != "rolegate")
            .collect();
        assert_eq!(packages, described, "{variant}");
    }
}

/// What cargo links into the binary for the image's platform: name and version. Macros and what they need run in the
/// compiler alone.
fn crates(config: &Value) -> BTreeSet<String> {
    let target = match config["architecture"].as_str() {
        Some("arm64") => "aarch64-unknown-linux-musl",
        _ => "x86_64-unknown-linux-musl",
    };
    let tree = netns::run(
        Command::new(env!("CARGO"))
            .args(["tree", "--locked", "-p", "rolegate", "-e", "normal,no-proc-macro", "--prefix", "none"])
            .args(["--format", "{p}", "--target", target])
            .current_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/..")),
    )
    .unwrap();
    tree.lines()
        .filter_map(|line| {
            let mut words = line.split(' ');
            let (name, version) = (words.next()?, words.next()?.strip_prefix('v')?);
            (name != "rolegate").then(|| format!("{name} {version}"))
        })
        .collect()
}
