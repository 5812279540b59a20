//! Which hosts a request may name: a page that rebinds its own name to the IMDS address is refused.

use std::net::Ipv6Addr;

use http::Version;

/// The IPv6 address of the metadata service.
const IMDS_V6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0x0ec2, 0, 0, 0, 0, 0, 0x0254);

/// The IPv4 address of the metadata service, and the names that EC2's resolver gives it.
const NAMES: [&str; 3] = ["169.254.169.254", "instance-data", "instance-data.ec2.internal"];

/// Whether the values of all `Host` headers of a request name the metadata service: exactly one that does,
/// or none in HTTP/1.0.
#[must_use]
pub fn host_allowed<'a>(values: impl IntoIterator<Item = &'a [u8]>, version: Version) -> bool {
    let mut values = values.into_iter();
    match (values.next(), values.next()) {
        (None, _) => version == Version::HTTP_10,
        (Some(only), None) => std::str::from_utf8(only).is_ok_and(is_imds),
        (Some(_), Some(_)) => false,
    }
}

/// Whether `authority` (host and optional port 80) is the metadata service.
pub(super) fn is_imds(authority: &str) -> bool {
    let host = authority.strip_suffix(":80").unwrap_or(authority);
    if let Some(inner) = host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
        return inner.parse::<Ipv6Addr>() == Ok(IMDS_V6);
    }
    NAMES.iter().any(|name| name.eq_ignore_ascii_case(host))
}
