//! Puts the redirect of the instance metadata addresses into the kernel and keeps it true.
//!
//! Captures (one is in force at a time): [`iptables`], kube2iam's way, and [`route`]. Under it, and whatever becomes of it, stand two
//! guards ([`guard`]); on a bridge that several pods share, each port is held to its pod's address ([`pins`]). What they
//! share: which interfaces
//! are meant ([`interfaces`]), what the host's links and routes are and when they change ([`links`]), whether pods'
//! packets come here ([`selftest`]), who may forward them without asking ([`dataplane`]), and forgetting connections
//! that are older than the rules ([`conntrack`]). Beside them: the interface that a connection came in by ([`arrival`]),
//! and what is behind an address ([`behind`]).
//!
//! Knows neither Kubernetes nor AWS. Starts no task: every future belongs to its caller.

mod addresses;
pub mod arrival;
pub mod behind;
pub mod conntrack;
pub mod dataplane;
pub mod family;
pub mod guard;
pub mod interfaces;
pub mod iptables;
pub mod links;
mod nfnetlink;
mod nftables;
pub mod pins;
pub mod route;
mod rules;
pub mod selftest;

pub use addresses::{AddressesError, follow_addresses};
pub use family::{Family, IMDS_PORT, IMDS_V4, IMDS_V6};
pub use interfaces::{InterfaceSpec, InterfaceSpecError};
pub use links::{LinkReport, LinkWatch, Links};
