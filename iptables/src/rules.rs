//! Policy rules (`ip rule`) of ours: what they are, which there are, and how they are made and taken away (rtnetlink).
//!
//! All carry `protocol kernel`, which systemd-networkd leaves alone when it removes rules that are not its own
//! (systemd issue 19287).

use std::io;
use std::net::IpAddr;

use futures::TryStreamExt;
use netlink_packet_route::AddressFamily;
use netlink_packet_route::route::{RouteHeader, RouteProtocol};
use netlink_packet_route::rule::{RuleAction, RuleAttribute, RuleMessage};
use rtnetlink::{Handle, IpVersion};

use crate::family::Family;
use crate::links::{LinkError, ask};

/// What one rule is, as far as we make it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Rule {
    pub(crate) preference: u32,
    pub(crate) to: Option<IpAddr>,
    /// What the host itself sends: it comes in by `lo`.
    pub(crate) from_host: bool,
    pub(crate) action: Action,
}

/// What a rule does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Action {
    Nop,
    Goto(u32),
    Prohibit,
    Table(u32),
}

/// The families that there are here.
pub(crate) fn families() -> impl Iterator<Item = Family> {
    Family::ALL.into_iter().filter(|family| family.in_kernel())
}

/// Each is there, once.
pub(crate) async fn are_there(desired: &[Rule], family: Family) -> Result<bool, LinkError> {
    let have = read(family).await?;
    Ok(desired.iter().all(|rule| have.iter().filter(|(is, _)| is.as_ref() == Some(rule)).count() == 1))
}

/// Adds what is missing, in this order, and takes away what is there twice.
pub(crate) async fn make(desired: &[Rule], family: Family) -> Result<(), LinkError> {
    let have = read(family).await?;
    for rule in desired {
        let same: Vec<&RuleMessage> =
            have.iter().filter(|(is, _)| is.as_ref() == Some(rule)).map(|(_, message)| message).collect();
        if same.is_empty() {
            add(rule.message(family)).await?;
        }
        for spare in same.into_iter().skip(1) {
            delete(spare.clone()).await?;
        }
    }
    Ok(())
}

/// Takes them away, the last first. `false`: there was none.
pub(crate) async fn remove(desired: &[Rule], family: Family) -> Result<bool, LinkError> {
    let have = read(family).await?;
    let mut any = false;
    for rule in desired.iter().rev() {
        for (_, message) in have.iter().filter(|(is, _)| is.as_ref() == Some(rule)) {
            delete(message.clone()).await?;
            any = true;
        }
    }
    Ok(any)
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
        match self.action {
            Action::Goto(end) => attributes.push(RuleAttribute::Goto(end)),
            Action::Table(table) => attributes.push(RuleAttribute::Table(table)),
            Action::Nop | Action::Prohibit => {}
        }
        message
    }

    /// `None`: it is none of ours, or does something that ours do not.
    fn of(message: &RuleMessage) -> Option<Self> {
        let (mut preference, mut to, mut from_host) = (0, None, false);
        let (mut goto, mut table, mut ours) = (None, None, false);
        for attribute in &message.attributes {
            match attribute {
                RuleAttribute::Priority(is) => preference = *is,
                RuleAttribute::Destination(address) => to = Some(*address),
                RuleAttribute::Iifname(name) if name == "lo" => from_host = true,
                RuleAttribute::Goto(end) => goto = Some(*end),
                RuleAttribute::Protocol(RouteProtocol::Kernel) => ours = true,
                RuleAttribute::Table(is) => table = Some(*is).filter(|is| *is != 0),
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
        let action = match (message.header.action, goto, table) {
            (RuleAction::Nop, None, None) => Action::Nop,
            (RuleAction::Goto, Some(end), None) => Action::Goto(end),
            (RuleAction::Prohibit, None, None) => Action::Prohibit,
            (RuleAction::ToTable, None, Some(table)) => Action::Table(table),
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
            Action::Table(_) => Self::ToTable,
        }
    }
}

/// Every rule of the family: what it is, if it may be ours, and as the kernel says it.
async fn read(family: Family) -> Result<Vec<(Option<Rule>, RuleMessage)>, LinkError> {
    let version = match family {
        Family::V4 => IpVersion::V4,
        Family::V6 => IpVersion::V6,
    };
    let messages: Vec<RuleMessage> =
        ask(|handle: Handle| async move { handle.rule().get(version).execute().try_collect().await }).await?;
    Ok(messages.into_iter().map(|message| (Rule::of(&message), message)).collect())
}

/// One that is there already is right: somebody else was quicker.
async fn add(rule: RuleMessage) -> Result<(), LinkError> {
    let added = ask(|handle: Handle| async move {
        let mut request = handle.rule().add();
        *request.message_mut() = rule;
        request.execute().await
    });
    tolerate(added.await, libc::EEXIST)
}

async fn delete(rule: RuleMessage) -> Result<(), LinkError> {
    let deleted = ask(|handle: Handle| async move { handle.rule().del(rule).execute().await });
    tolerate(deleted.await, libc::ENOENT)
}

/// A request that comes too late has this error, and what it asked for.
pub(crate) fn tolerate(done: Result<(), LinkError>, code: i32) -> Result<(), LinkError> {
    match done {
        Err(LinkError::Request(rtnetlink::Error::NetlinkError(error)))
            if io::Error::from(error.clone()).raw_os_error() == Some(code) =>
        {
            Ok(())
        }
        done => done,
    }
}
