//! Memory and scale: what the agent takes, and how fast it is, by pods of its node and namespaces of its cluster.

pub mod cell;
pub mod memory;
pub mod objects;
pub mod page;
pub mod servable;
pub mod size;
pub mod stage;
pub mod traffic;
