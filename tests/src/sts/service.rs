//! What STS decides: who calls, what they may, which session they get. Knows no HTTP server.

use std::collections::HashMap;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use http::request::Parts;
use parking_lot::Mutex;
use serde_json::{Value, json};

use super::answer::{Answer, Refusal, Written, assumed, identity};
use super::faults::Faults;
use super::parameters::check_parameters;
use super::policy::{self, Asked};
use super::signature::{Claim, amz_date};
use super::{Call, DEFAULT_ACCOUNT, Issued, Keys, SECRET_MARK, TOKEN_MARK};

/// STS takes signatures of the last quarter of an hour.
const SIGNATURE_LIFE: Duration = Duration::from_secs(15 * 60);
/// The action of pods that have a token of their own.
const WITH_WEB_IDENTITY: &str = "AssumeRoleWithWebIdentity";
/// Cap of sessions got by a session (role chaining).
const CHAINED_MAX: u64 = 3_600;

/// The state of the double.
#[derive(Debug)]
pub(super) struct Service {
    pub(super) faults: Faults,
    roles: Mutex<HashMap<String, Role>>,
    principals: Mutex<HashMap<String, Principal>>,
    permissions: Mutex<HashMap<String, Value>>,
    pub(super) calls: Mutex<Vec<Call>>,
    pub(super) issued: Mutex<HashMap<String, Issued>>,
    pub(super) issuer: Issuer,
    number: AtomicU64,
    seed: u64,
}

type Make = Box<dyn Fn(&str, &str, u64) -> Option<Keys> + Send + Sync>;

/// Who makes keys, if not this double.
#[derive(Default)]
pub(super) struct Issuer(pub(super) Mutex<Option<Make>>);

#[derive(Clone, Debug)]
struct Role {
    trust: Value,
    max_session: Duration,
}

/// Somebody who can sign.
#[derive(Clone, Debug)]
struct Principal {
    secret: String,
    token: Option<String>,
    /// `arn:aws:iam::…`: the role or user that policies name.
    arn: String,
    /// `arn:aws:sts::…:assumed-role/…`, or `arn` again for a user.
    caller: String,
    expires: Option<SystemTime>,
}

/// A request whose signature is right.
struct Proved {
    principal: Principal,
    region: String,
}

impl fmt::Debug for Issuer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Issuer")
    }
}

// === impl Service ===

impl Service {
    pub(super) fn new() -> Self {
        let started = wall_time(0).duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        Self {
            faults: Faults::default(),
            roles: Mutex::default(),
            principals: Mutex::default(),
            permissions: Mutex::default(),
            calls: Mutex::default(),
            issued: Mutex::default(),
            issuer: Issuer::default(),
            number: AtomicU64::new(0),
            seed: u64::from(std::process::id()) << 32 ^ u64::from(started.subsec_nanos()),
        }
    }

    pub(super) fn put_role(&self, role: &str, trust: Value, max_session: Duration) {
        self.roles.lock().insert(role_arn(role), Role { trust, max_session });
    }

    pub(super) fn remove_role(&self, role: &str) {
        self.roles.lock().remove(&role_arn(role));
    }

    pub(super) fn put_permissions(&self, principal: &str, policy: Value) {
        self.permissions.lock().insert(principal.to_owned(), policy);
    }

    pub(super) fn add_principal(&self, access_key: &str, secret: &str, token: Option<&str>, arn: &str) {
        let (arn, caller) = both_names(arn, "i-0123456789abcdef0");
        let token = token.map(str::to_owned);
        let principal = Principal { secret: secret.to_owned(), token, arn, caller, expires: None };
        self.principals.lock().insert(access_key.to_owned(), principal);
    }

    pub(super) fn expire_principal(&self, access_key: &str) {
        if let Some(principal) = self.principals.lock().get_mut(access_key) {
            principal.expires = Some(SystemTime::UNIX_EPOCH);
        }
    }

    /// STS's wall time.
    pub(super) fn now(&self) -> SystemTime {
        wall_time(self.faults.ahead_seconds())
    }

    /// The answer to one request; recorded, whatever it is.
    pub(super) fn answer(&self, parts: &Parts, form: &HashMap<String, String>, body: &[u8]) -> Answer {
        let request_id = self.unique("request");
        let mut call = Call::of_form(form, self.now());
        let answer = if call.action == WITH_WEB_IDENTITY {
            self.with_web_identity(&mut call, form, &request_id)
        } else {
            self.authenticate(parts, body).and_then(|proved| {
                call.principal.clone_from(&proved.principal.caller);
                call.region.clone_from(&proved.region);
                self.act(&mut call, &proved, form, &request_id)
            })
        };
        let answer = answer.unwrap_or_else(|refusal| {
            call.error = Some(refusal.code.to_owned());
            refusal.answer(&request_id)
        });
        self.calls.lock().push(call);
        answer
    }

    fn act(
        &self,
        call: &mut Call,
        proved: &Proved,
        form: &HashMap<String, String>,
        request_id: &str,
    ) -> Result<Answer, Refusal> {
        if self.faults.throttles() {
            return Err(Refusal::new(400, "Throttling", "Rate exceeded"));
        }
        match call.action.as_str() {
            "GetCallerIdentity" => {
                let caller = &proved.principal.caller;
                let account = account_of(caller);
                Ok(identity(caller, "AROAEXAMPLEEXAMPLE:session", account, request_id))
            }
            "AssumeRole" => {
                let seconds = check_parameters(form)?;
                self.authorise(call, proved)?;
                self.check_duration(call, &proved.principal, seconds)?;
                Ok(self.issue(call, seconds, request_id))
            }
            other => {
                let message = format!("Could not find operation {other} for version 2011-06-15");
                Err(Refusal::new(400, "InvalidAction", message))
            }
        }
    }

    /// Nobody signs this one, a token speaks for its bearer: any token is believed, for any role that there is.
    fn with_web_identity(
        &self,
        call: &mut Call,
        form: &HashMap<String, String>,
        request_id: &str,
    ) -> Result<Answer, Refusal> {
        let seconds = check_parameters(form)?;
        if form.contains_key("WebIdentityToken") && self.roles.lock().contains_key(&call.role) {
            return Ok(self.issue(call, seconds, request_id));
        }
        Err(Refusal::new(403, "AccessDenied", "Not authorized to perform sts:AssumeRoleWithWebIdentity"))
    }

    fn authenticate(&self, parts: &Parts, body: &[u8]) -> Result<Proved, Refusal> {
        let Some(claim) = Claim::read(parts) else {
            let message = "Request is missing Authentication Token";
            return Err(Refusal::new(403, "MissingAuthenticationToken", message));
        };
        let unknown = || {
            Refusal::new(
                403,
                "InvalidClientTokenId",
                "The security token included in the request is invalid.",
            )
        };
        let principal = self.principals.lock().get(&claim.access_key).cloned().ok_or_else(unknown)?;
        let token = parts.headers.get("x-amz-security-token").and_then(|value| value.to_str().ok());
        if principal.token.as_deref() != token {
            return Err(unknown());
        }
        let now = self.now();
        let oldest = now.checked_sub(SIGNATURE_LIFE).unwrap_or(SystemTime::UNIX_EPOCH);
        if claim.signed_at < oldest || claim.signed_at > now + SIGNATURE_LIFE {
            let (signed, oldest, now) = (amz_date(claim.signed_at), amz_date(oldest), amz_date(now));
            let message =
                format!("Signature expired: {signed} is now earlier than {oldest} ({now} - 15 min.)");
            return Err(Refusal::new(403, "SignatureDoesNotMatch", message));
        }
        if !claim.is_proved(parts, body, &principal.secret) {
            let message = "The request signature we calculated does not match the signature you provided. Check \
                           your AWS Secret Access Key and signing method. Consult the service documentation for \
                           details.";
            return Err(Refusal::new(403, "SignatureDoesNotMatch", message));
        }
        if principal.expires.is_some_and(|end| end <= now) {
            let message = "The security token included in the request is expired";
            return Err(Refusal::new(403, "ExpiredToken", message));
        }
        Ok(Proved { principal, region: claim.region })
    }

    fn authorise(&self, call: &Call, proved: &Proved) -> Result<(), Refusal> {
        let Principal { arn, caller, .. } = &proved.principal;
        let asked = Asked {
            principal: arn,
            caller,
            account: account_of(arn),
            resource: &call.role,
            external_id: call.external_id.as_deref(),
        };
        let trusted =
            self.roles.lock().get(&call.role).is_some_and(|role| policy::trusts(&role.trust, asked));
        let everything =
            json!({"Statement": {"Effect": "Allow", "Action": "sts:AssumeRole", "Resource": "*"}});
        let own = self.permissions.lock().get(arn).cloned().unwrap_or(everything);
        if trusted && policy::permits(&own, asked) {
            return Ok(());
        }
        let message =
            format!("User: {caller} is not authorized to perform: sts:AssumeRole on resource: {}", call.role);
        Err(Refusal::new(403, "AccessDenied", message))
    }

    fn check_duration(&self, call: &Call, caller: &Principal, seconds: u64) -> Result<(), Refusal> {
        if caller.caller != caller.arn && seconds > CHAINED_MAX {
            let message = "The requested DurationSeconds exceeds the 1 hour session limit for roles assumed by \
                           role chaining.";
            return Err(Refusal::new(400, "ValidationError", message));
        }
        let most = self.roles.lock().get(&call.role).map_or(0, |role| role.max_session.as_secs());
        if seconds > most {
            let message = "The requested DurationSeconds exceeds the MaxSessionDuration set for this role.";
            return Err(Refusal::new(400, "ValidationError", message));
        }
        Ok(())
    }

    fn issue(&self, call: &mut Call, seconds: u64, request_id: &str) -> Answer {
        let foreign =
            self.issuer.0.lock().as_ref().and_then(|make| make(&call.role, &call.session_name, seconds));
        let (access_key, secret, token) =
            foreign.unwrap_or_else(|| (self.access_key(), self.unique(SECRET_MARK), self.unique(TOKEN_MARK)));
        let (_, arn) = both_names(&call.role, &call.session_name);
        let expiration = self.now() + self.faults.life(Duration::from_secs(seconds));
        let issued = Issued {
            role: call.role.clone(),
            session_name: call.session_name.clone(),
            external_id: call.external_id.clone(),
            expiration,
            secret: secret.clone(),
            token: token.clone(),
        };
        let principal = Principal {
            secret: secret.clone(),
            token: Some(token.clone()),
            arn: call.role.clone(),
            caller: arn.clone(),
            expires: Some(expiration),
        };
        self.principals.lock().insert(access_key.clone(), principal);
        self.issued.lock().insert(access_key.clone(), issued);
        call.access_key_id = Some(access_key.clone());
        let role_id = format!("AROAEXAMPLEEXAMPLE:{}", call.session_name);
        let written = Written {
            access_key: &access_key,
            secret: &secret,
            token: &token,
            expiration,
            arn: &arn,
            role_id: &role_id,
        };
        assumed(&call.action, &written, request_id)
    }

    /// `ASIA` and 16 letters and digits, unique over processes as far as tests need it.
    fn access_key(&self) -> String {
        let mut left = self.seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ self.next() << 40;
        let mut text = String::from("ASIA");
        for _ in 0..16 {
            text.push(char::from(
                b"ABCDEFGHIJKLMNOPQRSTUVWXYZ234567"[usize::from(left.to_le_bytes()[0] & 31)],
            ));
            left = left.rotate_right(5);
        }
        text
    }

    fn unique(&self, mark: &str) -> String {
        format!("{mark}{:016x}{:08x}", self.seed, self.next())
    }

    fn next(&self) -> u64 {
        self.number.fetch_add(1, Ordering::Relaxed) + 1
    }
}

/// A name, a path/name or an ARN.
fn role_arn(role: &str) -> String {
    if role.starts_with("arn:") {
        role.to_owned()
    } else {
        format!("arn:aws:iam::{DEFAULT_ACCOUNT}:role/{role}")
    }
}

fn account_of(arn: &str) -> &str {
    arn.split(':').nth(4).unwrap_or_default()
}

/// What policies call a principal, and what GetCallerIdentity calls its session.
fn both_names(arn: &str, session: &str) -> (String, String) {
    if let Some((role, _)) =
        arn.replace(":sts:", ":iam:").replace(":assumed-role/", ":role/").rsplit_once('/')
        && arn.contains(":assumed-role/")
    {
        return (role.to_owned(), arn.to_owned());
    }
    match arn.split_once(":role/") {
        Some((account, path)) => {
            let name = path.rsplit('/').next().unwrap_or_default();
            let account = account.replace(":iam:", ":sts:");
            (arn.to_owned(), format!("{account}:assumed-role/{name}/{session}"))
        }
        None => (arn.to_owned(), arn.to_owned()),
    }
}

fn wall_time(ahead_seconds: i64) -> SystemTime {
    #[expect(clippy::disallowed_methods, reason = "a service of its own has a clock of its own")]
    let now = SystemTime::now();
    let by = Duration::from_secs(ahead_seconds.unsigned_abs());
    if ahead_seconds < 0 { now - by } else { now + by }
}
