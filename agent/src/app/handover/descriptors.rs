//! Bytes and descriptors over a Unix socket, in one piece (`SCM_RIGHTS`, unix(7)).

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags, recvmsg, sendmsg,
};

/// Most descriptors of one message: the keeper socket, the app's two and the admin port's, and as many again.
pub(super) const MOST: usize = 8;

/// Sends `bytes` with `descriptors`, of which there are [`MOST`] at most.
pub(super) fn send(socket: impl AsFd, bytes: &[u8], descriptors: &[BorrowedFd<'_>]) -> io::Result<()> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MOST))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !descriptors.is_empty() && !control.push(SendAncillaryMessage::ScmRights(descriptors)) {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "too many descriptors"));
    }
    let sent = sendmsg(socket, &[IoSlice::new(bytes)], &mut control, SendFlags::NOSIGNAL)?;
    if sent < bytes.len() {
        // A few hundred bytes into an empty buffer.
        return Err(io::Error::new(io::ErrorKind::WriteZero, "only a part was sent"));
    }
    Ok(())
}

/// Reads what is there into `bytes`, and the descriptors that come with its first one. 0 is the end.
pub(super) fn receive(socket: impl AsFd, bytes: &mut [u8]) -> io::Result<(usize, Vec<OwnedFd>)> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MOST))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let received = recvmsg(socket, &mut [IoSliceMut::new(bytes)], &mut control, RecvFlags::CMSG_CLOEXEC)?;
    let descriptors = control
        .drain()
        .filter_map(|message| match message {
            RecvAncillaryMessage::ScmRights(descriptors) => Some(descriptors),
            _ => None,
        })
        .flatten()
        .collect();
    Ok((received.bytes, descriptors))
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};
    use std::os::unix::net::UnixStream;

    use nix::fcntl::{FcntlArg, FdFlag, fcntl};
    use nix::sys::socket::{getsockopt, setsockopt, sockopt};

    use super::*;

    #[test]
    fn a_listener_arrives_with_its_line_its_queue_and_its_options() {
        let (old, new) = UnixStream::pair().unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let at = listener.local_addr().unwrap();
        setsockopt(&listener, sockopt::TcpUserTimeout, &5_000).unwrap();
        let _waiting = TcpStream::connect(at).unwrap();
        send(&old, b"line\n", &[listener.as_fd()]).unwrap();
        drop(listener);

        let mut bytes = [0; 64];
        let (length, descriptors) = receive(&new, &mut bytes).unwrap();
        assert_eq!((&bytes[..length], descriptors.len()), (&b"line\n"[..], 1));
        let [descriptor] = <[OwnedFd; 1]>::try_from(descriptors).unwrap();
        let taken = TcpListener::from(descriptor);
        assert_eq!(taken.local_addr().unwrap(), at);
        let (accepted, _) = taken.accept().unwrap();
        assert_eq!(getsockopt(&accepted, sockopt::TcpUserTimeout).unwrap(), 5_000);
        assert_eq!(getsockopt(&taken, sockopt::TcpUserTimeout).unwrap(), 5_000);
        assert!(fcntl(&taken, FcntlArg::F_GETFD).unwrap() & FdFlag::FD_CLOEXEC.bits() != 0);
        drop(old);
        assert_eq!(receive(&new, &mut bytes).unwrap().0, 0, "the end");
    }
}
