//! Listening sockets of two processes: who takes the connections that the kernel has made, and which sockets those are.

use std::io;
use std::net::{SocketAddr, TcpListener};

/// Whose the connections are that nobody has taken yet. While two processes have the same sockets it is one queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Queue {
    /// This process's alone: at its end it takes what is there.
    Own,
    /// Whoever comes first takes one. At its end this process leaves the rest to the other: what it did to the
    /// socket would be done to the other's.
    Shared,
    /// The other takes them, or will.
    Left,
}

/// Listening sockets that another process has opened.
#[derive(Debug, Default)]
pub struct Pool(Vec<TcpListener>);

// === impl Pool ===

impl Pool {
    /// The socket of this address as the other process has made it, with its options and its queue, or a new one.
    ///
    /// # Errors
    /// What `open` says.
    pub fn or_open(
        &self,
        address: SocketAddr,
        open: impl FnOnce() -> io::Result<TcpListener>,
    ) -> io::Result<TcpListener> {
        match self.0.iter().find(|listener| listener.local_addr().is_ok_and(|at| at == address)) {
            Some(listener) => listener.try_clone(),
            None => open(),
        }
    }

    /// What there is.
    #[must_use]
    pub fn addresses(&self) -> Vec<SocketAddr> {
        self.0.iter().filter_map(|listener| listener.local_addr().ok()).collect()
    }
}

impl FromIterator<TcpListener> for Pool {
    fn from_iter<I: IntoIterator<Item = TcpListener>>(listeners: I) -> Self {
        Self(listeners.into_iter().collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_there_is_taken_and_only_the_rest_opened() {
        let there = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = there.local_addr().unwrap();
        let pool: Pool = [there].into_iter().collect();
        let taken = pool.or_open(address, || panic!("it is there")).unwrap();
        assert_eq!(taken.local_addr().unwrap(), address);
        let other =
            pool.or_open("127.0.0.1:1".parse().unwrap(), || TcpListener::bind("127.0.0.1:0")).unwrap();
        assert_ne!(other.local_addr().unwrap(), address);
        assert_eq!(pool.addresses(), [address]);
    }
}
