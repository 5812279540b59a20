//! A real cluster of two nodes. One scenario is one test with a cluster of its own; one cluster runs at a time.

#[path = "cluster/install.rs"]
mod install;
