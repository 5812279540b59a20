//! What a request asks for: method and raw target in, one closed enum out. No I/O, no state.
//!
//! The target is normalised once, and everything after that sees only the normalised path. What may be
//! passed through carries the very path that the decision was made on ([`MetadataPath`]), so there is no
//! second reading of the client's bytes that could disagree.

mod host;
mod metadata;
mod target;

#[cfg(test)]
mod generator;
#[cfg(test)]
mod tests;

use std::borrow::Cow;

use bytes::Bytes;
use http::{Method, Uri};

pub use host::host_allowed;
pub use metadata::{MetadataPath, MetadataPolicy};

use target::{NormalPath, Refused};

/// `Allow` of [`Route::TokenMethod`]. Source: captures of the real service.
pub const ALLOW_TOKEN: &str = "OPTIONS, PUT";

/// `Allow` of [`Route::MethodNotAllowed`].
pub const ALLOW_READ: &str = "GET, HEAD";

/// The body of `GET /`: the versions that the real service lists.
pub const VERSIONS: &str = "1.0\n2007-01-19\n2007-03-01\n2007-08-29\n2007-10-10\n2007-12-15\n2008-02-01\n\
    2008-09-01\n2009-04-04\n2011-01-01\n2011-05-01\n2012-01-12\n2014-02-25\n2014-11-05\n2015-10-20\n\
    2016-04-19\n2016-06-30\n2016-09-02\n2018-03-28\n2018-08-17\n2018-09-24\n2019-10-01\n2020-10-27\n\
    2021-01-03\n2021-03-23\n2021-07-15\n2022-09-24\n2024-04-11\nlatest";

/// What a request asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Route {
    /// `GET /`: [`VERSIONS`].
    Versions,
    /// A list of names, made from what is allowed.
    Directory(Bytes),
    /// `meta-data/iam`: `info` and `security-credentials/` for a pod that has a role.
    IamDirectory,
    /// `PUT /latest/api/token`.
    Token,
    /// `PUT` on a dated or slash-ended token path: 403, as the real service.
    TokenForbidden,
    /// Anything but `PUT` on a token path: 405 with [`ALLOW_TOKEN`].
    TokenMethod,
    /// `meta-data/iam/security-credentials`: the role's name.
    RoleList,
    /// `meta-data/iam/security-credentials/<role>`: the credentials.
    Document {
        /// What follows in the path: a name, a path/name or an ARN, decoded.
        role: String,
    },
    /// `meta-data/iam/info`.
    IamInfo,
    /// Something that may be asked of the real service.
    Metadata(MetadataPath),
    /// An absolute target for another host: 403.
    HostForbidden,
    /// A method other than GET and HEAD: 405 with [`ALLOW_READ`].
    MethodNotAllowed,
    /// Malformed, unknown or not allowed: 404.
    NotFound,
}

// === impl Route ===

impl Route {
    /// A label for metrics and logs: a closed set, never a path.
    #[must_use]
    pub fn label(&self) -> &'static str {
        match self {
            Self::Versions => "versions",
            Self::Directory(_) => "directory",
            Self::IamDirectory => "iam_directory",
            Self::Token => "token",
            Self::TokenForbidden => "token_forbidden",
            Self::TokenMethod => "token_method",
            Self::RoleList => "role_list",
            Self::Document { .. } => "document",
            Self::IamInfo => "iam_info",
            Self::Metadata(_) => "metadata",
            Self::HostForbidden => "host_forbidden",
            Self::MethodNotAllowed => "method_not_allowed",
            Self::NotFound => "not_found",
        }
    }
}

/// The raw request target of `uri` as [`route`] reads it. Of absolute-form the authority is kept; a fragment
/// is gone already (`http::Uri` drops it).
#[must_use]
pub fn request_target(uri: &Uri) -> Cow<'_, str> {
    match (uri.authority(), uri.path_and_query()) {
        (None, Some(path)) => Cow::Borrowed(path.as_str()),
        _ => Cow::Owned(uri.to_string()),
    }
}

/// Decides what `method` on the raw request target `target` asks for.
#[must_use]
pub fn route(method: &Method, target: &str, policy: &MetadataPolicy) -> Route {
    let path = match NormalPath::parse(target) {
        Ok(path) => path,
        Err(Refused::Host) => return Route::HostForbidden,
        Err(Refused::Malformed) => return Route::NotFound,
    };
    let segments = path.segments();
    let (version, rest) = match segments.split_first() {
        Some((version, rest)) if is_version(version) => (*version, rest),
        Some(_) => return Route::NotFound,
        None if is_read(method) => return Route::Versions,
        None => return Route::MethodNotAllowed,
    };
    if rest == ["api", "token"] {
        return token(method, version == "latest" && !path.ends_in_slash());
    }
    if !is_read(method) {
        return Route::MethodNotAllowed;
    }
    match rest {
        ["meta-data", "iam"] => Route::IamDirectory,
        ["meta-data", "iam", "info"] => Route::IamInfo,
        ["meta-data", "iam", "security-credentials"] => Route::RoleList,
        ["meta-data", "iam", "security-credentials", role @ ..] => Route::Document { role: role.join("/") },
        _ => policy.route(rest),
    }
}

fn is_read(method: &Method) -> bool {
    *method == Method::GET || *method == Method::HEAD
}

fn token(method: &Method, exact: bool) -> Route {
    match (*method == Method::PUT, exact) {
        (true, true) => Route::Token,
        (true, false) => Route::TokenForbidden,
        (false, _) => Route::TokenMethod,
    }
}

/// `latest`, `1.0` or `YYYY-MM-DD`: every version carries the same tree.
fn is_version(segment: &str) -> bool {
    let dated = |bytes: &[u8]| {
        bytes.len() == 10
            && bytes.iter().enumerate().all(|(at, byte)| match at {
                4 | 7 => *byte == b'-',
                _ => byte.is_ascii_digit(),
            })
    };
    segment == "latest" || segment == "1.0" || dated(segment.as_bytes())
}
