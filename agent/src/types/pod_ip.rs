//! A pod's address in its one canonical form.

use std::fmt;
use std::net::{AddrParseError, IpAddr};
use std::str::FromStr;

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
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
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
    fn v4_mapped_address_is_the_v4_address() {
        assert_eq!("::ffff:10.1.0.11".parse::<PodIp>(), "10.1.0.11".parse::<PodIp>());
        assert_ne!("::10.1.0.11".parse::<PodIp>(), "10.1.0.11".parse::<PodIp>());
    }
}
