//! The rules in real kernels' tables: every test in network namespaces of its own, with nft and with legacy.
//!
//! Needs root and iptables; where either is missing each test says so by name and passes.
#![allow(clippy::expect_used, reason = "a test's helpers fail the test")]

mod behind;
mod conntrack;
mod dataplane;
mod guards;
mod host;
mod links;
mod pins;
mod reconciliations;
mod route;
mod rules;
mod selftest;
mod tcx;
mod traffic;
