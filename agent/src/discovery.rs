//! Who the node is: its account, its region and its own role, from the metadata service and from STS.

use serde::Deserialize;
use tokio::time::Instant;

use crate::imds::upstream::{Answer, Upstream, UpstreamError, UpstreamPath};
use crate::types::{RoleArn, RoleArnBase};

#[cfg(test)]
mod tests;

/// What helps where `iam/` is not there.
const NO_PROFILE: &str = "give the instance a profile with a role";

/// Why something about the node is not known.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DiscoveryError {
    /// The service could not be asked: worth another attempt.
    #[error("{what} is not known: {source}")]
    Unreachable {
        /// What was wanted.
        what: &'static str,
        /// What happened.
        source: UpstreamError,
    },
    /// The service has no such thing: the instance has no profile, or the wrong one.
    #[error("{what} is not known: {path} is not there; {hint}")]
    Absent {
        /// What was wanted.
        what: &'static str,
        /// Where.
        path: String,
        /// What the operator can do.
        hint: &'static str,
    },
    /// The service said something else.
    #[error("{what} is not known: {path} does not hold it")]
    Malformed {
        /// What was wanted.
        what: &'static str,
        /// Where.
        path: String,
    },
}

/// What the metadata service says about the node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeIdentity {
    /// `arn:PARTITION:iam::ACCOUNT:role/`. Partition and account are those of the instance profile; its
    /// path and name are not those of any role.
    pub base: Option<RoleArnBase>,
    /// The name of the node's own role.
    pub listed_role: Option<String>,
    /// The region.
    pub region: Option<String>,
    /// Why what is missing is missing.
    pub problems: Vec<DiscoveryError>,
}

/// The node's own role, which no pod may have.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OwnRole {
    /// The account of the names; `None` where it is not known, or where they are of more than one: then a
    /// name alone tells.
    pub account: Option<String>,
    /// Names (last path segments), as written; to be compared ignoring case.
    pub names: Vec<String>,
    /// The ARN, as far as STS tells (it leaves out the role's path), for logs and trust policies.
    pub arn: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct IamInfo {
    instance_profile_arn: String,
}

#[derive(Deserialize)]
struct IdentityDocument {
    region: String,
}

// === impl NodeIdentity ===

impl NodeIdentity {
    /// Asks for everything at once, each part once. Attempts are the caller's.
    pub async fn discover(upstream: &Upstream, deadline: Instant) -> Self {
        let (base, listed_role, region) = futures::join!(
            base_arn(upstream, deadline),
            listed_role(upstream, deadline),
            region(upstream, deadline),
        );
        let mut problems = Vec::new();
        Self {
            base: keep(base, &mut problems),
            listed_role: keep(listed_role, &mut problems),
            region: keep(region, &mut problems),
            problems,
        }
    }

    /// The account of the instance profile.
    #[must_use]
    pub fn account(&self) -> Option<&str> {
        self.base.as_ref().map(RoleArnBase::account)
    }
}

/// The base ARN of the node's account, from `iam/info`.
///
/// # Errors
/// [`DiscoveryError`] says what is missing.
pub async fn base_arn(upstream: &Upstream, deadline: Instant) -> Result<RoleArnBase, DiscoveryError> {
    let asked = Asked { what: "the base ARN of roles", path: UpstreamPath::IAM_INFO, hint: NO_PROFILE };
    asked.read(profile_base, upstream, deadline).await
}

/// The name of the node's own role, from `iam/security-credentials/`.
///
/// # Errors
/// [`DiscoveryError`] says what is missing.
pub async fn listed_role(upstream: &Upstream, deadline: Instant) -> Result<String, DiscoveryError> {
    let asked = Asked { what: "the node's own role", path: UpstreamPath::ROLE_LIST, hint: NO_PROFILE };
    asked.read(role_name, upstream, deadline).await
}

/// The region: as such, else by its availability zone, else by the identity document.
///
/// # Errors
/// [`DiscoveryError`] of the last attempt.
pub async fn region(upstream: &Upstream, deadline: Instant) -> Result<String, DiscoveryError> {
    let asked = |path| Asked { what: "the region", path, hint: "set --region" };
    if let Ok(region) = asked(UpstreamPath::REGION).read(region_name, upstream, deadline).await {
        return Ok(region);
    }
    if let Ok(region) = asked(UpstreamPath::ZONE).read(region_of_zone, upstream, deadline).await {
        return Ok(region);
    }
    asked(UpstreamPath::IDENTITY).read(region_of_document, upstream, deadline).await
}

/// The instance's id, which `/healthz` shows as kube2iam does.
///
/// # Errors
/// [`DiscoveryError`] says why it is not known.
pub async fn instance_id(upstream: &Upstream, deadline: Instant) -> Result<String, DiscoveryError> {
    let asked =
        Asked { what: "the instance's id", path: UpstreamPath::INSTANCE_ID, hint: "nothing depends on it" };
    asked.read(|text| text.starts_with("i-").then(|| text.trim().to_owned()), upstream, deadline).await
}

/// Merges what IMDS lists and what STS says of the caller into the names of the node's own role.
#[must_use]
pub fn own_role(listed: Option<&str>, caller_arn: Option<&str>, account: Option<&str>) -> OwnRole {
    let caller = caller_arn.map(Caller::parse).unwrap_or_default();
    let mut names: Vec<String> =
        listed.filter(|name| !name.is_empty()).map(ToOwned::to_owned).into_iter().collect();
    if let Some(name) = caller.role {
        let known = names.iter().any(|listed| listed.eq_ignore_ascii_case(&name));
        names.extend((!known).then_some(name));
    }
    let account = match (caller.account, account) {
        (Some(caller), Some(node)) if caller != node => None,
        (caller, node) => caller.or_else(|| node.map(ToOwned::to_owned)),
    };
    OwnRole { account, names, arn: caller.arn }
}

/// One question to the service.
struct Asked {
    what: &'static str,
    path: UpstreamPath,
    hint: &'static str,
}

impl Asked {
    async fn read<T>(
        self,
        parse: fn(&str) -> Option<T>,
        upstream: &Upstream,
        deadline: Instant,
    ) -> Result<T, DiscoveryError> {
        let Self { what, path, hint } = self;
        match upstream.get(&path, deadline).await {
            Ok(Answer::Found(text)) => std::str::from_utf8(&text.body)
                .ok()
                .and_then(parse)
                .ok_or_else(|| DiscoveryError::Malformed { what, path: path.to_string() }),
            Ok(Answer::NotFound) => Err(DiscoveryError::Absent { what, path: path.to_string(), hint }),
            Err(source) => Err(DiscoveryError::Unreachable { what, source }),
        }
    }
}

/// Who STS says the caller is; nothing where it is no ARN.
#[derive(Default)]
struct Caller {
    account: Option<String>,
    role: Option<String>,
    arn: Option<String>,
}

impl Caller {
    fn parse(arn: &str) -> Self {
        let parts: Vec<&str> = arn.splitn(6, ':').collect();
        let ["arn", partition, service, _, account, resource] = parts[..] else {
            return Self::default();
        };
        let role = match service {
            // assumed-role/NAME/SESSION: STS leaves out the path of the role.
            "sts" => resource
                .strip_prefix("assumed-role/")
                .and_then(|rest| rest.split('/').next())
                .and_then(|name| RoleArn::parse(&format!("arn:{partition}:iam::{account}:role/{name}")).ok()),
            "iam" => RoleArn::parse(arn).ok(),
            _ => None,
        };
        let is_account = account.len() == 12 && account.bytes().all(|byte| byte.is_ascii_digit());
        Self {
            account: is_account.then(|| account.to_owned()),
            role: role.as_ref().map(|role| role.name().to_owned()),
            arn: role.map(|role| role.to_string()),
        }
    }
}

fn keep<T>(found: Result<T, DiscoveryError>, problems: &mut Vec<DiscoveryError>) -> Option<T> {
    found.map_err(|problem| problems.push(problem)).ok()
}

/// Partition and account of `InstanceProfileArn`.
fn profile_base(text: &str) -> Option<RoleArnBase> {
    let info: IamInfo = serde_json::from_str(text).ok()?;
    let parts: Vec<&str> = info.instance_profile_arn.splitn(6, ':').collect();
    let ["arn", partition, "iam", "", account, resource] = parts[..] else {
        return None;
    };
    resource.strip_prefix("instance-profile/")?;
    RoleArnBase::of_account(partition, account).ok()
}

fn role_name(text: &str) -> Option<String> {
    let name = text.lines().next()?.trim();
    let fine = (1..=64).contains(&name.len())
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_+=,.@-".contains(&byte));
    fine.then(|| name.to_owned())
}

/// A region becomes part of a host name: letters, digits and hyphens only.
fn region_name(text: &str) -> Option<String> {
    let region = text.trim();
    let fine = (1..=32).contains(&region.len())
        && region.starts_with(|first: char| first.is_ascii_lowercase())
        && region.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-');
    fine.then(|| region.to_owned())
}

/// `eu-central-1a` and `us-west-2-lax-1a`: up to the first part that begins with a digit, without letters.
fn region_of_zone(text: &str) -> Option<String> {
    let zone = text.trim();
    let mut at = 0;
    for part in zone.split('-') {
        let digits = part.bytes().take_while(u8::is_ascii_digit).count();
        if digits > 0 {
            return region_name(&zone[..at + digits]);
        }
        at += part.len() + 1;
    }
    None
}

fn region_of_document(text: &str) -> Option<String> {
    serde_json::from_str::<IdentityDocument>(text).ok().and_then(|document| region_name(&document.region))
}
