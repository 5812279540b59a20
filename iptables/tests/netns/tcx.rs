//! Attaches a program by `tcx`, which neither `tc` nor `ip` of every distribution can.

#![expect(unsafe_code, reason = "no package of ours makes this system call")]

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

/// `BPF_PROG_LOAD`, `BPF_PROG_ATTACH`, `BPF_PROG_TYPE_SCHED_CLS`, `BPF_TCX_INGRESS` (linux/bpf.h).
const LOAD: libc::c_long = 5;
const ATTACH: libc::c_long = 8;
const SCHED_CLS: u32 = 3;
const TCX_INGRESS: u32 = 46;

/// `r0 = -1; exit`: what comes goes on.
static INSTRUCTIONS: [u64; 2] = [0xffff_ffff_0000_00b7, 0x95];
static LICENCE: &[u8; 11] = b"Apache-2.0\0";

/// The beginnings of `union bpf_attr` for the two commands.
#[repr(C)]
#[derive(Default)]
struct Program {
    kind: u32,
    count: u32,
    instructions: u64,
    licence: u64,
    rest: [u64; 12],
}

#[repr(C)]
#[derive(Default)]
struct Attachment {
    target: u32,
    program: u32,
    attach_type: u32,
    rest: [u32; 13],
}

/// Attaches it to an interface's ingress; it stays as long as the interface does.
pub(crate) fn attach(index: u32) -> io::Result<OwnedFd> {
    let program = Program {
        kind: SCHED_CLS,
        count: 2,
        instructions: u64::try_from(INSTRUCTIONS.as_ptr().addr()).expect("an address"),
        licence: u64::try_from(LICENCE.as_ptr().addr()).expect("an address"),
        ..Program::default()
    };
    let fd = bpf(LOAD, &program)?;
    // SAFETY: the kernel has just made this descriptor for us alone.
    let fd = unsafe { OwnedFd::from_raw_fd(i32::try_from(fd).expect("a descriptor")) };
    let attachment = Attachment {
        target: index,
        program: u32::try_from(fd.as_raw_fd()).expect("a descriptor"),
        attach_type: TCX_INGRESS,
        ..Attachment::default()
    };
    bpf(ATTACH, &attachment)?;
    Ok(fd)
}

fn bpf<T>(command: libc::c_long, attributes: &T) -> io::Result<libc::c_long> {
    // SAFETY: the kernel reads `size_of::<T>()` bytes of plain integers, and what their addresses point to is static.
    let done =
        unsafe { libc::syscall(libc::SYS_bpf, command, std::ptr::from_ref(attributes), size_of::<T>()) };
    if done < 0 { Err(io::Error::last_os_error()) } else { Ok(done) }
}
