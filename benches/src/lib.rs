//! The end-to-end latency harness: what programs `e2e`, `fairness`, `herd`, `latency` and `report` are made of.
//!
//! `e2e` sets up nodes and measures the agent on them beside other servers; `latency` measures whatever servers there
//! are; `report` runs everything and draws docs/performance.md. Servers are compared within one run alone: only such
//! ratios mean anything on a machine that does other things as well.

pub mod bare;
pub mod blocking;
pub mod budget;
pub mod cluster;
mod exchange;
pub mod figures;
pub mod flags;
pub mod load;
pub mod machine;
pub mod measure;
pub mod node;
pub mod page;
pub mod plot;
pub mod process;
pub mod report;
pub mod rounds;
pub mod scale;
pub mod scene;
pub mod stage;
pub mod svg;
pub mod syscalls;
