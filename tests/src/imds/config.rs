//! The instance that the double describes.

use std::collections::BTreeMap;

use super::NODE_MARKER;

/// Whether a token is needed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tokens {
    /// IMDSv1 only: the token path does not exist.
    Unsupported,
    /// Both versions.
    Optional,
    /// IMDSv2 only.
    Required,
}

/// The instance that it describes.
#[derive(Clone, Debug)]
pub struct ImdsConfig {
    /// Twelve digits.
    pub account: String,
    /// The region; the zone is its `a`.
    pub region: String,
    /// What `iam/security-credentials/` lists; `None`: an instance without a profile.
    pub role_name: Option<String>,
    /// `InstanceProfileArn` of `iam/info`.
    pub profile_arn: String,
    /// Whether a token is needed.
    pub tokens: Tokens,
    /// IP TTL of token answers.
    pub hop_limit: u8,
    /// The node's credentials; give those that the STS double knows.
    pub access_key_id: String,
    /// See `access_key_id`.
    pub secret_access_key: String,
    /// See `access_key_id`.
    pub session_token: String,
    /// Further leaves below `meta-data/`, or other texts of those that there are.
    pub leaves: BTreeMap<String, String>,
}

// === impl ImdsConfig ===

impl Default for ImdsConfig {
    fn default() -> Self {
        Self {
            account: "123456789012".into(),
            region: "eu-central-1".into(),
            role_name: Some("nodes.example.cluster.k8s.local".into()),
            profile_arn: "arn:aws:iam::123456789012:instance-profile/nodes.example.cluster.k8s.local".into(),
            tokens: Tokens::Optional,
            hop_limit: 1,
            access_key_id: format!("{NODE_MARKER}-ACCESS-KEY"),
            secret_access_key: format!("{NODE_MARKER}-SECRET-KEY"),
            session_token: format!("{NODE_MARKER}-SESSION-TOKEN"),
            leaves: BTreeMap::new(),
        }
    }
}
