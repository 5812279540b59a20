//! Every JSON and YAML document of the pages parses, and policies have the shape that IAM wants.

use regex::Regex;
use serde_json::Value;

use super::pages::{self, Page};

/// A document, and where it is.
type Document = (String, Value);

#[test]
fn every_json_document_parses_and_policies_are_policies() {
    let mut policies = 0;
    for page in pages::all() {
        for (place, document) in json_of(&page) {
            if let Some(statements) = statements(&document) {
                policies += 1;
                for statement in statements {
                    check(&place, statement);
                }
            }
        }
    }
    assert!(policies > 5, "policies are not found");
}

#[test]
fn every_yaml_document_parses() {
    for page in pages::all() {
        for block in page.blocks().into_iter().filter(|block| block.language == "yaml") {
            let parsed: Result<Vec<Value>, _> = serde_saphyr::from_multiple(&block.text);
            let documents = parsed.unwrap_or_else(|error| panic!("{}:{}: {error}", page.name, block.line));
            for policy in documents.iter().filter_map(|document| document.pointer("/spec/additionalPolicies"))
            {
                for (role, text) in policy.as_object().unwrap() {
                    let place = format!("{}:{} {role}", page.name, block.line);
                    let statements: Vec<Value> = serde_json::from_str(text.as_str().unwrap()).unwrap();
                    statements.iter().for_each(|statement| check(&place, statement));
                }
            }
        }
    }
}

/// Blocks of JSON, and files of JSON that blocks of commands write.
fn json_of(page: &Page) -> Vec<Document> {
    let file = Regex::new(r"(?ms)^cat > (\S+\.json) <<'?EOF'?\n(.*?)^EOF$").unwrap();
    let parse = |place: String, text: &str| {
        let value = serde_json::from_str(text).unwrap_or_else(|error| panic!("{place}: {error}"));
        (place, value)
    };
    let mut found = Vec::new();
    for block in page.blocks() {
        let place = format!("{}:{}", page.name, block.line);
        match block.language.as_str() {
            "json" => found.push(parse(place, &block.text)),
            "sh" => found.extend(
                file.captures_iter(&block.text).map(|file| parse(format!("{place} {}", &file[1]), &file[2])),
            ),
            _ => {}
        }
    }
    found
}

/// The statements of a policy, or of a single one.
fn statements(document: &Value) -> Option<Vec<&Value>> {
    if let Some(statements) = document.get("Statement") {
        assert_eq!(document["Version"], "2012-10-17", "{document}");
        return Some(statements.as_array().unwrap().iter().collect());
    }
    document.get("Effect").map(|_| vec![document])
}

fn check(place: &str, statement: &Value) {
    let known = ["Sid", "Effect", "Principal", "Action", "NotAction", "Resource", "NotResource", "Condition"];
    for key in statement.as_object().unwrap().keys() {
        assert!(known.contains(&key.as_str()), "{place}: {key}");
    }
    assert!(matches!(statement["Effect"].as_str(), Some("Allow" | "Deny")), "{place}: {statement}");
    let has = |key: &str| statement.get(key).is_some();
    assert!(has("Action") != has("NotAction"), "{place}: one of Action and NotAction");
    let (principal, resource) = (has("Principal"), has("Resource") || has("NotResource"));
    assert!(principal != resource, "{place}: a trust policy has a principal, any other a resource");
    let texts = |value: &Value| match value {
        Value::Array(values) => values.iter().filter_map(Value::as_str).map(String::from).collect(),
        value => value.as_str().map(String::from).into_iter().collect::<Vec<_>>(),
    };
    let action = Regex::new(r"^(\*|[a-z0-9-]+:[A-Za-z*]+)$").unwrap();
    for named in ["Action", "NotAction"].iter().flat_map(|key| texts(&statement[*key])) {
        assert!(action.is_match(&named), "{place}: {named}");
    }
    let arn = Regex::new(r"^(\*|arn:aws[a-z-]*:[a-z0-9]+:[a-z0-9-]*:(\d{12}|aws|\*)?:\S+)$").unwrap();
    let principals = texts(&statement["Principal"]["AWS"]);
    let resources = ["Resource", "NotResource"].iter().flat_map(|key| texts(&statement[*key]));
    for named in resources.chain(principals) {
        assert!(arn.is_match(&named), "{place}: {named}");
    }
}
