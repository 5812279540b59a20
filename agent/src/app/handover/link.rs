//! The connection between two agents, once both have a runtime.

use std::io;
use std::os::fd::BorrowedFd;

use tokio::io::Interest;
use tokio::net::UnixStream;

use super::descriptors;
use super::message::{LONGEST_BYTES, Message};

/// One end. It is open as long as both processes live.
pub(super) struct Link {
    stream: UnixStream,
    read: Vec<u8>,
}

// === impl Link ===

impl Link {
    pub(super) fn new(stream: UnixStream) -> Self {
        Self { stream, read: Vec::new() }
    }

    /// From a connection that was made without a runtime.
    pub(super) fn from_std(stream: std::os::unix::net::UnixStream) -> io::Result<Self> {
        stream.set_nonblocking(true)?;
        Ok(Self::new(UnixStream::from_std(stream)?))
    }

    /// Whose process is at the other end.
    pub(super) fn peer_uid(&self) -> io::Result<u32> {
        Ok(self.stream.peer_cred()?.uid())
    }

    /// The next message; nothing at the end. Nothing is lost when it is dropped half-way. After a line that is no message
    /// (`InvalidData`) there may be others.
    pub(super) async fn next(&mut self) -> io::Result<Option<Message>> {
        loop {
            if let Some(end) = self.read.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.read.drain(..=end).collect();
                let message = Message::decode(&line);
                return message.map(Some).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error));
            }
            if self.read.len() > LONGEST_BYTES {
                self.read.clear();
                return Err(io::ErrorKind::InvalidData.into());
            }
            self.stream.readable().await?;
            match self.stream.try_read_buf(&mut self.read) {
                Ok(0) => return Ok(None),
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// Waits for the other process's end.
    pub(super) async fn end(&mut self) {
        loop {
            match self.next().await {
                Ok(Some(_)) => {}
                Err(error) if error.kind() == io::ErrorKind::InvalidData => {}
                Ok(None) | Err(_) => return,
            }
        }
    }

    pub(super) async fn send(&self, message: &Message, with: &[BorrowedFd<'_>]) -> io::Result<()> {
        let line = message.encode();
        self.stream.async_io(Interest::WRITABLE, || descriptors::send(&self.stream, &line, with)).await
    }
}
