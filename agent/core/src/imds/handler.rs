//! The way of a request through the door: host, route, token, caller, policy, session, document.

mod access;
mod metrics;
mod response;
mod session;

#[cfg(test)]
mod tests;

use std::panic::AssertUnwindSafe;
use std::sync::Arc;

use bytes::Bytes;
use futures::FutureExt;
use http::header::{HOST, HeaderName};
use http::request::Parts;
use http::{HeaderMap, Request, Response};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::{Body, Incoming};
use tokio::sync::watch;
use tokio::time::{Instant, timeout_at};

use super::audit::Audit;
use super::document;
use super::error::Refusal;
use super::passthrough::{Passed, Passthrough};
use super::route::{self, MetadataPath, MetadataPolicy, Route};
use super::token::{self, TokenKey};
use crate::config;
use crate::credentials::Broker;
use crate::identity::{Caller, Identity, Unidentified};
use crate::metrics::Registry;
use crate::policy::{Denied, Grant, Policy};
use crate::server::{Answer, Peer};
use crate::types::{Clock, PodIp};
use access::Seen;
use metrics::Metrics;
use response::Good;

const TOKEN: HeaderName = HeaderName::from_static("x-aws-ec2-metadata-token");
const TOKEN_TTL: HeaderName = HeaderName::from_static("x-aws-ec2-metadata-token-ttl-seconds");
const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
/// A PUT for a token needs no body; a small one is read and dropped, so that its sender sees the answer.
const MOST_PUT_BYTES: usize = 4 * 1024;

/// Answers captured connections.
pub struct Door {
    with: With,
    metrics: Metrics,
    audit: Audit,
}

/// What a [`Door`] asks.
pub struct With {
    /// Own IMDSv2 tokens.
    pub tokens: TokenKey,
    /// What may be passed through.
    pub metadata: MetadataPolicy,
    /// Address to pod.
    pub identity: Identity,
    /// The decision; absent until the node's own identity is known.
    pub policy: watch::Receiver<Option<Arc<Policy>>>,
    /// Sessions.
    pub broker: Broker,
    /// The real IMDS.
    pub passthrough: Passthrough,
    /// Wall time.
    pub clock: Clock,
    /// Limits and switches.
    pub config: config::Imds,
}

/// How a request proves that its sender could do a PUT.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Proof {
    /// A token of ours with so many seconds left.
    Token(u32),
    /// None: IMDSv1.
    Nothing,
}

// === impl Door ===

impl Answer for Door {
    async fn answer(&self, request: Request<Incoming>, peer: Peer) -> Response<Full<Bytes>> {
        let started = Instant::now();
        let (head, body) = request.into_parts();
        let mut seen = Seen { route: "refused", caller: None, v1: false };
        let handled = AssertUnwindSafe(self.handle(&head, body, peer, &mut seen)).catch_unwind().await;
        let (answer, panic) = match handled {
            Ok(answer) => (answer, None),
            Err(panic) => (Err(Refusal::Panic), Some(panic)),
        };
        let reason = answer.as_ref().err().map(Refusal::reason);
        let response = response::make(answer);
        let took = started.elapsed();
        self.metrics.answered(seen.route, response.status(), reason, took);
        access::line(&head, peer, &seen, &response, reason, took);
        if let Some(panic) = panic {
            // It was a request like any other; what is left is the server's, which counts it and closes.
            std::panic::resume_unwind(panic);
        }
        response
    }
}

impl Door {
    /// Opens the door; nothing is asked yet.
    #[must_use]
    pub fn new(with: With, registry: &Registry) -> Self {
        Self { with, metrics: Metrics::register(registry), audit: Audit::default() }
    }

    async fn handle(
        &self,
        head: &Parts,
        body: Incoming,
        peer: Peer,
        seen: &mut Seen,
    ) -> Result<Good, Refusal> {
        let hosts = head.headers.get_all(HOST);
        if !route::host_allowed(hosts.iter().map(http::HeaderValue::as_bytes), head.version) {
            return Err(Refusal::Host);
        }
        let target = route::request_target(&head.uri);
        let route = route::route(&head.method, &target, &self.with.metadata);
        seen.route = route.label();
        match route {
            Route::HostForbidden => Err(Refusal::Host),
            Route::MethodNotAllowed => Err(Refusal::Method),
            Route::TokenMethod => Err(Refusal::TokenMethod),
            Route::TokenForbidden => Err(Refusal::TokenPath),
            Route::Token => self.token(head, body, peer.ip).await,
            Route::NotFound => self.unknown_path(&head.headers, peer.ip),
            Route::Versions => self.read(head, peer, seen, What::Text(route::VERSIONS.into())).await,
            Route::Directory(list) => self.read(head, peer, seen, What::Text(list)).await,
            Route::IamDirectory => self.read(head, peer, seen, What::IamDirectory).await,
            Route::RoleList => self.read(head, peer, seen, What::RoleList).await,
            Route::Document { role } => self.read(head, peer, seen, What::Document(role)).await,
            Route::IamInfo => self.read(head, peer, seen, What::IamInfo).await,
            Route::Metadata(path) => self.read(head, peer, seen, What::Metadata(path)).await,
        }
    }

    /// A token is given from the request alone: no look-up may slow it down or make it fail.
    async fn token(&self, head: &Parts, body: Incoming, ip: PodIp) -> Result<Good, Refusal> {
        if head.headers.contains_key(FORWARDED_FOR) {
            return Err(Refusal::Forwarded);
        }
        let asked = head.headers.get_all(TOKEN_TTL);
        let ttl =
            token::parse_ttl(asked.iter().map(http::HeaderValue::as_bytes)).map_err(|_| Refusal::TokenTtl)?;
        if !body.is_end_stream() {
            // What does not arrive in time, or is too long, changes nothing about the answer.
            let rest = Limited::new(body, MOST_PUT_BYTES).collect();
            let _ = timeout_at(Instant::now() + self.with.config.hold, rest).await;
        }
        let token = self.with.tokens.issue(ip, ttl, self.with.clock.unix_seconds());
        Ok(Good::token(token, ttl, self.with.config.token_hop_limit))
    }

    /// A path that is nothing: a bad token, or a missing one where it is known to be required, is still 401.
    fn unknown_path(&self, headers: &HeaderMap, ip: PodIp) -> Result<Good, Refusal> {
        if self.proof(headers, ip)? == Proof::Nothing {
            self.refuse_v1_early(ip)?;
        }
        Err(Refusal::NotFound)
    }

    /// Everything that only a pod may read.
    async fn read(&self, head: &Parts, peer: Peer, seen: &mut Seen, what: What) -> Result<Good, Refusal> {
        let (ip, deadline) = (peer.ip, Instant::now() + self.with.config.hold);
        let proof = self.proof(&head.headers, ip)?;
        if proof == Proof::Nothing {
            seen.v1 = true;
            self.refuse_v1_early(ip)?;
        }
        let identified = self.with.identity.identify(ip, peer.arrival, deadline).await;
        let caller = identified.map_err(|why| self.unidentified(ip, why))?;
        seen.caller = Some(caller.clone());
        let policy = self.policy(deadline).await?;
        if proof == Proof::Nothing && !policy.imds_v1_allowed(&caller.namespace, self.with.config.allow_v1) {
            return Err(Refusal::TokenMissing);
        }
        let good = match what {
            What::Text(text) => Good::text(text),
            What::IamDirectory => {
                self.visible_role(&policy, &caller)?;
                Good::text(document::render_iam_directory())
            }
            What::RoleList => Good::text(Bytes::from(self.visible_role(&policy, &caller)?)),
            What::IamInfo => self.iam_info(&policy, &caller)?,
            What::Document(role) => self.document(&policy, &caller, &role, seen.v1, deadline).await?,
            What::Metadata(path) => self.metadata(&path, deadline).await?,
        };
        if seen.v1 {
            self.metrics.v1.inc();
            self.audit.v1_used(&caller.pod.facts.namespace);
        }
        Ok(good.answering(proof))
    }

    /// Who it would be, were its address believed, is in the trail.
    fn unidentified(&self, ip: PodIp, why: Unidentified) -> Refusal {
        if why.is_doubt()
            && let Some(caller) = self.with.identity.look_up(ip)
        {
            self.audit.refused(&caller, None, why.code(), &why.to_string());
        }
        Refusal::Unidentified(why)
    }

    /// The token that the request carries, checked; two are none.
    fn proof(&self, headers: &HeaderMap, ip: PodIp) -> Result<Proof, Refusal> {
        let mut presented = headers.get_all(TOKEN).iter();
        let Some(token) = presented.next() else { return Ok(Proof::Nothing) };
        if headers.contains_key(FORWARDED_FOR) {
            return Err(Refusal::Forwarded);
        }
        if presented.next().is_some() {
            return Err(Refusal::TokenInvalid);
        }
        let now = self.with.clock.unix_seconds();
        self.with
            .tokens
            .verify(token.as_bytes(), ip, now)
            .map(Proof::Token)
            .map_err(|_| Refusal::TokenInvalid)
    }

    /// A request without a token need not wait to be told that it needs one: its namespace says so where it is
    /// known already, else what holds for all.
    fn refuse_v1_early(&self, ip: PodIp) -> Result<(), Refusal> {
        let default = self.with.config.allow_v1;
        let known = self.with.identity.look_up(ip).zip(self.with.policy.borrow().clone());
        let allowed =
            known.map_or(default, |(caller, policy)| policy.imds_v1_allowed(&caller.namespace, default));
        if allowed { Ok(()) } else { Err(Refusal::TokenMissing) }
    }

    async fn policy(&self, deadline: Instant) -> Result<Arc<Policy>, Refusal> {
        let known = self.with.policy.borrow().clone();
        if let Some(policy) = known {
            return Ok(policy);
        }
        let mut policy = self.with.policy.clone();
        let known = timeout_at(deadline, policy.wait_for(Option::is_some)).await;
        match known {
            Ok(Ok(policy)) => policy.clone().ok_or(Refusal::NotReady),
            Ok(Err(_)) | Err(_) => Err(Refusal::NotReady),
        }
    }

    /// The name that the role list shows: also of a role that is refused, so that the client goes on to the document,
    /// which says why.
    fn visible_role(&self, policy: &Policy, caller: &Caller) -> Result<String, Refusal> {
        match self.decide(policy, caller) {
            Ok(grant) => Ok(grant.role.name().to_owned()),
            Err(denied) => denied.listed_name().map(str::to_owned).ok_or(Refusal::NoRole),
        }
    }

    fn iam_info(&self, policy: &Policy, caller: &Caller) -> Result<Good, Refusal> {
        match self.decide(policy, caller) {
            Ok(grant) => Ok(Good::text(document::render_iam_info(&grant.role, self.with.clock.now()))),
            Err(_) => Err(Refusal::NoRole),
        }
    }

    async fn metadata(&self, path: &MetadataPath, deadline: Instant) -> Result<Good, Refusal> {
        match self.with.passthrough.get(path, deadline).await {
            Passed::Text(text) => Ok(Good::passed(text)),
            Passed::NotFound => Err(Refusal::NotFound),
            Passed::Unavailable => Err(Refusal::Upstream),
        }
    }

    fn decide(&self, policy: &Policy, caller: &Caller) -> Result<Grant, Denied> {
        policy.outcome(&caller.pod.facts, &caller.namespace)
    }
}

/// What a pod reads.
enum What {
    Text(Bytes),
    IamDirectory,
    RoleList,
    IamInfo,
    Document(String),
    Metadata(MetadataPath),
}
