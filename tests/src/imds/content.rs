//! What the instance is: leaves with their texts, and lists made from them.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::json;
use time::format_description::well_known::Rfc3339;
use time::{Duration, OffsetDateTime};

use super::{ImdsConfig, NODE_MARKER, USER_DATA_MARKER};

/// Path below the version, without slashes at its ends -> text.
pub(super) struct Content(BTreeMap<String, String>);

// === impl Content ===

impl Content {
    pub(super) fn new(config: &ImdsConfig) -> Self {
        let zone = format!("{}a", config.region);
        let mut leaves = BTreeMap::from([
            ("user-data".to_owned(), format!("#!/bin/sh\nBOOTSTRAP={USER_DATA_MARKER}\n")),
            ("dynamic/instance-identity/document".to_owned(), identity(config, &zone)),
            ("dynamic/instance-identity/pkcs7".to_owned(), "UEtDUzc=".to_owned()),
        ]);
        let mut meta = |name: &str, text: &str| leaves.insert(format!("meta-data/{name}"), text.to_owned());
        meta("ami-id", "ami-0abcdef1234567890");
        meta("hostname", "ip-10-0-0-10.eu-central-1.compute.internal");
        meta("instance-id", "i-0123456789abcdef0");
        meta("instance-type", "m5.large");
        meta("local-hostname", "ip-10-0-0-10.eu-central-1.compute.internal");
        meta("local-ipv4", "10.0.0.10");
        meta("mac", "0e:49:61:0f:c3:11");
        meta("network/interfaces/macs/0e:49:61:0f:c3:11/subnet-id", "subnet-0123456789abcdef0");
        meta("placement/availability-zone", &zone);
        meta("placement/availability-zone-id", "euc1-az2");
        meta("placement/region", &config.region);
        meta("public-ipv4", "203.0.113.10");
        meta("public-keys/0/openssh-key", "ssh-ed25519 AAAA example");
        meta("services/domain", "amazonaws.com");
        meta("services/partition", "aws");
        meta("spot/instance-action", "none");
        meta("identity-credentials/ec2/info", "{\"Code\":\"Success\"}");
        meta("identity-credentials/ec2/security-credentials/ec2-instance", &credentials(NODE_MARKER, config));
        if let Some(role) = &config.role_name {
            meta("iam/info", &profile(config));
            meta(
                &format!("iam/security-credentials/{}", role.to_lowercase()),
                &credentials(&config.access_key_id, config),
            );
        }
        for (name, text) in &config.leaves {
            meta(name, text);
        }
        let mut content = Self(leaves);
        if let Some(role) = &config.role_name {
            // The list shows the name as it is written; the leaf is found in any case.
            content.0.insert("meta-data/iam/security-credentials".to_owned(), role.clone());
        }
        content
    }

    /// The text at the path below a version; `root`: the list of versions.
    pub(super) fn get(&self, names: &[&str], root: bool) -> Option<String> {
        if root {
            return Some("1.0\n2009-04-04\n2021-03-23\nlatest".to_owned());
        }
        let path = names.join("/");
        if let Some(text) = self.0.get(&path) {
            return Some(text.clone());
        }
        let below = if path.is_empty() { path } else { format!("{path}/") };
        let list: BTreeSet<String> = self
            .0
            .keys()
            .filter_map(|leaf| leaf.strip_prefix(&below))
            .map(|rest| {
                rest.split_once('/').map_or_else(|| rest.to_owned(), |(directory, _)| format!("{directory}/"))
            })
            .collect();
        (!list.is_empty()).then(|| list.into_iter().collect::<Vec<_>>().join("\n"))
    }
}

/// The segments of `target` as the most generous of servers would read them.
pub(super) fn segments(target: &str) -> Vec<String> {
    let mut path = target.split(['?', '#']).next().unwrap_or_default().to_owned();
    if let Some((_, rest)) = path.split_once("://") {
        path = rest.split_once('/').map_or(String::new(), |(_, path)| path.to_owned());
    }
    loop {
        let decoded = percent_encoding::percent_decode_str(&path).decode_utf8_lossy().into_owned();
        if decoded == path {
            break;
        }
        path = decoded;
    }
    let mut segments: Vec<String> = Vec::new();
    for segment in path.to_lowercase().replace('\\', "/").split('/') {
        match segment.split(';').next().unwrap_or_default().trim() {
            "" | "." => {}
            ".." => drop(segments.pop()),
            name => segments.push(name.to_owned()),
        }
    }
    segments
}

fn identity(config: &ImdsConfig, zone: &str) -> String {
    let document = json!({
        "accountId": config.account,
        "architecture": "x86_64",
        "availabilityZone": zone,
        "billingProducts": null,
        "devpayProductCodes": null,
        "imageId": "ami-0abcdef1234567890",
        "instanceId": "i-0123456789abcdef0",
        "instanceType": "m5.large",
        "kernelId": null,
        "marketplaceProductCodes": null,
        "pendingTime": "2026-01-01T00:00:00Z",
        "privateIp": "10.0.0.10",
        "ramdiskId": null,
        "region": config.region,
        "version": "2017-09-30",
    });
    format!("{document:#}")
}

fn profile(config: &ImdsConfig) -> String {
    let info = json!({
        "Code": "Success",
        "LastUpdated": at(Duration::ZERO),
        "InstanceProfileArn": config.profile_arn,
        "InstanceProfileId": "AIPAEXAMPLEEXAMPLE123",
    });
    format!("{info:#}")
}

fn credentials(access_key_id: &str, config: &ImdsConfig) -> String {
    let credentials = json!({
        "Code": "Success",
        "LastUpdated": at(Duration::ZERO),
        "Type": "AWS-HMAC",
        "AccessKeyId": access_key_id,
        "SecretAccessKey": config.secret_access_key,
        "Token": config.session_token,
        "Expiration": at(Duration::hours(6)),
    });
    format!("{credentials:#}")
}

/// The time `ahead` of now, in whole seconds.
fn at(ahead: Duration) -> String {
    let now = OffsetDateTime::now_utc() + ahead;
    now.replace_nanosecond(0).unwrap_or(now).format(&Rfc3339).unwrap_or_default()
}
