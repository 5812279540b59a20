//! The harness of the suites: doubles of the services around the agent, and what drives it.

pub mod imds;
