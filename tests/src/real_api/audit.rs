//! The API server's audit log: what service accounts asked for, and whether they might.

use std::path::Path;

use anyhow::{Context, Result};
use serde_json::Value;

use super::RealApi;

const LOG: &str = "audit.log";
/// Each request of a service account: when it is answered, and a watch also when it begins.
const POLICY: &str = r#"{"apiVersion":"audit.k8s.io/v1","kind":"Policy","omitStages":["RequestReceived"],
"rules":[{"level":"Metadata","userGroups":["system:serviceaccounts"]},{"level":"None"}]}"#;

/// The API server's flags for a log in `dir`.
pub(super) fn flags(dir: &Path) -> Result<[String; 2]> {
    let policy = dir.join("audit-policy.json");
    std::fs::write(&policy, POLICY)?;
    Ok([
        format!("--audit-policy-file={}", policy.display()),
        format!("--audit-log-path={}", dir.join(LOG).display()),
    ])
}

// === impl RealApi ===

impl RealApi {
    /// What service accounts asked for so far: events of the audit log.
    ///
    /// # Errors
    /// When the log cannot be read.
    pub fn audited(&self) -> Result<Vec<Value>> {
        let log = std::fs::read_to_string(self.dir.path().join(LOG)).context("the audit log")?;
        // The last line may be half written.
        let whole = log.rfind('\n').map_or("", |end| &log[..end]);
        whole.lines().map(|line| serde_json::from_str(line).context("a line of the audit log")).collect()
    }
}
