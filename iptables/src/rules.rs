//! Policy rules (`ip rule`) of ours: what they are, which there are, and how they are made and taken away (rtnetlink).
//!
//! All carry `protocol kernel`, which systemd-networkd leaves alone when it removes rules that are not its own
//! (systemd issue 19287).

use std::io;
use std::net::IpAddr;

use futures::TryStreamExt;
use netlink_packet_route::AddressFamily;
use netlink_packet_route::route::{RouteHeader, RouteProtocol};
use netlink_packet_route::rule::{RuleAction, RuleAttribute, RuleFlags, RuleMessage};
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

/// Each is there, once, and none of its kind anywhere else.
pub(crate) async fn are_there(desired: &[Rule], family: Family) -> Result<bool, LinkError> {
    let have = read(family).await?;
    let once =
        desired.iter().all(|rule| have.iter().filter(|(is, _)| is.as_ref() == Some(rule)).count() == 1);
    Ok(once && strays(desired, &have).is_empty())
}

/// Adds what is missing, in this order, then takes away what is there twice or elsewhere.
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
    for stray in strays(desired, &have) {
        delete(stray.clone()).await?;
    }
    Ok(())
}

/// Takes them away, wherever they are, the last first. `false`: there was none.
pub(crate) async fn remove(desired: &[Rule], family: Family) -> Result<bool, LinkError> {
    let have = read(family).await?;
    let mut ours: Vec<&RuleMessage> = Vec::new();
    for rule in desired.iter().rev() {
        ours.extend(have.iter().filter(|(is, _)| is.as_ref() == Some(rule)).map(|(_, message)| message));
    }
    ours.extend(strays(desired, &have));
    for message in &ours {
        delete((*message).clone()).await?;
    }
    Ok(!ours.is_empty())
}

/// Rules that do what one of `desired` does at another preference, or by another table: an earlier start's, which was
/// told other numbers. Of those that do nothing, the ones that such a rule leads to. The last of `desired` first.
fn strays<'a>(desired: &[Rule], have: &'a [(Option<Rule>, RuleMessage)]) -> Vec<&'a RuleMessage> {
    let elsewhere =
        |(is, _): &&(Option<Rule>, RuleMessage)| is.as_ref().is_some_and(|is| !desired.contains(is));
    let have: Vec<_> = have.iter().filter(elsewhere).collect();
    let mut found = Vec::new();
    for wanted in desired.iter().rev() {
        found.extend(have.iter().copied().filter(|(is, _)| is.as_ref().is_some_and(|is| is.is_like(wanted))));
    }
    let ends: Vec<u32> = found.iter().filter_map(|(is, _)| is.as_ref()?.leads_to()).collect();
    let is_end = |is: &Rule| is.action == Action::Nop && is.to.is_none() && ends.contains(&is.preference);
    found.extend(have.iter().copied().filter(|(is, _)| is.as_ref().is_some_and(is_end)));
    found.into_iter().map(|(_, message)| message).collect()
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

    /// Whether it does the same to the same packets, wherever it is; one that means all packets is like no other.
    fn is_like(&self, other: &Self) -> bool {
        self.to.is_some()
            && self.to == other.to
            && self.from_host == other.from_host
            && std::mem::discriminant(&self.action) == std::mem::discriminant(&other.action)
    }

    fn leads_to(&self) -> Option<u32> {
        match self.action {
            Action::Goto(end) => Some(end),
            Action::Nop | Action::Prohibit | Action::Table(_) => None,
        }
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
        let header = &message.header;
        // `not`, and some packets only: the kernel takes neither for a difference when it is asked to add ours.
        let all = header.src_len == 0 && header.tos == 0 && !header.flags.contains(RuleFlags::Invert);
        (ours && whole && all).then_some(Self { preference, to, from_host, action })
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rule_for_other_packets_than_ours_is_none_of_ours() {
        for (family, action) in
            [(Family::V4, Action::Prohibit), (Family::V6, Action::Table(7)), (Family::V4, Action::Goto(9))]
        {
            let rule = Rule { preference: 4, to: Some(family.imds()), from_host: false, action };
            let message = rule.message(family);
            assert_eq!(Rule::of(&message), Some(rule));
            let changed = |change: &dyn Fn(&mut RuleMessage)| {
                let mut message = message.clone();
                change(&mut message);
                Rule::of(&message)
            };
            assert_eq!(changed(&|message| message.header.flags = RuleFlags::Invert), None);
            assert_eq!(changed(&|message| message.header.tos = 4), None);
            assert_eq!(changed(&|message| message.header.src_len = 8), None);
            assert_eq!(changed(&|message| message.header.dst_len = 16), None);
            assert_eq!(changed(&|message| message.attributes.push(RuleAttribute::FwMark(1))), None);
            let boot = |message: &mut RuleMessage| {
                message.attributes[1] = RuleAttribute::Protocol(RouteProtocol::Boot);
            };
            assert_eq!(changed(&boot), None);
        }
    }
}
