//! Programs attached by `tcx` (Linux 6.6), which no list of filters shows.

#![expect(unsafe_code, reason = "no package of ours makes this system call without a BPF library")]

/// `BPF_PROG_QUERY` of `bpf(2)`.
const PROG_QUERY: libc::c_long = 16;
/// `BPF_TCX_INGRESS` (linux/bpf.h, `enum bpf_attach_type`).
const TCX_INGRESS: u32 = 46;

/// The `query` part of `union bpf_attr`.
#[repr(C)]
#[derive(Default)]
struct Query {
    target: u32,
    attach_type: u32,
    query_flags: u32,
    attach_flags: u32,
    program_ids: u64,
    count: u32,
    padding: u32,
    program_attach_flags: u64,
    link_ids: u64,
    link_attach_flags: u64,
    revision: u64,
}

/// Whether a program is attached at the interface's ingress; not where the kernel has no such thing. `None`: the process
/// may not ask.
pub(super) fn is_attached(index: u32) -> Option<bool> {
    let mut query = Query { target: index, attach_type: TCX_INGRESS, ..Query::default() };
    // SAFETY: the kernel reads and writes `size_of::<Query>()` bytes at `query`, which is exclusively ours and of plain
    // integers; `program_ids` is null, so that it writes no list, only how many there are.
    let asked = unsafe {
        libc::syscall(libc::SYS_bpf, PROG_QUERY, std::ptr::from_mut(&mut query), size_of::<Query>())
    };
    if asked != 0 && std::io::Error::last_os_error().raw_os_error() == Some(libc::EPERM) {
        return None;
    }
    Some(asked == 0 && query.count > 0)
}
