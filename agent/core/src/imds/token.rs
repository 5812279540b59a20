//! Session tokens of our own IMDSv2: stateless, bound to the caller's address, valid across restarts.
//!
//! A token only proves that its holder could do a PUT; identity is never taken from it. Clients exist that
//! keep a token for its six hours whatever is answered, so the key is kept in the state directory.
//!
//! A token is 42 bytes, which makes 56 characters of base64, as the real one has: 2 bytes of version,
//! 8 of expiry (Unix seconds, big-endian), 32 of HMAC-SHA256 over these and the caller's address.

mod key_file;

#[cfg(test)]
mod tests;

use std::fmt;
use std::net::IpAddr;
use std::path::Path;

use aws_lc_rs::hmac;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use crate::types::PodIp;

pub use key_file::KeyWarning;

/// Longest life of a token, in seconds. Source: the EC2 guide, "Use IMDSv2".
pub const LONGEST_TTL_SECONDS: u32 = 21_600;

/// Characters of a token.
pub const TOKEN_CHARS: usize = 56;

/// Bytes of a token before it is encoded.
const TOKEN_BYTES: usize = 42;

/// Bytes of version and expiry, before the MAC.
const HEAD_BYTES: usize = 10;

/// The only version there is.
const VERSION: [u8; 2] = [1, 0];

/// Bytes of the key: what HMAC-SHA256 makes full use of.
const KEY_BYTES: usize = 32;

/// Keeps this use of the key apart from any other.
const DOMAIN: &[u8] = b"rolegate imds token 1\0";

/// Why a token is not good. All of them are 401.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// Not a token of this form.
    #[error("the token is malformed")]
    Malformed,
    /// Not made by this node's key for this address.
    #[error("the token was not issued to this address by this node")]
    Foreign,
    /// Its time is over.
    #[error("the token has expired")]
    Expired,
}

/// The TTL asked for is missing, given twice, or not 1 to 21600: 400.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the token TTL is not one number from 1 to 21600")]
pub struct BadTtl;

/// What makes and checks tokens.
#[derive(Clone)]
pub struct TokenKey(hmac::Key);

// === impl TokenKey ===

impl TokenKey {
    /// The key kept in `state_dir`; a new one, kept there, if there is none or it is damaged. Where it
    /// cannot be kept it lives in memory, tokens die with the process, and the warning says so.
    #[must_use]
    pub fn load_or_create(state_dir: &Path) -> (Self, Option<KeyWarning>) {
        let (bytes, warning) = key_file::load_or_create(state_dir);
        (Self::from_bytes(&bytes), warning)
    }

    fn from_bytes(bytes: &[u8; KEY_BYTES]) -> Self {
        Self(hmac::Key::new(hmac::HMAC_SHA256, bytes))
    }

    /// A token for `ip`, good for `ttl` seconds from `now` (Unix seconds).
    #[must_use]
    pub fn issue(&self, ip: PodIp, ttl: u32, now: u64) -> String {
        let mut token = [0; TOKEN_BYTES];
        let (head, mac) = token.split_at_mut(HEAD_BYTES);
        head[..VERSION.len()].copy_from_slice(&VERSION);
        head[VERSION.len()..].copy_from_slice(&now.saturating_add(u64::from(ttl)).to_be_bytes());
        mac.copy_from_slice(hmac::sign(&self.0, &message(head, ip)).as_ref());
        URL_SAFE_NO_PAD.encode(token)
    }

    /// How many seconds `token` is still good for when `ip` presents it at `now` (Unix seconds).
    ///
    /// # Errors
    /// [`TokenError`]; the MAC is checked first, in constant time.
    pub fn verify(&self, token: &[u8], ip: PodIp, now: u64) -> Result<u32, TokenError> {
        let mut bytes = [0; TOKEN_BYTES];
        if token.len() != TOKEN_CHARS || URL_SAFE_NO_PAD.decode_slice(token, &mut bytes) != Ok(TOKEN_BYTES) {
            return Err(TokenError::Malformed);
        }
        let (head, mac) = bytes.split_at(HEAD_BYTES);
        hmac::verify(&self.0, &message(head, ip), mac).map_err(|_| TokenError::Foreign)?;
        let (version, expiry) = head.split_at(VERSION.len());
        let expiry = <[u8; 8]>::try_from(expiry).map(u64::from_be_bytes);
        match (version == VERSION, expiry) {
            (true, Ok(expiry)) if expiry > now => {
                // A clock that was set back must not make it live longer than any token can.
                let left = u32::try_from(expiry - now).unwrap_or(LONGEST_TTL_SECONDS);
                Ok(left.min(LONGEST_TTL_SECONDS))
            }
            (true, Ok(_)) => Err(TokenError::Expired),
            _ => Err(TokenError::Malformed),
        }
    }
}

impl fmt::Debug for TokenKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TokenKey(redacted)")
    }
}

/// When `token` ends (Unix seconds), where it has the form of ours; whether it is good only its key can tell.
#[must_use]
pub fn expiry(token: &[u8]) -> Option<u64> {
    let bytes = URL_SAFE_NO_PAD.decode(token).ok().filter(|bytes| bytes.len() == TOKEN_BYTES)?;
    let expiry = bytes.strip_prefix(&VERSION)?.first_chunk()?;
    Some(u64::from_be_bytes(*expiry))
}

/// Reads the TTL from the values of all its headers: exactly one, digits only, 1 to 21600.
///
/// # Errors
/// [`BadTtl`] for anything else.
pub fn parse_ttl<'a>(values: impl IntoIterator<Item = &'a [u8]>) -> Result<u32, BadTtl> {
    let mut values = values.into_iter();
    let (Some(only), None) = (values.next(), values.next()) else {
        return Err(BadTtl);
    };
    if only.is_empty() || only.len() > 5 || !only.iter().all(u8::is_ascii_digit) {
        return Err(BadTtl);
    }
    let ttl = only.iter().fold(0, |ttl, digit| ttl * 10 + u32::from(digit - b'0'));
    if (1..=LONGEST_TTL_SECONDS).contains(&ttl) { Ok(ttl) } else { Err(BadTtl) }
}

/// What the MAC is made over: every field of fixed length.
fn message(head: &[u8], ip: PodIp) -> [u8; DOMAIN.len() + HEAD_BYTES + 16] {
    let address = match ip.addr() {
        IpAddr::V4(v4) => v4.to_ipv6_mapped(),
        IpAddr::V6(v6) => v6,
    };
    let mut message = [0; DOMAIN.len() + HEAD_BYTES + 16];
    let (domain, rest) = message.split_at_mut(DOMAIN.len());
    let (version_and_expiry, octets) = rest.split_at_mut(HEAD_BYTES);
    domain.copy_from_slice(DOMAIN);
    version_and_expiry.copy_from_slice(head);
    octets.copy_from_slice(&address.octets());
    message
}
