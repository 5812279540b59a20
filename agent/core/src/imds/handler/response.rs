//! Answers as the real service gives them (PROTOCOL.md 1.6 and 2.1): its `Server`, text/plain, no body on an error.

use bytes::Bytes;
use http::header::{ALLOW, CONNECTION, CONTENT_LENGTH, CONTENT_TYPE, HeaderValue, SERVER};
use http::{Response, StatusCode};
use http_body_util::Full;

use super::super::error::Refusal;
use super::super::upstream::Text;
use super::{Proof, TOKEN_TTL};
use crate::server::HopLimit;
use crate::types::write_digits;

/// What the real service calls itself; old Terraform looks for `EC2` in it.
const EC2WS: HeaderValue = HeaderValue::from_static("EC2ws");
const TEXT_PLAIN: HeaderValue = HeaderValue::from_static("text/plain");
/// Every answer ends its connection; hyper says so to HTTP/1.1 alone.
const CLOSE: HeaderValue = HeaderValue::from_static("close");
/// hyper leaves the length of nothing out of its answers to HEAD.
const NO_BYTES: HeaderValue = HeaderValue::from_static("0");

/// A 200.
pub(super) struct Good {
    body: Bytes,
    content_type: HeaderValue,
    token_seconds: Option<u32>,
    hop_limit: Option<u8>,
}

// === impl Good ===

impl Good {
    pub(super) fn text(body: Bytes) -> Self {
        Self { body, content_type: TEXT_PLAIN, token_seconds: None, hop_limit: None }
    }

    /// A token; its packets end at the first router unless `hop_limit` is 0.
    pub(super) fn token(token: String, seconds: u32, hop_limit: u8) -> Self {
        let hop_limit = (hop_limit > 0).then_some(hop_limit);
        Self { token_seconds: Some(seconds), hop_limit, ..Self::text(Bytes::from(token)) }
    }

    /// Something of the real service's.
    pub(super) fn passed(text: Text) -> Self {
        Self { content_type: HeaderValue::from_static(text.content_type), ..Self::text(text.body) }
    }

    /// An answer to a token says how long that token is still good.
    pub(super) fn answering(self, proof: Proof) -> Self {
        match proof {
            Proof::Token(seconds) => Self { token_seconds: Some(seconds), ..self },
            Proof::Nothing => self,
        }
    }
}

pub(super) fn make(answer: Result<Good, Refusal>) -> Response<Full<Bytes>> {
    let mut response = match answer {
        Ok(good) => {
            let mut response = Response::new(Full::new(good.body));
            response.headers_mut().insert(CONTENT_TYPE, good.content_type);
            if let Some(seconds) = good.token_seconds {
                response.headers_mut().insert(TOKEN_TTL, decimal(seconds));
            }
            if let Some(hops) = good.hop_limit {
                response.extensions_mut().insert(HopLimit(hops));
            }
            response
        }
        Err(refusal) => empty(&refusal),
    };
    response.headers_mut().insert(SERVER, EC2WS);
    response.headers_mut().insert(CONNECTION, CLOSE);
    response
}

/// `HeaderValue::from` would allocate three times.
fn decimal(number: u32) -> HeaderValue {
    // Of u32::MAX.
    let mut digits = [b'0'; 10];
    write_digits(&mut digits, number);
    let zeros = digits.iter().take(digits.len() - 1).take_while(|digit| **digit == b'0').count();
    HeaderValue::from_bytes(&digits[zeros..]).unwrap_or(NO_BYTES)
}

fn empty(refusal: &Refusal) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::default());
    *response.status_mut() = refusal.status();
    response.headers_mut().insert(CONTENT_TYPE, TEXT_PLAIN);
    response.headers_mut().insert(CONTENT_LENGTH, NO_BYTES);
    if let Some(allow) = refusal.allow() {
        response.headers_mut().insert(ALLOW, HeaderValue::from_static(allow));
    }
    debug_assert_ne!(response.status(), StatusCode::OK, "a refusal is not a success");
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_written_without_leading_zeros() {
        for number in [0, 7, 10, 21_600, u32::MAX] {
            assert_eq!(decimal(number), HeaderValue::from(number));
        }
    }
}
