//! IAM policies as far as AssumeRole needs them: who, what, on what, under which external id.

use serde_json::Value;

/// A request that policies are asked about.
#[derive(Clone, Copy, Debug)]
pub(super) struct Asked<'a> {
    /// The caller's role or user: `arn:aws:iam::…`.
    pub(super) principal: &'a str,
    /// The caller's session: `arn:aws:sts::…:assumed-role/…`, or the user again.
    pub(super) caller: &'a str,
    pub(super) account: &'a str,
    pub(super) resource: &'a str,
    pub(super) external_id: Option<&'a str>,
}

/// True if the role's trust policy lets the caller in. What is not understood allows nothing.
pub(super) fn trusts(policy: &Value, asked: Asked<'_>) -> bool {
    allowed(policy, asked, |statement| names_principal(&statement["Principal"], asked))
}

/// True if the caller's own policy lets it assume the role.
pub(super) fn permits(policy: &Value, asked: Asked<'_>) -> bool {
    allowed(policy, asked, |statement| any(&statement["Resource"], |pattern| like(pattern, asked.resource)))
}

fn allowed(policy: &Value, asked: Asked<'_>, concerns: impl Fn(&Value) -> bool) -> bool {
    let statements: Vec<&Value> = match &policy["Statement"] {
        Value::Array(all) => all.iter().collect(),
        one => vec![one],
    };
    let with = |effect: &str| {
        statements.iter().any(|statement| {
            statement["Effect"] == effect
                && any(&statement["Action"], |action| like(action, "sts:AssumeRole"))
                && concerns(statement)
                && conditions_hold(&statement["Condition"], asked)
        })
    };
    with("Allow") && !with("Deny")
}

fn names_principal(principal: &Value, asked: Asked<'_>) -> bool {
    let account_root = format!(":iam::{}:root", asked.account);
    let is_caller = |name: &str| {
        name == "*"
            || name == asked.principal
            || name == asked.caller
            || name == asked.account
            || name.ends_with(&account_root)
    };
    principal == "*" || any(&principal["AWS"], is_caller)
}

fn conditions_hold(condition: &Value, asked: Asked<'_>) -> bool {
    let Some(operators) = condition.as_object() else { return condition.is_null() };
    operators.iter().all(|(operator, keys)| {
        keys.as_object()
            .is_some_and(|keys| keys.iter().all(|(key, wanted)| holds(operator, key, wanted, asked)))
    })
}

fn holds(operator: &str, key: &str, wanted: &Value, asked: Asked<'_>) -> bool {
    let found = match key.to_ascii_lowercase().as_str() {
        "sts:externalid" => asked.external_id,
        "aws:principalarn" => Some(asked.principal),
        "aws:principalaccount" => Some(asked.account),
        _ => return false,
    };
    match operator {
        "StringEquals" | "ArnEquals" => found.is_some_and(|found| any(wanted, |wanted| wanted == found)),
        "StringLike" | "ArnLike" => found.is_some_and(|found| any(wanted, |wanted| like(wanted, found))),
        "StringNotEquals" => !found.is_some_and(|found| any(wanted, |wanted| wanted == found)),
        _ => false,
    }
}

/// A string, or any of a list of strings.
fn any(value: &Value, test: impl Fn(&str) -> bool) -> bool {
    match value {
        Value::String(one) => test(one),
        Value::Array(all) => all.iter().filter_map(Value::as_str).any(test),
        _ => false,
    }
}

/// IAM's wildcards: `*` is any text, `?` any character.
fn like(pattern: &str, text: &str) -> bool {
    let escaped = regex::escape(pattern).replace(r"\*", ".*").replace(r"\?", ".");
    regex::Regex::new(&format!("^(?s:{escaped})$")).is_ok_and(|regex| regex.is_match(text))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const NODE: &str = "arn:aws:iam::123456789012:role/nodes.example.cluster.k8s.local";

    fn asked(external_id: Option<&str>) -> Asked<'_> {
        Asked {
            principal: NODE,
            caller: "arn:aws:sts::123456789012:assumed-role/nodes.example.cluster.k8s.local/i-0",
            account: "123456789012",
            resource: "arn:aws:iam::123456789012:role/MyPodRole",
            external_id,
        }
    }

    fn trust(principal: &Value, condition: &Value) -> Value {
        json!({"Statement": [{
            "Effect": "Allow", "Principal": principal, "Action": "sts:AssumeRole", "Condition": condition,
        }]})
    }

    #[test]
    fn a_role_an_account_or_everybody_is_trusted_and_a_service_is_not_the_node() {
        for (principal, expected) in [
            (json!({ "AWS": NODE }), true),
            (json!({ "AWS": ["arn:aws:iam::123456789012:role/other", NODE] }), true),
            (json!({ "AWS": "arn:aws:iam::123456789012:root" }), true),
            (json!({ "AWS": "123456789012" }), true),
            (json!("*"), true),
            (json!({ "Service": "ec2.amazonaws.com" }), false),
            (json!({ "AWS": "arn:aws:iam::123456789012:role/nodes.cluster.k8s.local" }), false),
            (json!({ "AWS": "arn:aws:iam::210987654321:root" }), false),
        ] {
            assert_eq!(trusts(&trust(&principal, &Value::Null), asked(None)), expected, "{principal}");
        }
    }

    #[test]
    fn an_external_id_that_is_asked_for_must_be_given() {
        let policy = trust(&json!("*"), &json!({"StringEquals": {"sts:ExternalId": "right"}}));
        assert!(trusts(&policy, asked(Some("right"))));
        assert!(!trusts(&policy, asked(Some("wrong"))));
        assert!(!trusts(&policy, asked(None)));
        let unknown = trust(&json!("*"), &json!({"Bool": {"aws:MultiFactorAuthPresent": "true"}}));
        assert!(!trusts(&unknown, asked(None)));
    }

    #[test]
    fn permission_is_by_resource_and_deny_wins() {
        let policy =
            |effect: &str, resource: &str| json!({"Effect": effect, "Action": "sts:*", "Resource": resource});
        let any_role = json!({ "Statement": policy("Allow", "*") });
        assert!(permits(&any_role, asked(None)));
        assert!(!permits(&json!({"Statement": policy("Allow", "arn:aws:iam::*:role/k8s-*")}), asked(None)));
        let denied = json!({"Statement": [policy("Allow", "*"), policy("Deny", "arn:aws:iam::*:role/My*")]});
        assert!(!permits(&denied, asked(None)));
    }
}
