//! A raw request target, normalised once: decoded, slashes collapsed, dot segments resolved.

use std::borrow::Cow;

use super::host;

/// Longest target read, in bytes: a role's ARN (2048) with every byte percent-encoded, and its prefix.
const LONGEST: usize = 8 * 1024;

/// Why a target is not read any further.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Refused {
    /// It names another host.
    Host,
    /// It does not normalise cleanly.
    Malformed,
}

/// A path of segments out of `[A-Za-z0-9._:+=,@-]`, none of them empty, `.` or `..`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct NormalPath<'a> {
    /// Decoded; still with repeated slashes and dot segments.
    decoded: Cow<'a, str>,
}

// === impl NormalPath ===

impl<'a> NormalPath<'a> {
    /// Reads origin-form, or absolute-form for the metadata service. A query must be empty.
    pub(super) fn parse(target: &'a str) -> Result<Self, Refused> {
        if target.len() > LONGEST {
            return Err(Refused::Malformed);
        }
        let raw = origin_form(target)?;
        let raw = raw.strip_suffix('?').unwrap_or(raw);
        let decoded = decode(raw).ok_or(Refused::Malformed)?;
        if leaves_root(&decoded) {
            return Err(Refused::Malformed);
        }
        Ok(Self { decoded })
    }

    /// The segments, resolved.
    pub(super) fn segments(&self) -> Vec<&str> {
        let mut segments = Vec::with_capacity(8);
        for segment in self.decoded.split('/') {
            match segment {
                "" | "." => {}
                ".." => {
                    segments.pop();
                }
                name => segments.push(name),
            }
        }
        segments
    }

    /// Whether the path names a directory by its form.
    pub(super) fn ends_in_slash(&self) -> bool {
        matches!(self.decoded.rsplit('/').next(), Some("" | "." | ".."))
    }
}

/// The path and query of `target`; of absolute-form the authority must be the metadata service.
fn origin_form(target: &str) -> Result<&str, Refused> {
    if target.starts_with('/') {
        return Ok(target);
    }
    let (scheme, rest) = target.split_once("://").ok_or(Refused::Malformed)?;
    if !scheme.eq_ignore_ascii_case("http") {
        return Err(Refused::Malformed);
    }
    let at = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    let (authority, path) = rest.split_at(at);
    if host::is_imds(authority) { Ok(path) } else { Err(Refused::Host) }
}

/// Decodes percent escapes once. `None`: a broken escape, or a byte that no metadata path has, written
/// plainly or encoded (so also `?`, `#`, `;`, `\`, controls, and `%` itself: double encoding).
fn decode(raw: &str) -> Option<Cow<'_, str>> {
    if raw.bytes().all(is_of_a_path) {
        return Some(Cow::Borrowed(raw));
    }
    let mut decoded = String::with_capacity(raw.len());
    let mut bytes = raw.bytes();
    while let Some(byte) = bytes.next() {
        let byte = if byte == b'%' { hex(bytes.next()?)? * 16 + hex(bytes.next()?)? } else { byte };
        if !is_of_a_path(byte) {
            return None;
        }
        decoded.push(char::from(byte));
    }
    Some(Cow::Owned(decoded))
}

fn is_of_a_path(byte: u8) -> bool {
    OF_A_PATH[usize::from(byte)]
}

/// Looked up: a path is read on every request.
const OF_A_PATH: [bool; 256] = {
    let mut of_a_path = [false; 256];
    let mut byte = 0_u8;
    while byte < 128 {
        of_a_path[byte as usize] = byte.is_ascii_alphanumeric()
            || matches!(byte, b'/' | b'.' | b'_' | b':' | b'+' | b'=' | b',' | b'@' | b'-');
        byte += 1;
    }
    of_a_path
};

fn hex(digit: u8) -> Option<u8> {
    match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'a'..=b'f' => Some(digit - b'a' + 10),
        b'A'..=b'F' => Some(digit - b'A' + 10),
        _ => None,
    }
}

/// Whether `..` climbs above the root anywhere.
fn leaves_root(path: &str) -> bool {
    if !path.as_bytes().windows(2).any(|pair| pair == b"..") {
        return false;
    }
    let mut depth = 0_usize;
    for segment in path.split('/') {
        depth = match segment {
            "" | "." => depth,
            ".." => match depth.checked_sub(1) {
                Some(up) => up,
                None => return true,
            },
            _ => depth + 1,
        };
    }
    false
}
