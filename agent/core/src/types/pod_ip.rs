//! A pod's address in its one canonical form.

use std::fmt;
use std::net::{AddrParseError, IpAddr};
use std::str::FromStr;

use super::write_digits;

/// An IPv4 or IPv6 address; an IPv4-mapped IPv6 address (`::ffff:a.b.c.d`) is the IPv4 address that it
/// maps, so that a dual-stack listener and `status.podIPs` agree on what a pod is called.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PodIp(IpAddr);

// === impl PodIp ===

impl PodIp {
    /// The canonical form of `addr`.
    #[must_use]
    pub fn new(addr: IpAddr) -> Self {
        Self(addr.to_canonical())
    }

    /// The address.
    #[must_use]
    pub fn addr(self) -> IpAddr {
        self.0
    }
}

impl From<IpAddr> for PodIp {
    fn from(addr: IpAddr) -> Self {
        Self::new(addr)
    }
}

impl FromStr for PodIp {
    type Err = AddrParseError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        text.parse().map(Self::new)
    }
}

impl fmt::Display for PodIp {
    /// As `IpAddr` is shown; of IPv4 without its machinery, since every request's lines have an address.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let IpAddr::V4(v4) = self.0 else { return self.0.fmt(f) };
        let mut text = [b'.'; 15];
        let mut end = 0;
        for (place, octet) in v4.octets().into_iter().enumerate() {
            end += usize::from(place > 0);
            let digits = 1 + usize::from(octet > 9) + usize::from(octet > 99);
            text[end..end + digits].fill(b'0');
            write_digits(&mut text[end..end + digits], u32::from(octet));
            end += digits;
        }
        f.pad(std::str::from_utf8(&text[..end]).unwrap_or_default())
    }
}

impl fmt::Debug for PodIp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_shown_as_everybody_shows_it() {
        for text in ["0.0.0.0", "1.20.255.9", "100.96.1.99", "255.255.255.255", "fd00:64::7"] {
            assert_eq!(text.parse::<PodIp>().unwrap().to_string(), text);
        }
        assert_eq!(format!("{:>9}", "1.2.3.4".parse::<PodIp>().unwrap()), "  1.2.3.4");
    }

    #[test]
    fn v4_mapped_address_is_the_v4_address() {
        assert_eq!("::ffff:10.1.0.11".parse::<PodIp>(), "10.1.0.11".parse::<PodIp>());
        assert_ne!("::10.1.0.11".parse::<PodIp>(), "10.1.0.11".parse::<PodIp>());
    }
}
