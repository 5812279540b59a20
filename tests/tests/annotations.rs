//! What users write into annotations: each value is obeyed or refused as a whole, touches nobody else, costs little,
//! and is reported where it stands. And what edits, deletions and namesakes do while requests are in flight.
//!
//! The real agent is asked through real rules. A row of a table is a pod with an address of its own; rows that are
//! wrong are collected, so that a failure names each of them.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

#[path = "annotations/defaults.rs"]
mod defaults;
#[path = "annotations/edits.rs"]
mod edits;
#[path = "annotations/external_ids.rs"]
mod external_ids;
#[path = "annotations/lab.rs"]
mod lab;
#[path = "annotations/moves.rs"]
mod moves;
#[path = "annotations/namespaces.rs"]
mod namespaces;
#[path = "annotations/roles.rs"]
mod roles;
#[path = "annotations/series.rs"]
mod series;
#[path = "annotations/table.rs"]
mod table;
