//! Placeholder.
/// v4
pub const IMDS_V4: std::net::Ipv4Addr = std::net::Ipv4Addr::new(169, 254, 169, 254);
/// v6
pub const IMDS_V6: std::net::Ipv6Addr = std::net::Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254);

mod addresses;
pub use addresses::{AddressesError, follow_addresses};
