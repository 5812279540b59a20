//! The end-to-end latency harness: what programs `latency` and `bare-hyper` are made of.
//!
//! `latency` sends to several servers in one run and compares them; only such ratios mean anything on a
//! machine that does other things as well.

pub mod bare;
pub mod load;
pub mod process;
pub mod report;
