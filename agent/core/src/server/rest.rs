//! The last connections of a listener: what was connected before the end is taken, and nothing is connected any more.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use socket2::{SockFilter, SockRef};
use tokio::net::{TcpListener, TcpStream};
use tracing::warn;

/// Time for handshakes that are under way: a pod is one hop away, and answers in tens of microseconds.
const HANDSHAKE: Duration = Duration::from_millis(20);

/// Classic BPF (linux/bpf_common.h): load a byte, and, jump if equal, return.
const LOAD_BYTE: u16 = 0x30;
const AND: u16 = 0x54;
const JUMP_IF_EQUAL: u16 = 0x15;
const RETURN: u16 = 0x06;
/// Of the TCP header (RFC 9293, 3.1): where the flags are, and two of them.
const FLAGS_AT: u32 = 13;
const SYN: u32 = 0x02;
const ACK: u32 = 0x10;

/// Closing a listener resets whatever the kernel has connected and nobody has accepted, and there is no moment without
/// such. So new handshakes are ignored first (their clients try again after a second, with whoever listens then), and
/// those under way are let finish.
pub(super) async fn take(listener: TcpListener, mut start: impl FnMut(TcpStream, SocketAddr)) {
    // Past tokio's own idea of what is there, which is as old as its last look.
    let listener = match listener.into_std() {
        Ok(listener) => listener,
        Err(error) => return warn!(%error, "connections that were not taken yet are reset"),
    };
    if let Err(error) = ignore_new(&listener) {
        warn!(%error, "connections that come just now are reset");
    }
    let taken = accept_all(&listener, &mut start);
    tokio::time::sleep(HANDSHAKE).await;
    if let Err(error) = taken.and_then(|()| accept_all(&listener, &mut start)) {
        warn!(%error, "connections that were not taken yet are reset");
    }
}

fn ignore_new(listener: &std::net::TcpListener) -> io::Result<()> {
    SockRef::from(listener).attach_filter(&[
        SockFilter::new(LOAD_BYTE, 0, 0, FLAGS_AT),
        SockFilter::new(AND, 0, 0, SYN | ACK),
        SockFilter::new(JUMP_IF_EQUAL, 0, 1, SYN),
        SockFilter::new(RETURN, 0, 0, 0),
        SockFilter::new(RETURN, 0, 0, u32::MAX),
    ])
}

fn accept_all(
    listener: &std::net::TcpListener,
    start: &mut impl FnMut(TcpStream, SocketAddr),
) -> io::Result<()> {
    loop {
        match listener.accept() {
            Ok((stream, peer)) => {
                stream.set_nonblocking(true)?;
                start(TcpStream::from_std(stream)?, peer);
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
            // This one left by itself.
            Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_is_connected_is_taken_and_nothing_is_connected_any_more() {
        for address in ["127.0.0.1:0", "[::1]:0"] {
            // A machine without IPv6 has nothing to lose there.
            let Ok(listener) = TcpListener::bind(address).await else { continue };
            let to = listener.local_addr().unwrap();
            // Nobody has accepted these.
            let clients: Vec<_> = (0..20).map(|_| std::net::TcpStream::connect(to).unwrap()).collect();
            let mut taken = Vec::new();
            take(listener, |stream, _| taken.push(stream)).await;
            assert_eq!(taken.len(), clients.len());
            for stream in taken {
                stream.writable().await.unwrap();
                assert_eq!(stream.try_write(b"x").unwrap(), 1);
            }
        }
    }

    #[test]
    fn new_handshakes_are_ignored_not_refused() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let to = listener.local_addr().unwrap();
        let connect = || std::net::TcpStream::connect_timeout(&to, Duration::from_millis(100));
        connect().unwrap();
        ignore_new(&listener).unwrap();
        assert_eq!(connect().unwrap_err().kind(), io::ErrorKind::TimedOut);
    }
}
