//! The end-to-end latency harness: what programs `e2e`, `latency` and `bare-hyper` are made of.
//!
//! `e2e` sets up a node and measures the agent on it; `latency` measures whatever servers there are. Both send
//! to several servers in one run and compare them; only such ratios mean anything on a machine that does other
//! things as well.

pub mod bare;
pub mod budget;
pub mod cluster;
pub mod flags;
pub mod load;
pub mod measure;
pub mod node;
pub mod process;
pub mod report;
pub mod scene;
