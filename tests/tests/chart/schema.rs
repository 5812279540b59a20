//! Schema, values and flags say the same.

use std::collections::{BTreeMap, BTreeSet};

use rolegate_tests::agent::run_to_end;
use serde_json::{Value, json};

use super::deploy;

/// Of Helm and of kube2iam's chart: taken, not read.
const TAKEN: [&str; 4] = ["enabled", "global", "lifecycle", "podSecurityPolicy"];

fn file(name: &str) -> String {
    std::fs::read_to_string(deploy().join("helm/rolegate").join(name)).unwrap()
}

fn schema() -> Value {
    serde_json::from_str(&file("values.schema.json")).unwrap()
}

fn keys(object: &Value) -> BTreeSet<&str> {
    object.as_object().into_iter().flatten().map(|(key, _)| key.as_str()).collect()
}

#[test]
fn schema_has_every_value_and_no_other() {
    fn compare(path: &str, values: &Value, schema: &Value) {
        if schema["additionalProperties"] != json!(false) {
            return;
        }
        // Maps of the user's own are empty.
        let (mut known, given) = (keys(&schema["properties"]), keys(values));
        if path == "/extraArgs" || path == "/seLinuxOptions" {
            return;
        }
        if path.is_empty() {
            known.retain(|key| !TAKEN.contains(key));
        }
        if path == "/startupProbe" {
            known.retain(|key| given.contains(key));
        }
        assert_eq!(known, given, "{path}");
        for key in given {
            compare(&format!("{path}/{key}"), &values[key], &schema["properties"][key]);
        }
    }
    let values: Value = serde_saphyr::from_str(&file("values.yaml")).unwrap();
    compare("", &values, &schema());
}

/// In the form that helm-docs reads.
#[test]
fn every_value_has_a_comment() {
    let text = file("values.yaml");
    let lines: Vec<&str> = text.lines().collect();
    let mut commented = 0;
    for (at, line) in lines.iter().enumerate() {
        let Some((key, rest)) = line.trim_start().split_once(':') else { continue };
        let indent = line.len() - line.trim_start().len();
        let is_key = !key.starts_with(['#', '-', ' ']) && !key.contains(' ');
        let holds_others =
            rest.is_empty() && lines.get(at + 1).is_some_and(|next| next.trim_start().starts_with("# --"));
        // Below a value that is a map or list of Kubernetes' own, and has its comment itself.
        let inside = lines[..at]
            .iter()
            .rev()
            .find(|above| !above.is_empty() && above.len() - above.trim_start().len() < indent);
        let free = ["resources:", "requests:", "limits:", "affinity:", "nodeAffinity:", "labels:"];
        let inside = inside.is_some_and(|above| {
            free.contains(&above.trim())
                || above.contains("- ")
                || above.contains("Execution")
                || above.contains("Terms")
        });
        if !is_key || holds_others || inside || indent > 4 {
            continue;
        }
        let above = lines[..at].iter().rev().take_while(|above| above.trim_start().starts_with('#'));
        assert!(
            above.clone().any(|above| above.trim_start().starts_with("# -- ")),
            "no comment above {line}"
        );
        commented += 1;
    }
    assert!(commented > 90, "{commented}");
}

#[test]
fn extra_arguments_are_the_flags_there_are() {
    let page = include_str!("../../../docs/flags.md");
    let rows = page.lines().filter_map(|line| line.strip_prefix("| `--"));
    let flags: BTreeSet<&str> = rows.map(|row| row.split(['=', '[', '`']).next().unwrap()).collect();
    assert_eq!(keys(&schema()["properties"]["extraArgs"]["properties"]), flags);
}

/// What the schema lists is what the agent takes: each word of it, and besides no word that the agent names.
#[test]
fn words_of_the_schema_are_the_agents() {
    let schema = schema();
    let flags = BTreeMap::from([
        ("redirect", "redirect"),
        ("profile", "profile"),
        ("namespaceRestrictions", "namespace-restrictions"),
        ("namespaceRestrictionFormat", "namespace-restriction-format"),
        ("imdsV1", "imds-v1"),
        ("sharedL2", "shared-l2"),
        ("logFormat", "log-format"),
        ("logLevel", "log-level"),
    ]);
    let mistakes = |flag: &str, word: &str| {
        let arg = format!("--{flag}={word}");
        let output =
            run_to_end(None, &["run", "--node=n", "--host-ip=10.0.0.1", &arg, "--app-port=none"]).unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        said.lines().find(|line| line.contains(&arg)).map(str::to_owned)
    };
    for (value, flag) in flags {
        let listed: BTreeSet<String> = schema["properties"][value]["enum"]
            .as_array()
            .unwrap()
            .iter()
            .map(|word| word.as_str().map_or_else(|| word.to_string(), str::to_owned))
            .filter(|word| !word.is_empty())
            .collect();
        for word in &listed {
            assert_eq!(mistakes(flag, word), None);
        }
        let named = mistakes(flag, "neither").unwrap();
        let (_, allowed) = named.split_once("allowed is ").unwrap();
        let words: BTreeSet<String> =
            allowed.replace(" or ", ", ").split(", ").map(|word| word.trim().to_owned()).collect();
        assert_eq!(listed, words, "{flag}");
    }
}
