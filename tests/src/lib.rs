//! The harness of the suites: doubles of the services that the agent talks to.

pub mod sts;
