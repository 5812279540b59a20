//! A connection whose answers can be given an IP hop limit of their own.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::atomic::{AtomicU8, Ordering};
use std::task::{Context, Poll};

use http::Response;
use nix::sys::socket::{setsockopt, sockopt};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tracing::debug;

/// Put into a response's extensions: the packets of this answer live this many hops. The real IMDS sends tokens with
/// `HttpPutResponseHopLimit` (1), so that they end at the first router.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HopLimit(pub u8);

/// What a connection is served on: a stream whose packets can be given a hop limit.
pub trait Stream: AsyncRead + AsyncWrite + Send + Unpin {
    /// What is written from now on lives `hops` hops.
    ///
    /// # Errors
    /// That of the system.
    fn limit_hops(&self, hops: u8) -> io::Result<()>;
}

/// The stream, and the hop limit to set before the next byte is written.
#[derive(Debug)]
pub(super) struct HopLimited<'a, S> {
    stream: S,
    wanted: &'a Hops,
    set: u8,
}

/// The writer's end of a [`HopLimited`]; 0 leaves the system's default.
#[derive(Debug, Default)]
pub(super) struct Hops(AtomicU8);

// === impl Stream ===

impl Stream for TcpStream {
    fn limit_hops(&self, hops: u8) -> io::Result<()> {
        let hops = i32::from(hops);
        match self.local_addr()? {
            SocketAddr::V4(_) => setsockopt(self, sockopt::Ipv4Ttl, &hops)?,
            SocketAddr::V6(_) => setsockopt(self, sockopt::Ipv6Ttl, &hops)?,
        }
        Ok(())
    }
}

// === impl Hops ===

impl Hops {
    /// Takes over what `response` asks for.
    pub(super) fn follow<B>(&self, response: &Response<B>) {
        if let Some(HopLimit(hops)) = response.extensions().get() {
            self.0.store(*hops, Ordering::Release);
        }
    }
}

// === impl HopLimited ===

impl<'a, S: Stream> HopLimited<'a, S> {
    pub(super) fn new(stream: S, wanted: &'a Hops) -> Self {
        Self { stream, wanted, set: 0 }
    }

    fn apply(&mut self) -> io::Result<()> {
        let wanted = self.wanted.0.load(Ordering::Acquire);
        if wanted != self.set {
            self.set = wanted;
            self.stream.limit_hops(wanted)?;
            debug!(hops = wanted, "answer limited");
        }
        Ok(())
    }
}

impl<S: Stream> AsyncRead for HopLimited<'_, S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl<S: Stream> AsyncWrite for HopLimited<'_, S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.apply()?;
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.apply()?;
        Pin::new(&mut self.stream).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
