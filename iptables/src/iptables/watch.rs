//! Notices that somebody changed nf_tables rules (nfnetlink multicast). Legacy tables tell nobody.

use std::io;

use futures::FutureExt;
use netlink_sys::protocols::NETLINK_NETFILTER;
use netlink_sys::{AsyncSocket, AsyncSocketExt, TokioSocket};

/// `NFNLGRP_NFTABLES` (linux/netfilter/nfnetlink.h): every change of tables, chains, rules and sets.
const NFTABLES_GROUP: u32 = 7;

/// Receive buffer, bytes. Small on purpose: what is in the messages is not read, and one that does not fit says as
/// much as all of kube-proxy's 20,000.
const BUFFER_BYTES: u32 = 32 * 1024;

/// Most messages that are taken as one change.
const BURST_AT_MOST: usize = 1_000;

/// Notifications of changed nf_tables rules, whoever changed them: ourselves, too.
pub struct RuleWatch {
    socket: TokioSocket,
}

// === impl RuleWatch ===

impl RuleWatch {
    /// Starts to listen: what changes from now on is noticed.
    ///
    /// # Errors
    /// When the kernel has no such group, or the process may not listen (`CAP_NET_ADMIN`).
    pub fn new() -> io::Result<Self> {
        let mut socket = TokioSocket::new(NETLINK_NETFILTER)?;
        socket.socket_mut().bind_auto()?;
        socket.socket_mut().set_rx_buf_sz(BUFFER_BYTES)?;
        socket.socket_mut().add_membership(NFTABLES_GROUP)?;
        Ok(Self { socket })
    }

    /// Waits for a change; those that are there already are told as one. Nothing is lost when the future is dropped.
    ///
    /// # Errors
    /// When the socket is gone: make a new one.
    pub async fn changed(&mut self) -> io::Result<()> {
        self.next().await?;
        for _ in 0..BURST_AT_MOST {
            match self.next().now_or_never() {
                Some(more) => more?,
                None => break,
            }
        }
        Ok(())
    }

    async fn next(&mut self) -> io::Result<()> {
        let mut ignored = Vec::with_capacity(4096);
        match self.socket.recv(&mut ignored).await {
            Ok(_) => Ok(()),
            // Messages were dropped: something changed.
            Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => Ok(()),
            Err(error) => Err(error),
        }
    }
}
