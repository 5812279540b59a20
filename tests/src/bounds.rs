//! What the agent may take of its node at most, whatever pods do. docs/performance.md ("Bounds") says the same to operators.
//!
//! | Bound | Derived from |
//! | --- | --- |
//! | descriptors for one source | its connections: 128 that are served (`--connections-per-pod`) and 512 that wait unread |
//! | descriptors for the node | 4,096 connections that are served (`--max-connections`) and 1,024 that wait |
//! | memory of a connection that is served | 8 KiB of header, as much that hyper keeps for an answer's, its task, and what the allocator rounds up |
//! | memory of a connection that waits | its task alone: nothing is read |
//! | memory beside connections | two queues of log lines of 2 MiB each: one is filled while the other is written |

/// Connections of one source that are served at once: the default of `--connections-per-pod`.
pub const SERVED_PER_SOURCE: usize = 128;
/// Connections of one source that may wait for a place; what comes beyond them is closed at once.
pub const WAITING_PER_SOURCE: usize = 512;
/// Connections of all sources that are served at once: the default of `--max-connections`.
pub const SERVED: usize = 4_096;
/// Connections of all sources that may wait for a place.
pub const WAITING: usize = 1_024;
/// What a connection that is served may take, KiB.
pub const KIB_PER_SERVED: usize = 22;
/// What a connection that waits may take, KiB.
pub const KIB_PER_WAITING: usize = 8;
/// What log lines may take that are not written yet, KiB.
pub const LOG_KIB: usize = 2 * 2_048;
/// Descriptors for what goes on beside an attack: the neighbours, probes, scrapes, calls to STS and IMDS.
pub const DESCRIPTORS_BESIDE: usize = 32;
/// Memory for the same, KiB.
pub const KIB_BESIDE: usize = 2_048;
/// Resident memory without connections, KiB: the program's pages, the cluster, sessions.
pub const KIB_AT_REST: usize = 24 * 1_024;

/// Descriptors that one source can make the agent open, with what goes on beside.
#[must_use]
pub const fn descriptors_for_one_source() -> usize {
    SERVED_PER_SOURCE + WAITING_PER_SOURCE + DESCRIPTORS_BESIDE
}

/// Anonymous memory that all connections of all sources can take with unwritten log lines, KiB.
#[must_use]
pub const fn kib_for_the_node() -> usize {
    SERVED * KIB_PER_SERVED + WAITING * KIB_PER_WAITING + LOG_KIB
}

/// Anonymous memory that one source can make the agent take, with what goes on beside, KiB.
#[must_use]
pub const fn kib_for_one_source() -> usize {
    SERVED_PER_SOURCE * KIB_PER_SERVED + WAITING_PER_SOURCE * KIB_PER_WAITING + LOG_KIB + KIB_BESIDE
}
