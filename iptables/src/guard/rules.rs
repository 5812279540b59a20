//! Guard 1: policy rules. What is forwarded to the metadata addresses is prohibited; the host's own traffic goes past.
//!
//! ```text
//! P+4:  nop                            where the host's own goes on
//! P:    iif lo to IMDS goto P+4        what the host sends comes in by `lo`
//! P+2:  to IMDS prohibit               everything else is answered with an error
//! ```
//!
//! They carry `protocol kernel`, which systemd-networkd leaves alone when it removes rules that are not its own
//! (systemd issue 19287). P+1 is free for a capture.

use std::io;
use std::net::IpAddr;

use futures::TryStreamExt;
use netlink_packet_route::AddressFamily;
use netlink_packet_route::route::{RouteHeader, RouteProtocol};
use netlink_packet_route::rule::{RuleAction, RuleAttribute, RuleMessage};
use rtnetlink::{Handle, IpVersion};

use crate::family::Family;
use crate::links::{LinkError, ask};

/// The first preference: after `local` (0), before what CNIs use (AWS VPC CNI: 10 and more, 1 for several network cards).
pub const DEFAULT_PREFERENCE: u32 = 2;

/// Why policy rules could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum RuleError {
    /// The kernel could not be asked or refused.
    #[error(transparent)]
    Netlink(#[from] LinkError),
}

/// The rules from a preference on.
#[derive(Clone, Debug)]
pub(super) struct Rules {
    first: u32,
}

/// What one rule is, as far as we make it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Rule {
    preference: u32,
    to: Option<IpAddr>,
    from_host: bool,
    action: Action,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Action {
    Nop,
    Goto(u32),
    Prohibit,
}

// === impl Rules ===

impl Rules {
    pub(super) fn new(preference: u32) -> Self {
        Self { first: preference }
    }

    /// In the order in which they are made: at no moment is the host's own traffic prohibited.
    fn desired(&self, family: Family) -> [Rule; 3] {
        let (to, end) = (Some(family.imds()), self.first + 4);
        let rule = |preference, to, from_host, action| Rule { preference, to, from_host, action };
        [
            rule(end, None, false, Action::Nop),
            rule(self.first, to, true, Action::Goto(end)),
            rule(self.first + 2, to, false, Action::Prohibit),
        ]
    }

    /// Each is there, once.
    pub(super) async fn are_right(&self) -> Result<bool, RuleError> {
        for family in families() {
            let have = read(family).await?;
            let right = |rule: &Rule| have.iter().filter(|(is, _)| is.as_ref() == Some(rule)).count() == 1;
            if !self.desired(family).iter().all(right) {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Adds what is missing, and takes away what is there twice.
    pub(super) async fn write(&self) -> Result<(), RuleError> {
        for family in families() {
            let have = read(family).await?;
            for rule in self.desired(family) {
                let same = have.iter().filter(|(is, _)| is.as_ref() == Some(&rule));
                let spare: Vec<RuleMessage> =
                    same.clone().skip(1).map(|(_, message)| message.clone()).collect();
                if same.count() == 0 {
                    add(rule.message(family)).await?;
                }
                for message in spare {
                    delete(message).await?;
                }
            }
        }
        Ok(())
    }

    /// Takes ours away, the host's exemption last. `false`: there was none.
    pub(super) async fn remove(&self) -> Result<bool, RuleError> {
        let mut any = false;
        for family in families() {
            let have = read(family).await?;
            for rule in self.desired(family).iter().rev() {
                for (_, message) in have.iter().filter(|(is, _)| is.as_ref() == Some(rule)) {
                    delete(message.clone()).await?;
                    any = true;
                }
            }
        }
        Ok(any)
    }
}

// === impl Rule ===

impl Rule {
    fn message(&self, family: Family) -> RuleMessage {
        let mut message = RuleMessage::default();
        message.header.family = match family {
            Family::V4 => AddressFamily::Inet,
            Family::V6 => AddressFamily::Inet6,
        };
        message.header.table = RouteHeader::RT_TABLE_UNSPEC;
        message.header.action = self.action.into();
        let attributes = &mut message.attributes;
        attributes.push(RuleAttribute::Priority(self.preference));
        attributes.push(RuleAttribute::Protocol(RouteProtocol::Kernel));
        if let Some(to) = self.to {
            message.header.dst_len = if to.is_ipv4() { 32 } else { 128 };
            attributes.push(RuleAttribute::Destination(to));
        }
        if self.from_host {
            attributes.push(RuleAttribute::Iifname("lo".to_owned()));
        }
        if let Action::Goto(end) = self.action {
            attributes.push(RuleAttribute::Goto(end));
        }
        message
    }

    /// `None`: it is none of ours, or does something that ours do not.
    fn of(message: &RuleMessage) -> Option<Self> {
        let (mut preference, mut to, mut from_host, mut goto, mut ours) = (0, None, false, None, false);
        for attribute in &message.attributes {
            match attribute {
                RuleAttribute::Priority(is) => preference = *is,
                RuleAttribute::Destination(address) => to = Some(*address),
                RuleAttribute::Iifname(name) if name == "lo" => from_host = true,
                RuleAttribute::Goto(end) => goto = Some(*end),
                RuleAttribute::Protocol(RouteProtocol::Kernel) => ours = true,
                RuleAttribute::Table(0) => {}
                // The kernel says of every rule that it suppresses nothing.
                RuleAttribute::SuppressPrefixLen(u32::MAX) => {}
                _ => return None,
            }
        }
        let whole = match to {
            None => message.header.dst_len == 0,
            Some(IpAddr::V4(_)) => message.header.dst_len == 32,
            Some(IpAddr::V6(_)) => message.header.dst_len == 128,
        };
        let action = match (message.header.action, goto) {
            (RuleAction::Nop, None) => Action::Nop,
            (RuleAction::Goto, Some(end)) => Action::Goto(end),
            (RuleAction::Prohibit, None) => Action::Prohibit,
            _ => return None,
        };
        (ours && whole && message.header.src_len == 0).then_some(Self { preference, to, from_host, action })
    }
}

impl From<Action> for RuleAction {
    fn from(action: Action) -> Self {
        match action {
            Action::Nop => Self::Nop,
            Action::Goto(_) => Self::Goto,
            Action::Prohibit => Self::Prohibit,
        }
    }
}

fn families() -> impl Iterator<Item = Family> {
    Family::ALL.into_iter().filter(|family| family.in_kernel())
}

/// Every rule of the family: what it is, if it may be ours, and as the kernel says it.
async fn read(family: Family) -> Result<Vec<(Option<Rule>, RuleMessage)>, RuleError> {
    let version = match family {
        Family::V4 => IpVersion::V4,
        Family::V6 => IpVersion::V6,
    };
    let messages: Vec<RuleMessage> =
        ask(|handle: Handle| async move { handle.rule().get(version).execute().try_collect().await }).await?;
    Ok(messages.into_iter().map(|message| (Rule::of(&message), message)).collect())
}

/// One that is there already is right: somebody else was quicker.
async fn add(rule: RuleMessage) -> Result<(), RuleError> {
    let added = ask(|handle: Handle| async move {
        let mut request = handle.rule().add();
        *request.message_mut() = rule;
        request.execute().await
    });
    tolerate(added.await, libc::EEXIST)
}

async fn delete(rule: RuleMessage) -> Result<(), RuleError> {
    let deleted = ask(|handle: Handle| async move { handle.rule().del(rule).execute().await });
    tolerate(deleted.await, libc::ENOENT)
}

fn tolerate(done: Result<(), LinkError>, code: i32) -> Result<(), RuleError> {
    match done {
        Err(LinkError::Request(rtnetlink::Error::NetlinkError(error)))
            if io::Error::from(error.clone()).raw_os_error() == Some(code) =>
        {
            Ok(())
        }
        done => Ok(done?),
    }
}
