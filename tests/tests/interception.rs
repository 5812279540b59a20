//! What the captures and guards do to everything around: other ports, policies of networks, interfaces of any name, the
//! host itself, odd hosts, and what is left after the end.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

#[path = "interception/links.rs"]
mod links;
#[path = "interception/network_policy.rs"]
mod network_policy;
#[path = "interception/odd_hosts.rs"]
mod odd_hosts;
#[path = "interception/other_ports.rs"]
mod other_ports;
#[path = "interception/remains.rs"]
mod remains;
#[path = "interception/repairs.rs"]
mod repairs;
#[path = "interception/unit.rs"]
mod unit;
