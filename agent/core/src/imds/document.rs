//! Bodies: credentials, refusals, `iam/info` and the role list, as the metadata service writes them.
//!
//! Clients split this text by hand: the keys, their order, whole seconds and the literal `Z` are part of it.

use std::fmt::Write;
use std::time::SystemTime;

use aws_lc_rs::digest;
use bytes::Bytes;
use serde_json::Value;

use crate::credentials::Session;
use crate::types::{RoleArn, Utc};

/// `Code` where the role may not be had: by the namespace's list, or by STS.
pub const UNAUTHORIZED: &str = "AssumeRoleUnauthorizedAccess";

/// `Code` of any other refusal for good.
pub const FAILED: &str = "Failed";

/// The credentials document of `session`. It holds secrets: for the wire only.
#[must_use]
pub fn render_session(session: &Session) -> Bytes {
    object(&[
        ("Code", "Success"),
        ("LastUpdated", Utc::new(session.received).as_str()),
        ("Type", "AWS-HMAC"),
        ("AccessKeyId", &session.access_key_id),
        ("SecretAccessKey", session.secret_access_key.expose()),
        ("Token", session.token.expose()),
        ("Expiration", Utc::new(session.expiration).as_str()),
    ])
}

/// A document that says why there are no credentials.
#[must_use]
pub fn render_refusal(code: &str, message: &str, now: SystemTime) -> Bytes {
    object(&[("Code", code), ("Message", message), ("LastUpdated", Utc::new(now).as_str())])
}

/// `iam/info`, made from the pod's role: the node's instance profile is nobody's business.
#[must_use]
pub fn render_iam_info(role: &RoleArn, now: SystemTime) -> Bytes {
    let arn =
        format!("arn:{}:iam::{}:instance-profile/{}", role.partition(), role.account(), role.path_and_name());
    object(&[
        ("Code", "Success"),
        ("LastUpdated", Utc::new(now).as_str()),
        ("InstanceProfileArn", &arn),
        ("InstanceProfileId", &profile_id(&arn)),
    ])
}

/// The list of `security-credentials/`: the bare name, no newline (a client panics on one).
#[must_use]
pub fn render_role_list(role: &RoleArn) -> Bytes {
    Bytes::copy_from_slice(role.name().as_bytes())
}

/// The list of `meta-data/iam/`.
#[must_use]
pub fn render_iam_directory() -> Bytes {
    Bytes::from_static(b"info\nsecurity-credentials/")
}

/// An object of strings, spaced as the metadata service spaces it.
fn object(members: &[(&str, &str)]) -> Bytes {
    let lines: Vec<String> = members
        .iter()
        .map(|(key, value)| format!("  {} : {}", Value::from(*key), Value::from(*value)))
        .collect();
    Bytes::from(format!("{{\n{}\n}}", lines.join(",\n")))
}

/// An id as IAM writes them (`AIPA` and 17 of base32), always the same for one profile.
fn profile_id(arn: &str) -> String {
    const ALPHABET: &[u8; 32] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZ234567";
    let hash = digest::digest(&digest::SHA256, arn.as_bytes());
    hash.as_ref().iter().take(17).fold("AIPA".to_owned(), |mut id, byte| {
        let _ = id.write_char(char::from(ALPHABET[usize::from(byte % 32)]));
        id
    })
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, UNIX_EPOCH};

    use super::*;
    use crate::types::Secret;

    fn at(seconds: u64) -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(seconds) + Duration::from_millis(999)
    }

    fn role() -> RoleArn {
        RoleArn::parse("arn:aws-cn:iam::123456789012:role/team/app/my-role").unwrap()
    }

    #[test]
    fn document_has_the_seven_keys_in_order_and_whole_seconds() {
        let session = Session {
            access_key_id: "ASIAEXAMPLE".into(),
            secret_access_key: Secret::new("wJalr/+=".into()),
            token: Secret::new("IQoJ//==".into()),
            expiration: at(1_787_325_633),
            received: at(1_787_302_800),
            document: Bytes::new(),
        };
        let text = String::from_utf8(render_session(&session).to_vec()).unwrap();
        assert_eq!(
            text,
            "{\n  \"Code\" : \"Success\",\n  \"LastUpdated\" : \"2026-08-21T09:00:00Z\",\n  \"Type\" : \
             \"AWS-HMAC\",\n  \"AccessKeyId\" : \"ASIAEXAMPLE\",\n  \"SecretAccessKey\" : \"wJalr/+=\",\n  \
             \"Token\" : \"IQoJ//==\",\n  \"Expiration\" : \"2026-08-21T15:20:33Z\"\n}"
        );
    }

    #[test]
    fn refusal_escapes_its_message() {
        let message = "kubectl annotate namespace default 'x=[\"MyPodRole\"]' \\ \n\u{1}\u{e9}";
        let body = render_refusal(UNAUTHORIZED, message, at(0));
        let value: Value = serde_json::from_slice(&body).unwrap();
        assert_eq!(value["Code"], UNAUTHORIZED);
        assert_eq!(value["Message"], message);
        assert_eq!(value["LastUpdated"], "1970-01-01T00:00:00Z");
        assert_eq!(value.as_object().unwrap().len(), 3);
    }

    #[test]
    fn iam_info_names_a_profile_of_the_pods_role() {
        let value: Value = serde_json::from_slice(&render_iam_info(&role(), at(0))).unwrap();
        assert_eq!(
            value["InstanceProfileArn"],
            "arn:aws-cn:iam::123456789012:instance-profile/team/app/my-role"
        );
        let id = value["InstanceProfileId"].as_str().unwrap();
        assert!(id.len() == 21 && id.starts_with("AIPA"), "{id}");
        let again: Value = serde_json::from_slice(&render_iam_info(&role(), at(9))).unwrap();
        assert_eq!(again["InstanceProfileId"], id);
    }

    #[test]
    fn role_list_is_the_bare_name() {
        assert_eq!(render_role_list(&role()), "my-role");
    }
}
