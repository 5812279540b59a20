//! What is read of the API server's answers: the few fields that count, and no more.
//!
//! Everything else is skipped unread, however deep, so that nothing that a cluster's users may write into an object
//! (times, quantities, `managedFields`) decides whether it can be read. An object that is odd in one of the few
//! fields is taken as far as it goes and marked: it harms no other object of its list.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::value::RawValue;

/// One page of a list.
#[derive(Debug, Deserialize)]
pub(super) struct List<'a> {
    pub(super) kind: String,
    pub(super) metadata: ListMeta,
    /// Objects; the API server writes `null` for none.
    #[serde(borrow)]
    pub(super) items: Option<Vec<&'a RawValue>>,
}

/// Where a list stands.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct ListMeta {
    /// The version to watch from.
    pub(super) resource_version: String,
    /// The token of the next page.
    #[serde(rename = "continue")]
    pub(super) next: Option<String>,
}

/// A line of a watch.
#[derive(Debug, Deserialize)]
pub(super) struct Line<'a> {
    #[serde(rename = "type")]
    pub(super) kind: String,
    #[serde(borrow)]
    pub(super) object: &'a RawValue,
}

/// A pod, or as much of a namespace. A field that is absent, `null` or odd is `None`.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Object {
    pub(super) uid: Option<String>,
    pub(super) namespace: Option<String>,
    pub(super) name: Option<String>,
    pub(super) version: Option<String>,
    pub(super) annotations: Option<BTreeMap<String, String>>,
    pub(super) deleting: bool,
    pub(super) service_account: Option<String>,
    pub(super) node: Option<String>,
    pub(super) host_network: Option<bool>,
    pub(super) phase: Option<String>,
    pub(super) ips: Vec<String>,
    /// False: a field that counts is not what it must be.
    pub(super) readable: bool,
}

type Raw<'a> = Option<&'a RawValue>;

#[derive(Default, Deserialize)]
#[serde(default)]
struct Sections<'a> {
    #[serde(borrow)]
    metadata: Raw<'a>,
    spec: Raw<'a>,
    status: Raw<'a>,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Metadata<'a> {
    #[serde(borrow)]
    uid: Raw<'a>,
    namespace: Raw<'a>,
    name: Raw<'a>,
    resource_version: Raw<'a>,
    annotations: Raw<'a>,
    deletion_timestamp: Option<IgnoredAny>,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Spec<'a> {
    #[serde(borrow)]
    service_account_name: Raw<'a>,
    node_name: Raw<'a>,
    host_network: Raw<'a>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct PodStatus<'a> {
    #[serde(borrow)]
    phase: Raw<'a>,
    #[serde(rename = "podIP")]
    pod_ip: Raw<'a>,
    #[serde(rename = "podIPs")]
    pod_ips: Raw<'a>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Address<'a> {
    #[serde(borrow)]
    ip: Raw<'a>,
}

// === impl Object ===

impl Object {
    /// Reads what can be read: whatever is JSON is an object.
    pub(super) fn read(raw: &RawValue) -> Self {
        let mut odd = false;
        let sections: Sections<'_> = field(Some(raw), &mut odd).unwrap_or_default();
        let metadata: Metadata<'_> = field(sections.metadata, &mut odd).unwrap_or_default();
        let spec: Spec<'_> = field(sections.spec, &mut odd).unwrap_or_default();
        let status: PodStatus<'_> = field(sections.status, &mut odd).unwrap_or_default();
        let mut ips: Vec<String> = Vec::new();
        for address in field::<Vec<&RawValue>>(status.pod_ips, &mut odd).unwrap_or_default() {
            let address: Address<'_> = field(Some(address), &mut odd).unwrap_or_default();
            ips.extend(field::<String>(address.ip, &mut odd));
        }
        // `podIPs` holds `podIP` as well where the API server fills it in (dual stack is GA since 1.23).
        ips.extend(field::<String>(status.pod_ip, &mut odd));
        Self {
            uid: field(metadata.uid, &mut odd),
            namespace: field(metadata.namespace, &mut odd),
            name: field(metadata.name, &mut odd),
            version: field(metadata.resource_version, &mut odd),
            annotations: field(metadata.annotations, &mut odd),
            deleting: metadata.deletion_timestamp.is_some(),
            service_account: field(spec.service_account_name, &mut odd),
            node: field(spec.node_name, &mut odd),
            host_network: field(spec.host_network, &mut odd),
            phase: field(status.phase, &mut odd),
            ips,
            readable: !odd,
        }
    }
}

/// A field, if it is there and what it must be.
fn field<'a, T: Deserialize<'a>>(raw: Raw<'a>, odd: &mut bool) -> Option<T> {
    serde_json::from_str(raw?.get()).unwrap_or_else(|_| {
        *odd = true;
        None
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;

    fn object(value: &Value) -> Object {
        read(&value.to_string())
    }

    fn read(text: &str) -> Object {
        Object::read(serde_json::from_str(text).unwrap())
    }

    #[test]
    fn what_does_not_count_may_be_anything() {
        let object = object(&json!({
            "metadata": {"uid": "u1", "creationTimestamp": "9999-12-31T23:59:59Z", "managedFields": 5, "labels": [1]},
            "spec": {"containers": "none", "volumes": {"a": null}},
            "status": {"podIP": "10.1.0.11", "podIPs": [{"ip": "10.1.0.11", "zone": 3}], "conditions": false},
            "later": [[]],
        }));
        assert!(object.readable);
        assert_eq!(object.uid.as_deref(), Some("u1"));
    }

    #[test]
    fn what_does_not_count_may_be_as_deep_as_it_likes() {
        let deep = format!("{}{}", "{\"f:a\":".repeat(100_000), "1") + &"}".repeat(100_000);
        let text = format!(
            r#"{{"metadata":{{"uid":"u1","managedFields":[{deep}]}},"status":{{"podIP":"10.1.0.11"}}}}"#
        );
        let object = read(&text);
        assert!(object.readable && object.uid.is_some());
        let list = format!(r#"{{"kind":"PodList","metadata":{{"resourceVersion":"1"}},"items":[{text}]}}"#);
        assert_eq!(serde_json::from_str::<List<'_>>(&list).unwrap().items.unwrap().len(), 1);
        let odd = read(&text.replace("\"u1\"", &deep));
        assert_eq!((odd.readable, odd.uid, odd.ips), (false, None, vec!["10.1.0.11".to_owned()]));
    }

    #[test]
    fn an_odd_object_is_marked_and_keeps_who_it_is_and_its_addresses() {
        for odd in [
            json!({"metadata": {"uid": "u1", "annotations": {"a": 5}}, "status": {"podIP": "10.1.0.11"}}),
            json!({"metadata": {"uid": "u1", "name": 5}, "status": {"podIPs": [{"ip": "10.1.0.11"}, 7]}}),
            json!({"metadata": {"uid": "u1"}, "spec": "none", "status": {"podIP": "10.1.0.11"}}),
            json!({"metadata": {"uid": "u1"}, "spec": {"hostNetwork": "no"}, "status": {"podIP": "10.1.0.11"}}),
        ] {
            let object = object(&odd);
            assert!(!object.readable, "{odd}");
            assert_eq!(
                (object.uid.as_deref(), &*object.ips),
                (Some("u1"), &["10.1.0.11".to_owned()][..]),
                "{odd}"
            );
        }
        for odd in [json!(5), json!("a"), json!({"metadata": 5})] {
            let object = object(&odd);
            assert!(!object.readable && object.uid.is_none(), "{odd}");
        }
    }

    #[test]
    fn what_is_not_a_list_is_not_taken_for_an_empty_one() {
        for text in ["{}", "[]", r#"{"kind":"PodList","items":[]}"#, r#"{"kind":"PodList","metadata":{}}"#] {
            assert!(serde_json::from_str::<List<'_>>(text).is_err(), "{text}");
        }
    }

    /// Any JSON, most often with the names that count.
    fn anything() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            "[a-z0-9.:]{0,12}".prop_map(Value::from),
        ];
        let names =
            "metadata|spec|status|uid|namespace|name|annotations|hostNetwork|phase|podIP|podIPs|ip|other";
        leaf.prop_recursive(4, 40, 6, move |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
                prop::collection::btree_map(names, inner, 0..6).prop_map(|map| map.into_iter().collect()),
            ]
        })
    }

    proptest! {
        #[test]
        fn whatever_is_json_is_an_object_and_keeps_its_address_if_that_can_be_read(mut value in anything()) {
            let _ = object(&value);
            if let Some(status) = value.get_mut("status").and_then(Value::as_object_mut) {
                status.insert("podIP".into(), "10.1.0.11".into());
                prop_assert!(object(&value).ips.iter().any(|ip| ip == "10.1.0.11"));
            }
        }
    }
}
