//! Requests to the API server and its answers: no more of them than fits, and what an error among them says.

use std::error::Error;
use std::time::Duration;

use http::header::{CONTENT_TYPE, HeaderMap, RETRY_AFTER};
use http_body_util::BodyExt;
use kube::Client;
use kube::client::Body;
use serde::Deserialize;

/// So much of an error's body is looked at for the API server's words.
const MAX_ERROR_BYTES: usize = 64 << 10;

/// So much of these words is kept.
const MAX_MESSAGE_CHARS: usize = 400;

/// Longest that `Retry-After` is waited for. The API server itself asks for seconds; whoever asks for more must
/// not keep an agent blind.
const LONGEST_RETRY_AFTER: Duration = Duration::from_secs(60);

/// Why there is no answer that is 200.
#[derive(Debug)]
pub(super) enum SendError {
    /// The connection's error, with its causes.
    Connection(String),
    /// Another answer.
    Refused(Refusal),
}

/// What the API server, or whoever answers in its place, says instead.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Refusal {
    /// The status of the answer.
    pub(super) code: u16,
    /// In the API server's words, cut.
    pub(super) message: String,
    /// It asks not to be asked again before.
    pub(super) retry_after: Option<Duration>,
}

/// What the API server says of a failure.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Status {
    code: u16,
    message: String,
    details: Option<Details>,
}

/// How to go on after it.
#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Details {
    retry_after_seconds: Option<u64>,
}

/// Header and body of an answer that is 200.
pub(super) async fn send(
    client: &Client,
    request: http::Request<Vec<u8>>,
) -> Result<(HeaderMap, Body), SendError> {
    let answer = client.send(request.map(Body::from)).await;
    let answer = answer.map_err(|error| SendError::Connection(chain(&error)))?;
    let (head, mut body) = answer.into_parts();
    if head.status == http::StatusCode::OK {
        return Ok((head.headers, body));
    }
    let text = read(&mut body, MAX_ERROR_BYTES).await.ok().flatten().unwrap_or_default();
    // Another's page (a proxy's, a load balancer's) is not repeated: it may be long, and say anything.
    let status = serde_json::from_slice::<Status>(&text).ok();
    let mut status = status.filter(|status| status.code != 0).unwrap_or_else(|| Status {
        message: format!("without a status of the API server ({})", content_type(&head.headers)),
        ..Status::default()
    });
    status.code = head.status.as_u16();
    Err(SendError::Refused(Refusal::of(&status, retry_after(&head.headers))))
}

/// A whole body; `None` where it is longer than `limit`.
pub(super) async fn read(body: &mut Body, limit: usize) -> Result<Option<Vec<u8>>, String> {
    let mut text = Vec::new();
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| chain(&error))?;
        let Ok(data) = frame.into_data() else { continue };
        if text.len() + data.len() > limit {
            return Ok(None);
        }
        text.extend_from_slice(&data);
    }
    Ok(Some(text))
}

pub(super) fn content_type(headers: &HeaderMap) -> String {
    let value = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok());
    value.unwrap_or("no content type").chars().take(MAX_MESSAGE_CHARS).collect()
}

/// An error with its causes: `a: b: c`. Libraries disagree on whether a text holds its cause's.
pub(super) fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text = format!("{text}: {cause_text}");
        }
        source = cause.source();
    }
    text
}

/// In seconds, as the API server writes it; a date is not looked at.
fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    headers.get(RETRY_AFTER)?.to_str().ok()?.trim().parse().ok().map(Duration::from_secs)
}

// === impl Refusal ===

impl Refusal {
    /// What a status that is an error means; `retry_after` is its header.
    pub(super) fn of(status: &Status, retry_after: Option<Duration>) -> Self {
        let details = status.details.as_ref().and_then(|details| details.retry_after_seconds);
        let retry_after = retry_after.max(details.map(Duration::from_secs));
        Self {
            code: status.code,
            message: status.message.chars().filter(|c| !c.is_control()).take(MAX_MESSAGE_CHARS).collect(),
            retry_after: retry_after.map(|wait| wait.min(LONGEST_RETRY_AFTER)),
        }
    }
}
