//! The document: the decision, the session, and what is said where either is refused.

use std::hash::{DefaultHasher, Hash, Hasher};

use tokio::time::Instant;

use super::response::Good;
use super::{Door, Refusal, document};
use crate::credentials::{Ask, BrokerError, Session, SessionKey};
use crate::identity::Caller;
use crate::policy::{Denied, Grant, PodFacts, Policy};

impl Door {
    /// The document of the caller's role, of which `asked` is a name.
    pub(super) async fn document(
        &self,
        policy: &Policy,
        caller: &Caller,
        asked: &str,
        v1: bool,
        deadline: Instant,
    ) -> Result<Good, Refusal> {
        let grant = match self.decide(policy, caller) {
            Ok(grant) if names(asked, &grant) => grant,
            Ok(_) => return Err(Refusal::OtherRole),
            Err(denied) => return self.denied(caller, asked, &denied),
        };
        let key = SessionKey::from(&grant);
        let session = match self.with.broker.cached(&key) {
            Some(session) => session,
            None => {
                let ask =
                    Ask { key, asker: caller.pod.facts.uid.clone(), revision: revision(&caller.pod.facts) };
                match self.with.broker.get(&ask, deadline).await {
                    Ok(session) => {
                        self.check_unmoved(policy, caller, &ask.key, deadline).await?;
                        session
                    }
                    Err(error) => return self.not_issued(caller, &grant, error),
                }
            }
        };
        self.issue(caller, &grant, &session, v1)
    }

    fn issue(&self, caller: &Caller, grant: &Grant, session: &Session, v1: bool) -> Result<Good, Refusal> {
        self.metrics.issued.inc();
        if let Some(denied) = &grant.audited {
            self.metrics.would_deny(denied);
        }
        self.audit.issued(caller, grant, session, v1);
        Ok(Good::text(session.document.clone()))
    }

    /// After a wait the address may be another pod's, and the pod may be another role's.
    async fn check_unmoved(
        &self,
        policy: &Policy,
        caller: &Caller,
        key: &SessionKey,
        deadline: Instant,
    ) -> Result<(), Refusal> {
        let now = self.with.identity.still_owner(caller.ip, &caller.pod.facts.uid).ok_or(Refusal::Moved)?;
        let attested = self.with.identity.attest(caller, deadline).await;
        attested.map_err(|why| self.unidentified(caller.ip, why))?;
        match policy.outcome(&now.pod.facts, &now.namespace) {
            Ok(grant) if SessionKey::from(&grant) == *key => Ok(()),
            Ok(_) | Err(_) => Err(Refusal::Moved),
        }
    }

    /// Our own refusal, told in a document as the real service tells a broken trust policy.
    fn denied(&self, caller: &Caller, asked: &str, denied: &Denied) -> Result<Good, Refusal> {
        let listed = denied.listed_name().ok_or(Refusal::NoRole)?;
        let named = denied.role().map_or(asked == listed, |role| {
            asked == role.name() || asked == role.path_and_name() || asked == role.as_str()
        });
        if !named {
            return Err(Refusal::OtherRole);
        }
        let message = denied.message();
        self.metrics.denied(denied.code());
        self.audit.refused(caller, denied.role().map(crate::types::RoleArn::as_str), denied.code(), &message);
        Ok(Good::text(document::render_refusal(document::UNAUTHORIZED, &message, self.with.clock.now())))
    }

    /// STS's refusal. Its words name the node's role and account: they go to the operator's log, not to the pod.
    fn not_issued(&self, caller: &Caller, grant: &Grant, error: BrokerError) -> Result<Good, Refusal> {
        let role = grant.role.as_str();
        self.audit.refused(caller, Some(role), error.code(), &error.to_string());
        let (code, message) = match &error {
            BrokerError::Unauthorized { .. } => (
                document::UNAUTHORIZED,
                format!(
                    "STS refuses sts:AssumeRole of {role} to this node: the role's trust policy must allow the node's \
                     role, with the external id if it asks for one; the agent's log has the answer of STS"
                ),
            ),
            BrokerError::Rejected { code, .. } => (
                document::FAILED,
                format!("STS rejects the request for {role} ({code}); the agent's log has its answer"),
            ),
            BrokerError::Timeout | BrokerError::Unavailable { .. } => {
                return Err(Refusal::Credentials(error));
            }
        };
        self.metrics.denied(error.code());
        Ok(Good::text(document::render_refusal(code, &message, self.with.clock.now())))
    }
}

/// Clients ask with the name they were listed, but a configured one may know the path or the ARN.
fn names(asked: &str, grant: &Grant) -> bool {
    let role = &grant.role;
    asked == role.name() || asked == role.path_and_name() || asked == role.as_str()
}

/// Changes when the annotations that a request for a session rests on do.
fn revision(pod: &PodFacts) -> u64 {
    let mut hasher = DefaultHasher::new();
    (&pod.role, &pod.external_id).hash(&mut hasher);
    hasher.finish()
}
