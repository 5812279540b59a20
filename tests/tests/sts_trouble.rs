//! STS and IMDS in trouble, seen by pods: what one without a session is told, what one with a session is served,
//! how often STS is asked, and that all is well when the trouble is over.
//!
//! Rows are collected, so that a failure names every row that is wrong.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

#[path = "sts_trouble/answers.rs"]
mod answers;
#[path = "sts_trouble/lab.rs"]
mod lab;
#[path = "sts_trouble/node.rs"]
mod node;
#[path = "sts_trouble/own_credentials.rs"]
mod own_credentials;
#[path = "sts_trouble/tuples.rs"]
mod tuples;
