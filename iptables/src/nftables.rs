//! A table of nftables that is ours alone: compared, and where it differs replaced in one transaction.
//!
//! Family `inet`, filter chains, rules without sets: replacing rules with anonymous sets lets packets through
//! (measured: 21 of 241,574 connections; without sets none of 440,226).

mod expression;

use std::collections::BTreeMap;

use netlink_packet_core::NLM_F_APPEND;
use netlink_packet_core::NLM_F_CREATE;
use netlink_packet_netfilter::nftables::{
    ChainAttribute, ChainMessage, Hook, HookNumber, InetHookNumber, NfTablesMessage, RuleAttribute,
    RuleMessage, TableAttribute, TableMessage,
};
use netlink_packet_netfilter::{NetfilterMessageInner, NetfilterProtoFamily};

use crate::nfnetlink::{Nfnetlink, NfnetlinkError, Request};
pub(crate) use expression::{Expression, accept, drop, from, spoofed, tcp_port, to};

const INET: NetfilterProtoFamily = NetfilterProtoFamily::Inet;
/// `NF_ACCEPT`, as the policy of a chain (linux/netfilter.h).
const ACCEPT: u32 = 1;

/// What the table should be.
#[derive(Clone, Debug)]
pub(crate) struct Table {
    pub(crate) name: &'static str,
    pub(crate) chains: Vec<Chain>,
}

/// A filter chain with the policy to accept.
#[derive(Clone, Debug)]
pub(crate) struct Chain {
    pub(crate) name: &'static str,
    pub(crate) hook: InetHookNumber,
    /// Lower comes first.
    pub(crate) priority: i32,
    pub(crate) rules: Vec<Vec<Expression>>,
}

/// What the kernel has of a table.
#[derive(Debug, Default, PartialEq, Eq)]
struct Found {
    there: bool,
    /// Dormant, or owned by a process.
    flags: u32,
    chains: BTreeMap<String, FoundChain>,
}

#[derive(Debug, Default, PartialEq, Eq)]
struct FoundChain {
    kind: String,
    hook: Option<u32>,
    priority: Option<i32>,
    policy: u32,
    rules: Vec<Plain>,
}

type Plain = Vec<(String, BTreeMap<u16, Vec<u8>>)>;

/// What is wrong with the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum TableDrift {
    Missing,
    Changed,
}

// === impl Table ===

impl Table {
    /// What is wrong with it in the kernel, if anything.
    pub(crate) async fn drift(&self) -> Result<Option<TableDrift>, NfnetlinkError> {
        let found = self.read().await?;
        Ok(if !found.there {
            Some(TableDrift::Missing)
        } else if found == self.wanted() {
            None
        } else {
            Some(TableDrift::Changed)
        })
    }

    /// Makes it what it should be, in one transaction: packets see the old one or the new one.
    pub(crate) async fn write(&self) -> Result<(), NfnetlinkError> {
        let mut requests = vec![
            // What is deleted must be there.
            self.request(NLM_F_CREATE, NfTablesMessage::NewTable),
            self.request(0, NfTablesMessage::DeleteTable),
            self.request(NLM_F_CREATE, NfTablesMessage::NewTable),
        ];
        for chain in &self.chains {
            requests.push(Request { flags: NLM_F_CREATE, message: self.new_chain(chain) });
            for rule in &chain.rules {
                let message = NfTablesMessage::NewRule(RuleMessage {
                    attributes: vec![
                        RuleAttribute::Table(self.name.to_owned()),
                        RuleAttribute::Chain(chain.name.to_owned()),
                        RuleAttribute::Expressions(rule.clone()),
                    ],
                });
                requests.push(Request { flags: NLM_F_CREATE | NLM_F_APPEND, message });
            }
        }
        Nfnetlink::open()?.transact(INET, requests).await
    }

    /// Takes it away. `false`: it was not there.
    pub(crate) async fn remove(&self) -> Result<bool, NfnetlinkError> {
        let delete = self.request(0, NfTablesMessage::DeleteTable);
        match Nfnetlink::open()?.transact(INET, vec![delete]).await {
            Ok(()) => Ok(true),
            Err(error) if error.errno() == Some(libc::ENOENT) => Ok(false),
            Err(error) => Err(error),
        }
    }

    fn request(&self, flags: u16, message: impl FnOnce(TableMessage) -> NfTablesMessage) -> Request {
        let attributes = vec![TableAttribute::Name(self.name.to_owned())];
        Request { flags, message: message(TableMessage { attributes }) }
    }

    fn new_chain(&self, chain: &Chain) -> NfTablesMessage {
        NfTablesMessage::NewChain(ChainMessage {
            attributes: vec![
                ChainAttribute::Table(self.name.to_owned()),
                ChainAttribute::Name(chain.name.to_owned()),
                ChainAttribute::Hook(vec![
                    Hook::Number(HookNumber::Inet(chain.hook)),
                    Hook::Priority(chain.priority.cast_unsigned()),
                ]),
                ChainAttribute::Policy(ACCEPT),
                ChainAttribute::Type("filter".to_owned()),
            ],
        })
    }

    fn wanted(&self) -> Found {
        let chain = |chain: &Chain| {
            let found = FoundChain {
                kind: "filter".to_owned(),
                hook: Some(chain.hook.into()),
                priority: Some(chain.priority),
                policy: ACCEPT,
                rules: chain.rules.iter().map(|rule| expression::plain(rule)).collect(),
            };
            (chain.name.to_owned(), found)
        };
        Found { there: true, flags: 0, chains: self.chains.iter().map(chain).collect() }
    }

    async fn read(&self) -> Result<Found, NfnetlinkError> {
        let socket = Nfnetlink::open()?;
        let mut found = Found::default();
        let all = NfTablesMessage::GetTable(TableMessage { attributes: Vec::new() });
        socket.dump(INET, all, |message| self.see_table(message, &mut found)).await?;
        if !found.there {
            return Ok(found);
        }
        let all = NfTablesMessage::GetChain(ChainMessage { attributes: Vec::new() });
        socket.dump(INET, all, |message| self.see_chain(message, &mut found)).await?;
        let attributes = vec![RuleAttribute::Table(self.name.to_owned())];
        let ours = NfTablesMessage::GetRule(RuleMessage { attributes });
        socket.dump(INET, ours, |message| self.see_rule(message, &mut found)).await?;
        Ok(found)
    }

    fn see_table(&self, message: NetfilterMessageInner, found: &mut Found) {
        let NetfilterMessageInner::NfTables(NfTablesMessage::NewTable(table)) = message else { return };
        let is_name =
            |attribute: &TableAttribute| matches!(attribute, TableAttribute::Name(name) if name == self.name);
        if !table.attributes.iter().any(is_name) {
            return;
        }
        found.there = true;
        for attribute in table.attributes {
            if let TableAttribute::Flags(flags) = attribute {
                found.flags = flags.bits();
            }
        }
    }

    fn see_chain(&self, message: NetfilterMessageInner, found: &mut Found) {
        let NetfilterMessageInner::NfTables(NfTablesMessage::NewChain(chain)) = message else { return };
        let is_ours = |attribute: &ChainAttribute| matches!(attribute, ChainAttribute::Table(name) if name == self.name);
        if !chain.attributes.iter().any(is_ours) {
            return;
        }
        let (mut name, mut seen) = (String::new(), FoundChain::default());
        for attribute in chain.attributes {
            match attribute {
                ChainAttribute::Name(is) => name = is,
                ChainAttribute::Type(kind) => seen.kind = kind,
                ChainAttribute::Policy(policy) => seen.policy = policy,
                ChainAttribute::Hook(hook) => {
                    for part in hook {
                        match part {
                            Hook::Number(number) => seen.hook = Some(number.into()),
                            Hook::Priority(priority) => seen.priority = Some(priority.cast_signed()),
                            _ => {}
                        }
                    }
                }
                _ => {}
            }
        }
        found.chains.insert(name, seen);
    }

    fn see_rule(&self, message: NetfilterMessageInner, found: &mut Found) {
        let NetfilterMessageInner::NfTables(NfTablesMessage::NewRule(rule)) = message else { return };
        let (mut ours, mut chain, mut plain) = (false, String::new(), Plain::new());
        for attribute in rule.attributes {
            match attribute {
                RuleAttribute::Table(name) => ours = name == self.name,
                RuleAttribute::Chain(name) => chain = name,
                RuleAttribute::Expressions(expressions) => plain = expression::plain(&expressions),
                _ => {}
            }
        }
        if ours {
            found.chains.entry(chain).or_default().rules.push(plain);
        }
    }
}
