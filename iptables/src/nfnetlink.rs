//! A socket of the kernel's netfilter subsystems (nfnetlink): tables read, transactions written.

use std::io;

use netlink_packet_core::{
    NLM_F_ACK, NLM_F_DUMP, NLM_F_REQUEST, NetlinkHeader, NetlinkMessage, NetlinkPayload,
};
use netlink_packet_netfilter::nftables::NfTablesMessage;
use netlink_packet_netfilter::none::ControlMessage;
use netlink_packet_netfilter::{
    NetfilterHeader, NetfilterMessage, NetfilterMessageInner, NetfilterProtoFamily,
};
use netlink_sys::protocols::NETLINK_NETFILTER;
use netlink_sys::{AsyncSocket, AsyncSocketExt, SocketAddr, TokioSocket};
use nix::sys::socket::{setsockopt, sockopt::SndBufForce};

/// The subsystem that a transaction is for, `NFNL_SUBSYS_NFTABLES` (linux/netfilter/nfnetlink.h).
const NFTABLES: u16 = 10;
/// More than the rules of a node's 250 pods need (0.8 MB); the kernel takes no memory before it is used.
const SEND_BUFFER_BYTES: usize = 8 << 20;

/// Why the kernel could not be asked, or did not do it.
#[derive(Debug, thiserror::Error)]
pub enum NfnetlinkError {
    /// The socket failed or the kernel refused.
    #[error("{0}")]
    Io(#[from] io::Error),
    /// The kernel said something that was not understood.
    #[error("{0}")]
    Decode(#[from] netlink_packet_core::DecodeError),
}

/// A request of a transaction: what is asked, and how.
pub(crate) struct Request {
    pub(crate) flags: u16,
    pub(crate) message: NfTablesMessage,
}

/// One socket, one exchange at a time.
pub(crate) struct Nfnetlink(TokioSocket);

// === impl NfnetlinkError ===

impl NfnetlinkError {
    /// The kernel's error number, if that is what it is.
    pub(crate) fn errno(&self) -> Option<i32> {
        match self {
            Self::Io(error) => error.raw_os_error(),
            Self::Decode(_) => None,
        }
    }
}

// === impl Nfnetlink ===

impl Nfnetlink {
    pub(crate) fn open() -> Result<Self, NfnetlinkError> {
        let mut socket = TokioSocket::new(NETLINK_NETFILTER)?;
        socket.socket_mut().bind_auto()?;
        socket.socket_mut().connect(&SocketAddr::new(0, 0))?;
        // A transaction is one message: what a socket has by default is enough for some 600 rules.
        let _ = setsockopt(socket.socket_ref(), SndBufForce, &SEND_BUFFER_BYTES);
        Ok(Self(socket))
    }

    /// Sends one request and hands out what comes back, up to the last.
    pub(crate) async fn exchange(
        &self,
        family: NetfilterProtoFamily,
        flags: u16,
        message: impl Into<NetfilterMessageInner>,
        mut each: impl FnMut(NetfilterMessageInner),
    ) -> Result<(), NfnetlinkError> {
        self.0.send(&packet(family, 0, flags, 0, message.into())).await?;
        loop {
            for answer in self.receive().await? {
                match answer.payload {
                    NetlinkPayload::Done(_) => return Ok(()),
                    NetlinkPayload::Error(error) if error.code.is_none() => return Ok(()),
                    NetlinkPayload::Error(error) => return Err(error.to_io().into()),
                    NetlinkPayload::InnerMessage(message) => each(message.inner),
                    _ => {}
                }
            }
        }
    }

    /// Reads all of something.
    pub(crate) async fn dump(
        &self,
        family: NetfilterProtoFamily,
        message: impl Into<NetfilterMessageInner>,
        each: impl FnMut(NetfilterMessageInner),
    ) -> Result<(), NfnetlinkError> {
        self.exchange(family, NLM_F_DUMP, message, each).await
    }

    /// Does all of `requests` or nothing (nftables).
    pub(crate) async fn transact(
        &self,
        family: NetfilterProtoFamily,
        requests: Vec<Request>,
    ) -> Result<(), NfnetlinkError> {
        let unspecified = NetfilterProtoFamily::Unspec;
        let mut bytes = packet(unspecified, NFTABLES, 0, 0, ControlMessage::BatchBegin.into());
        let (mut number, last) = (0, u32::try_from(requests.len()).unwrap_or(u32::MAX));
        for Request { flags, message } in requests {
            number += 1;
            // A few hundred answers are more than the socket holds.
            let flags = if number == last { flags | NLM_F_ACK } else { flags };
            bytes.extend(packet(family, 0, flags, number, message.into()));
        }
        bytes.extend(packet(unspecified, NFTABLES, 0, last + 1, ControlMessage::BatchEnd.into()));
        self.0.send(&bytes).await?;
        // The last request is answered, and every one that fails before it; what begins no transaction, as a whole.
        let mut failed = None;
        loop {
            for answer in self.receive().await? {
                if let NetlinkPayload::Error(error) = answer.payload {
                    let begun = answer.header.sequence_number > 0;
                    if error.code.is_some() {
                        failed.get_or_insert_with(|| error.to_io());
                    }
                    if !begun || answer.header.sequence_number >= last {
                        return failed.map_or(Ok(()), |error| Err(error.into()));
                    }
                }
            }
        }
    }

    async fn receive(&self) -> Result<Vec<NetlinkMessage<NetfilterMessage>>, NfnetlinkError> {
        let (received, _) = self.0.recv_from_full().await?;
        let mut rest = received.as_slice();
        let mut answers = Vec::new();
        while !rest.is_empty() {
            let answer = NetlinkMessage::<NetfilterMessage>::deserialize(rest)?;
            // Messages are padded to four bytes; the last need not be.
            let length = usize::try_from(answer.header.length).unwrap_or(usize::MAX).next_multiple_of(4);
            rest = rest.get(length..).unwrap_or_default();
            answers.push(answer);
        }
        Ok(answers)
    }
}

fn packet(
    family: NetfilterProtoFamily,
    resource: u16,
    flags: u16,
    sequence: u32,
    message: NetfilterMessageInner,
) -> Vec<u8> {
    let mut header = NetlinkHeader::default();
    header.flags = NLM_F_REQUEST | flags;
    header.sequence_number = sequence;
    let message = NetfilterMessage::new(NetfilterHeader::new(family, 0, resource), message);
    let mut packet = NetlinkMessage::new(header, NetlinkPayload::from(message));
    packet.finalize();
    let mut bytes = vec![0; packet.buffer_len()];
    packet.serialize(&mut bytes);
    bytes
}
