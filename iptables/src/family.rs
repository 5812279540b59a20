//! The two address families, and the metadata service's address in each.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// The instance metadata service, IPv4 (EC2 user guide, "Access instance metadata").
pub const IMDS_V4: Ipv4Addr = Ipv4Addr::new(169, 254, 169, 254);
/// The instance metadata service, IPv6 (same page; Nitro instances, where it is switched on).
pub const IMDS_V6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254);
/// The TCP port that it listens on.
pub const IMDS_PORT: u16 = 80;

/// An address family.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

// === impl Family ===

impl Family {
    /// Both.
    pub const ALL: [Self; 2] = [Self::V4, Self::V6];

    /// The metadata service's address.
    #[must_use]
    pub fn imds(self) -> IpAddr {
        match self {
            Self::V4 => IMDS_V4.into(),
            Self::V6 => IMDS_V6.into(),
        }
    }

    /// Whether the kernel has it at all.
    #[must_use]
    pub fn in_kernel(self) -> bool {
        match self {
            Self::V4 => true,
            Self::V6 => std::path::Path::new("/proc/sys/net/ipv6").exists(),
        }
    }

    /// Whether it is switched on for this host: by `net.ipv6.conf.all.disable_ipv6` IPv6 is off for `lo`, too, which then
    /// takes no route. What cannot be read counts as on.
    #[must_use]
    pub fn is_on(self) -> bool {
        let off =
            || std::fs::read("/proc/sys/net/ipv6/conf/lo/disable_ipv6").is_ok_and(|is| is.starts_with(b"1"));
        self.in_kernel() && (self == Self::V4 || !off())
    }

    /// The family of `addr` as it is, an IPv4-mapped address being IPv6.
    #[must_use]
    pub fn of(addr: IpAddr) -> Self {
        if addr.is_ipv4() { Self::V4 } else { Self::V6 }
    }
}

impl fmt::Display for Family {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::V4 => "IPv4",
            Self::V6 => "IPv6",
        })
    }
}
