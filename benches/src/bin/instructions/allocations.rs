//! Counts what the process allocates, and on demand says where.

use std::alloc::{GlobalAlloc, Layout, System};
use std::backtrace::Backtrace;
use std::cell::Cell;
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use parking_lot::Mutex;

static COUNT: AtomicU64 = AtomicU64::new(0);
static RECORDING: AtomicBool = AtomicBool::new(false);
static SITES: Mutex<Vec<(usize, Backtrace)>> = Mutex::new(Vec::new());

thread_local! {
    /// What a record itself allocates is not recorded.
    static BUSY: Cell<bool> = const { Cell::new(false) };
}

/// Frames that are nobody's decision: the allocator and containers.
const NOT_A_SITE: [&str; 16] = [
    "alloc",
    "<alloc",
    "std::",
    "<std::",
    "core::",
    "<core::",
    "<T as ",
    "<u8 as ",
    "<[_]>",
    "<[u8]>",
    "__rust",
    "seen",
    "try_allocate_in",
    "with_capacity",
    "exchange_malloc",
    "push_back",
];
/// Frames shown of each place.
const FRAMES: usize = 4;

/// The system's allocator, counted.
pub(crate) struct Counted;

// SAFETY: every call is the system's allocator's own.
#[expect(unsafe_code, reason = "an allocator is an unsafe trait")]
unsafe impl GlobalAlloc for Counted {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        seen(layout.size());
        // SAFETY: as the caller promises.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        seen(layout.size());
        // SAFETY: as the caller promises.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, at: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        seen(size);
        // SAFETY: as the caller promises.
        unsafe { System.realloc(at, layout, size) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        // SAFETY: as the caller promises.
        unsafe { System.dealloc(at, layout) }
    }
}

fn seen(bytes: usize) {
    COUNT.fetch_add(1, Ordering::Relaxed);
    if RECORDING.load(Ordering::Relaxed) && !BUSY.replace(true) {
        SITES.lock().push((bytes, Backtrace::force_capture()));
        BUSY.set(false);
    }
}

/// Allocations and reallocations so far.
pub(crate) fn count() -> u64 {
    COUNT.load(Ordering::Relaxed)
}

/// Remembers where each allocation is made from now on.
pub(crate) fn record() {
    RECORDING.store(true, Ordering::Relaxed);
}

/// What was recorded: how often, how many bytes each, and from where.
pub(crate) fn sites() -> String {
    RECORDING.store(false, Ordering::Relaxed);
    let mut places = BTreeMap::<String, (usize, Vec<usize>)>::new();
    for (at, (bytes, trace)) in SITES.lock().drain(..).enumerate() {
        let place = places.entry(place(&trace.to_string())).or_insert((at, Vec::new()));
        place.1.push(bytes);
    }
    let mut places: Vec<_> = places.into_iter().collect();
    places.sort_by_key(|(_, (first, _))| *first);
    places.into_iter().fold(String::new(), |mut text, (place, (_, sizes))| {
        let _ = writeln!(text, "{} of {} bytes: {place}", sizes.len(), sizes[0]);
        text
    })
}

/// The first frames of a backtrace that say who decided to allocate.
fn place(trace: &str) -> String {
    let frames = trace.lines().filter_map(|line| line.trim_start().split_once(": ").map(|(_, name)| name));
    let told = frames.filter(|name| !NOT_A_SITE.iter().any(|start| name.starts_with(start)));
    told.take(FRAMES).collect::<Vec<_>>().join(" < ")
}
