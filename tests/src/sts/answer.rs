//! What STS sends: its XML, for success and for errors.

use std::time::SystemTime;

use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

const XMLNS: &str = "https://sts.amazonaws.com/doc/2011-06-15/";

/// An answer, before it is damaged by a fault.
#[derive(Clone, Debug)]
pub(super) struct Answer {
    pub(super) status: u16,
    pub(super) body: String,
}

/// An error as AWS has it.
#[derive(Clone, Debug)]
pub(super) struct Refusal {
    pub(super) status: u16,
    pub(super) code: &'static str,
    pub(super) message: String,
}

/// A session to be written down.
#[derive(Clone, Debug)]
pub(super) struct Written<'a> {
    pub(super) access_key: &'a str,
    pub(super) secret: &'a str,
    pub(super) token: &'a str,
    pub(super) expiration: SystemTime,
    pub(super) arn: &'a str,
    pub(super) role_id: &'a str,
}

// === impl Refusal ===

impl Refusal {
    pub(super) fn new(status: u16, code: &'static str, message: impl Into<String>) -> Self {
        Self { status, code, message: message.into() }
    }

    pub(super) fn answer(&self, request_id: &str) -> Answer {
        let kind = if self.status >= 500 { "Receiver" } else { "Sender" };
        let (code, message) = (self.code, escaped(&self.message));
        let body = format!(
            "<ErrorResponse xmlns=\"{XMLNS}\">\n  <Error>\n    <Type>{kind}</Type>\n    <Code>{code}</Code>\n    \
             <Message>{message}</Message>\n  </Error>\n  <RequestId>{request_id}</RequestId>\n</ErrorResponse>\n"
        );
        Answer { status: self.status, body }
    }
}

/// The answer to AssumeRole, or to another `action` that gives a session.
pub(super) fn assumed(action: &str, written: &Written<'_>, request_id: &str) -> Answer {
    let Written { access_key, secret, token, arn, role_id, expiration } = written;
    let expiration = rfc3339(*expiration);
    let arn = escaped(arn);
    let body = format!(
        "<{action}Response xmlns=\"{XMLNS}\">\n  <{action}Result>\n    <AssumedRoleUser>\n      \
         <AssumedRoleId>{role_id}</AssumedRoleId>\n      <Arn>{arn}</Arn>\n    </AssumedRoleUser>\n    \
         <Credentials>\n      <AccessKeyId>{access_key}</AccessKeyId>\n      \
         <SecretAccessKey>{secret}</SecretAccessKey>\n      <SessionToken>{token}</SessionToken>\n      \
         <Expiration>{expiration}</Expiration>\n    </Credentials>\n  </{action}Result>\n  \
         <ResponseMetadata>\n    <RequestId>{request_id}</RequestId>\n  </ResponseMetadata>\n</{action}Response>\n"
    );
    Answer { status: 200, body }
}

/// The answer to GetCallerIdentity.
pub(super) fn identity(arn: &str, user_id: &str, account: &str, request_id: &str) -> Answer {
    let arn = escaped(arn);
    let body = format!(
        "<GetCallerIdentityResponse xmlns=\"{XMLNS}\">\n  <GetCallerIdentityResult>\n    <Arn>{arn}</Arn>\n    \
         <UserId>{user_id}</UserId>\n    <Account>{account}</Account>\n  </GetCallerIdentityResult>\n  \
         <ResponseMetadata>\n    <RequestId>{request_id}</RequestId>\n  </ResponseMetadata>\n\
         </GetCallerIdentityResponse>\n"
    );
    Answer { status: 200, body }
}

/// Whole seconds and `Z`, as STS writes them.
fn rfc3339(at: SystemTime) -> String {
    let at = OffsetDateTime::from(at);
    at.replace_nanosecond(0).unwrap_or(at).format(&Rfc3339).unwrap_or_default()
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}
