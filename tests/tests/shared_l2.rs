//! Pods on a bridge: what one can get of its neighbour by forging frames, and that honest ones notice nothing.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

#[path = "shared_l2/honest.rs"]
mod honest;
#[path = "shared_l2/lab.rs"]
mod lab;
#[path = "shared_l2/spoof.rs"]
mod spoof;
#[path = "shared_l2/whose.rs"]
mod whose;
