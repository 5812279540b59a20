//! Values as they are written in flags: booleans and times as in Go, counts, addresses, names.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

/// Go's `strconv.ParseBool`.
pub(super) fn boolean(text: &str) -> Option<bool> {
    match text {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Some(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Some(false),
        _ => None,
    }
}

/// Go's `time.ParseDuration` without a sign: `15m`, `1h30m`, `1.5h`, `900ms`, `0`. Cut to nanoseconds.
pub(super) fn duration(text: &str) -> Option<Duration> {
    if text == "0" {
        return Some(Duration::ZERO);
    }
    let mut rest = text;
    let mut nanoseconds: u128 = 0;
    while !rest.is_empty() {
        let (number, after) = rest.split_at(rest.find(|c: char| c != '.' && !c.is_ascii_digit())?);
        let (unit, after) =
            after.split_at(after.find(|c: char| c == '.' || c.is_ascii_digit()).unwrap_or(after.len()));
        nanoseconds = nanoseconds.checked_add(amount(number, nanoseconds_of(unit)?)?)?;
        rest = after;
    }
    let most = u128::from(u64::MAX);
    u64::try_from(nanoseconds.min(most)).ok().filter(|_| !text.is_empty()).map(Duration::from_nanos)
}

fn nanoseconds_of(unit: &str) -> Option<u128> {
    match unit {
        "ns" => Some(1),
        "us" | "µs" | "μs" => Some(1_000),
        "ms" => Some(1_000_000),
        "s" => Some(1_000_000_000),
        "m" => Some(60_000_000_000),
        "h" => Some(3_600_000_000_000),
        _ => None,
    }
}

/// `1.5` times `unit`, at most 9 digits on either side.
fn amount(number: &str, unit: u128) -> Option<u128> {
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if (whole.is_empty() && fraction.is_empty()) || whole.len() > 9 || fraction.len() > 9 {
        return None;
    }
    let digits = |text: &str| if text.is_empty() { Some(0) } else { text.parse::<u128>().ok() };
    let scale = (0..fraction.len()).fold(1_u128, |scale, _| scale * 10);
    Some(digits(whole)? * unit + digits(fraction)? * unit / scale)
}

/// A time as it would be written.
pub(super) fn written(time: Duration) -> String {
    let seconds = time.as_secs();
    match (seconds, time.subsec_millis()) {
        (0, 0) => "0".to_owned(),
        (s, 0) if s % 3600 == 0 => format!("{}h", s / 3600),
        (s, 0) if s % 60 == 0 => format!("{}m", s / 60),
        (s, 0) => format!("{s}s"),
        _ => format!("{}ms", time.as_millis()),
    }
}

/// An address, or `address:port` (`[v6]:port`); port 80 where none is given.
pub(super) fn metadata_address(text: &str) -> Option<SocketAddr> {
    let bare = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(text);
    let with_default = bare.parse::<IpAddr>().ok().map(|ip| SocketAddr::new(ip, 80));
    with_default.or_else(|| text.parse().ok()).filter(|addr| addr.port() != 0)
}

/// An annotation key: `[dns-subdomain/]name` (Kubernetes "Annotations", syntax).
pub(super) fn is_annotation_key(text: &str) -> bool {
    let (prefix, name) = text.split_once('/').map_or((None, text), |(prefix, name)| (Some(prefix), name));
    prefix.is_none_or(is_dns_subdomain)
        && name.len() <= 63
        && ends_alphanumeric(name)
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b))
}

/// A DNS subdomain in small letters, as names of nodes are.
pub(super) fn is_dns_subdomain(text: &str) -> bool {
    text.len() <= 253
        && text.split('.').all(|label| {
            ends_alphanumeric(label)
                && label.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
        })
}

fn ends_alphanumeric(text: &str) -> bool {
    let bytes = text.as_bytes();
    bytes.first().is_some_and(u8::is_ascii_alphanumeric)
        && bytes.last().is_some_and(u8::is_ascii_alphanumeric)
}

/// `auto`, or a list of interface names, each perhaps with a leading `!` or an ending `+` (IFNAMSIZ: 15 bytes).
pub(super) fn is_interface_list(text: &str) -> bool {
    text.split(',').map(str::trim).all(|item| {
        let name = item.strip_prefix('!').unwrap_or(item);
        let plain = name.strip_suffix('+').unwrap_or(name);
        (1..=15).contains(&name.len())
            && plain.bytes().all(|b| b.is_ascii_graphic() && !b"/!+\"'".contains(&b))
    })
}

/// The items of lists that are comma-separated, repeated, or both.
pub(super) fn items(values: &[String]) -> impl Iterator<Item = &str> {
    values.iter().flat_map(|value| value.split(',')).map(str::trim).filter(|item| !item.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_as_go_reads_them() {
        for (text, expected) in [
            ("15m", Some(900_000)),
            ("1h30m", Some(5_400_000)),
            ("900ms", Some(900)),
            ("1.5h", Some(5_400_000)),
            (".5s", Some(500)),
            ("1.s", Some(1_000)),
            ("0", Some(0)),
            ("0s", Some(0)),
            ("15", None),
            ("-15m", None),
            ("m", None),
            (".s", None),
            ("15 m", None),
            ("1d", None),
            ("", None),
            ("999999999999h", None),
        ] {
            assert_eq!(duration(text), expected.map(Duration::from_millis), "{text:?}");
        }
        assert_eq!(written(Duration::from_secs(5400)), "90m");
        assert_eq!(written(Duration::from_millis(900)), "900ms");
    }

    #[test]
    fn addresses_may_leave_the_port_out() {
        for (text, expected) in [
            ("169.254.169.254", Some("169.254.169.254:80")),
            ("127.0.0.1:8080", Some("127.0.0.1:8080")),
            ("fd00:ec2::254", Some("[fd00:ec2::254]:80")),
            ("[fd00:ec2::254]", Some("[fd00:ec2::254]:80")),
            ("[fd00:ec2::254]:81", Some("[fd00:ec2::254]:81")),
            ("127.0.0.1:0", None),
            ("imds", None),
        ] {
            assert_eq!(metadata_address(text).map(|addr| addr.to_string()).as_deref(), expected, "{text:?}");
        }
    }

    #[test]
    fn names_of_annotations_nodes_and_interfaces_are_checked() {
        assert!(is_annotation_key("iam.amazonaws.com/role") && is_annotation_key("role"));
        assert!(!is_annotation_key("a/b/c") && !is_annotation_key("iam/") && !is_annotation_key("A.b/c=d"));
        assert!(is_dns_subdomain("ip-10-0-0-1.ec2.internal") && !is_dns_subdomain("$(NODE_NAME)"));
        assert!(is_interface_list("cali+,!eth0, cbr0") && is_interface_list("auto"));
        assert!(!is_interface_list("a,,b") && !is_interface_list("a b") && !is_interface_list("!"));
    }
}
