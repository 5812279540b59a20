//! `moto_server` as IAM and S3: somebody else's opinion on what a session may do.
//!
//! moto judges signatures and permissions only for sessions that it issued itself, and its own check of trust
//! policies breaks on ones that name a service. So trust stays with the STS double, and a session that the
//! double grants is issued by moto: [`Moto::assume_role`], as an administrator, of a role that here trusts
//! everybody. Checking is on from its start to its end.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result, bail, ensure};
use aws_credential_types::Credentials;
use aws_sigv4::http_request::{SignableBody, SignableRequest, SigningSettings, sign};
use aws_sigv4::sign::v4;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};

use crate::clients::{REGION, cache};
use crate::http::{Client, Response};
use crate::netns::NetNs;
use crate::service::Service;
use crate::topology::WORLD_V4;

/// Where pods reach it: `http://10.0.0.1:5000`.
pub const PORT: u16 = 5000;

/// Longest that moto may take to start; it imports for a second or two.
const PATIENCE: Duration = Duration::from_secs(30);

/// What Python's `urlencode` leaves alone: moto encodes the parsed form again to check the signature.
const FORM: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.').remove(b'~');

/// A running moto. Dropping it ends it.
#[derive(Debug)]
pub struct Moto {
    world: Arc<NetNs>,
    admin: Credentials,
    _service: Service,
}

/// A session that moto issued.
#[derive(Clone, PartialEq, Eq)]
pub struct Session {
    /// `ASIA…`.
    pub access_key_id: String,
    /// Secret.
    pub secret_access_key: String,
    /// Secret.
    pub session_token: String,
}

// === impl Moto ===

impl Moto {
    /// Why it cannot be run here, if it cannot.
    #[must_use]
    pub fn missing() -> Option<String> {
        let program = cache().join("venv/bin/moto_server");
        (!program.exists()).then(|| format!("{} is not there (tests/tools/setup.sh)", program.display()))
    }

    /// Starts it in `world` with AWS's managed policies, makes an administrator, and switches checking on.
    ///
    /// # Errors
    /// When it cannot be started or does not answer.
    pub fn start(world: &Arc<NetNs>) -> Result<Self> {
        let mut command = world.command(cache().join("venv/bin/moto_server"));
        command
            .args(["-H", "0.0.0.0", "-p", &PORT.to_string()])
            .env("MOTO_IAM_LOAD_MANAGED_POLICIES", "true");
        let mut service = Service::start("moto_server", &mut command, None)?;
        let client = Client::new(world, (WORLD_V4, PORT).into());
        service.wait_until(PATIENCE, || client.get("/moto-api/").is_ok())?;
        let nobody = Credentials::new("AKIAIOSFODNN7EXAMPLE", "unchecked", None, None, "moto");
        let mut moto = Self { world: Arc::clone(world), admin: nobody, _service: service };

        moto.iam("CreateUser", &[("UserName", "admin")])?;
        let everything =
            r#"{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Action":"*","Resource":"*"}]}"#;
        moto.iam(
            "PutUserPolicy",
            &[("UserName", "admin"), ("PolicyName", "everything"), ("PolicyDocument", everything)],
        )?;
        let keys = moto.iam("CreateAccessKey", &[("UserName", "admin")])?;
        moto.admin = Credentials::new(
            element(&keys, "AccessKeyId")?,
            element(&keys, "SecretAccessKey")?,
            None,
            None,
            "moto",
        );
        moto.check(true)?;
        Ok(moto)
    }

    /// Its URL, from anywhere.
    #[must_use]
    pub fn endpoint() -> String {
        format!("http://{WORLD_V4}:{PORT}")
    }

    /// Whether signatures and permissions are checked from now on.
    ///
    /// # Errors
    /// When it does not answer.
    pub fn check(&self, on: bool) -> Result<()> {
        let body = if on { "0" } else { "inf" };
        let request = format!(
            "POST /moto-api/reset-auth HTTP/1.1\r\nHost: {WORLD_V4}:{PORT}\r\nContent-Type: text/plain\r\n\
             Content-Length: {}\r\nConnection: close\r\n\r\n{body}",
            body.len()
        );
        let answer = self.client().raw(request.as_bytes())?;
        ensure!(answer.status == 200, "reset-auth: {} {}", answer.status, answer.text());
        Ok(())
    }

    /// A bucket.
    ///
    /// # Errors
    /// What moto said.
    pub fn create_bucket(&self, name: &str) -> Result<()> {
        let body = format!(
            "<CreateBucketConfiguration><LocationConstraint>{REGION}</LocationConstraint></CreateBucketConfiguration>"
        );
        self.signed("PUT", &format!("/{name}"), "s3", "application/xml", &body).map(drop)
    }

    /// A role without permissions, path `/`.
    ///
    /// # Errors
    /// What moto said.
    pub fn create_role(&self, name: &str) -> Result<()> {
        let everybody = r#"{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Principal":{"AWS":"*"},"Action":"sts:AssumeRole"}]}"#;
        self.iam("CreateRole", &[("RoleName", name), ("AssumeRolePolicyDocument", everybody)]).map(drop)
    }

    /// Attaches a managed policy to a role; sessions issued before have it at once.
    ///
    /// # Errors
    /// What moto said.
    pub fn attach_policy(&self, role: &str, policy_arn: &str) -> Result<()> {
        self.iam("AttachRolePolicy", &[("RoleName", role), ("PolicyArn", policy_arn)]).map(drop)
    }

    /// Takes a managed policy from a role.
    ///
    /// # Errors
    /// What moto said.
    pub fn detach_policy(&self, role: &str, policy_arn: &str) -> Result<()> {
        self.iam("DetachRolePolicy", &[("RoleName", role), ("PolicyArn", policy_arn)]).map(drop)
    }

    /// Issues a session, trust having been checked by whoever asks.
    ///
    /// # Errors
    /// What moto said.
    pub fn assume_role(&self, role_arn: &str, session_name: &str, seconds: u64) -> Result<Session> {
        let seconds = seconds.to_string();
        let form = form(
            "AssumeRole",
            "2011-06-15",
            &[("RoleArn", role_arn), ("RoleSessionName", session_name), ("DurationSeconds", &seconds)],
        );
        let answer = self.signed("POST", "/", "sts", "application/x-www-form-urlencoded", &form)?.text();
        Ok(Session {
            access_key_id: element(&answer, "AccessKeyId")?,
            secret_access_key: element(&answer, "SecretAccessKey")?,
            session_token: element(&answer, "SessionToken")?,
        })
    }

    fn iam(&self, action: &str, parameters: &[(&str, &str)]) -> Result<String> {
        let form = form(action, "2010-05-08", parameters);
        Ok(self.signed("POST", "/", "iam", "application/x-www-form-urlencoded", &form)?.text())
    }

    fn signed(&self, method: &str, path: &str, service: &str, mime: &str, body: &str) -> Result<Response> {
        let host = format!("{WORLD_V4}:{PORT}");
        let headers = [("host", host.as_str()), ("content-type", mime)];
        let identity = self.admin.clone().into();
        let parameters = v4::SigningParams::builder()
            .identity(&identity)
            .region(REGION)
            .name(service)
            .time(now())
            .settings(SigningSettings::default())
            .build()?
            .into();
        let url = format!("http://{host}{path}");
        let signable =
            SignableRequest::new(method, &url, headers.into_iter(), SignableBody::Bytes(body.as_bytes()))?;
        let (instructions, _) = sign(signable, &parameters)?.into_parts();

        let mut request = format!("{method} {path} HTTP/1.1\r\nConnection: close\r\n");
        for (name, value) in headers.into_iter().chain(instructions.headers()) {
            request.push_str(&format!("{name}: {value}\r\n"));
        }
        request.push_str(&format!("content-length: {}\r\n\r\n{body}", body.len()));
        let answer = self.client().raw(request.as_bytes())?;
        if answer.status != 200 {
            bail!("moto: {service} {method} {path}: {} {}", answer.status, answer.text());
        }
        Ok(answer)
    }

    fn client(&self) -> Client<'_> {
        Client::new(&self.world, (WORLD_V4, PORT).into())
    }
}

fn form(action: &str, version: &str, parameters: &[(&str, &str)]) -> String {
    let mut form = format!("Action={action}&Version={version}");
    for (name, value) in parameters {
        form.push_str(&format!("&{name}={}", utf8_percent_encode(value, FORM)));
    }
    form
}

/// The text of the first element of this name in an answer of IAM or STS, which nest nothing below it.
fn element(xml: &str, name: &str) -> Result<String> {
    let value = xml
        .split_once(&format!("<{name}>"))
        .and_then(|(_, rest)| rest.split_once(&format!("</{name}>")))
        .with_context(|| format!("no {name} in the answer"))?
        .0;
    Ok(value.replace("&lt;", "<").replace("&gt;", ">").replace("&quot;", "\"").replace("&amp;", "&"))
}

#[expect(clippy::disallowed_methods, reason = "a signature carries the wall time, and moto checks by it")]
fn now() -> SystemTime {
    SystemTime::now()
}
