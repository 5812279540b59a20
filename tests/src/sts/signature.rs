//! Signature version 4, checked as AWS does: from the request as it came.

use std::time::SystemTime;

use aws_lc_rs::digest;
use aws_sigv4::sign::v4::{calculate_signature, generate_signing_key};
use http::request::Parts;
use time::macros::format_description;
use time::{OffsetDateTime, PrimitiveDateTime};

/// What an `Authorization` header says.
#[derive(Debug)]
pub(super) struct Claim {
    pub(super) access_key: String,
    pub(super) region: String,
    pub(super) signed_at: SystemTime,
    date: String,
    service: String,
    signed_headers: Vec<String>,
    signature: String,
}

// === impl Claim ===

impl Claim {
    /// Reads the header and `X-Amz-Date`; `None` if there is no such claim or it is malformed.
    pub(super) fn read(parts: &Parts) -> Option<Self> {
        let header = |name: &str| parts.headers.get(name).and_then(|value| value.to_str().ok());
        let fields = header("authorization")?.strip_prefix("AWS4-HMAC-SHA256 ")?;
        let field = |name: &str| {
            fields.split(',').find_map(|field| field.trim().strip_prefix(name)?.strip_prefix('='))
        };
        let scope: Vec<&str> = field("Credential")?.split('/').collect();
        let [access_key, date, region, service, "aws4_request"] = scope[..] else { return None };
        let format = format_description!("[year][month][day]T[hour][minute][second]Z");
        let at = PrimitiveDateTime::parse(header("x-amz-date")?, format).ok()?.assume_utc();
        Some(Self {
            access_key: access_key.to_owned(),
            region: region.to_owned(),
            signed_at: SystemTime::from(at),
            date: date.to_owned(),
            service: service.to_owned(),
            signed_headers: field("SignedHeaders")?.split(';').map(str::to_owned).collect(),
            signature: field("Signature")?.to_owned(),
        })
    }

    /// True if the request was signed with `secret` for STS, its host, date and token included.
    pub(super) fn is_proved(&self, parts: &Parts, body: &[u8], secret: &str) -> bool {
        let token_is_signed = !parts.headers.contains_key("x-amz-security-token")
            || self.signed_headers.iter().any(|name| name == "x-amz-security-token");
        let host_is_signed = self.signed_headers.iter().any(|name| name == "host");
        if self.service != "sts" || !token_is_signed || !host_is_signed {
            return false;
        }
        let request = hex(&sha256(self.canonical_request(parts, body).as_bytes()));
        let scope = format!("{}/{}/{}/aws4_request", self.date, self.region, self.service);
        let text = format!("AWS4-HMAC-SHA256\n{}\n{scope}\n{request}", amz_date(self.signed_at));
        let key = generate_signing_key(secret, self.signed_at, &self.region, &self.service);
        calculate_signature(key, text.as_bytes()) == self.signature
    }

    fn canonical_request(&self, parts: &Parts, body: &[u8]) -> String {
        let mut query: Vec<&str> = parts.uri.query().unwrap_or_default().split('&').collect();
        query.sort_unstable();
        let headers: String = self.signed_headers.iter().map(|name| canonical_header(parts, name)).collect();
        [
            parts.method.as_str(),
            parts.uri.path(),
            &query.join("&"),
            &headers,
            &self.signed_headers.join(";"),
            &hex(&sha256(body)),
        ]
        .join("\n")
    }
}

fn canonical_header(parts: &Parts, name: &str) -> String {
    let values: Vec<String> = parts
        .headers
        .get_all(name)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .map(|value| value.split_whitespace().collect::<Vec<_>>().join(" "))
        .collect();
    format!("{name}:{}\n", values.join(","))
}

/// `20261121T134500Z`.
pub(super) fn amz_date(at: SystemTime) -> String {
    let format = format_description!("[year][month][day]T[hour][minute][second]Z");
    OffsetDateTime::from(at).format(format).unwrap_or_default()
}

fn sha256(bytes: &[u8]) -> Vec<u8> {
    digest::digest(&digest::SHA256, bytes).as_ref().to_vec()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
