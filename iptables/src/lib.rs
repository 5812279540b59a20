//! Puts the redirect of the instance metadata addresses into the kernel and keeps it true.
//!
//! Which kernel object stands for which promise, and the file that makes it:
//!
//! | Promise | Kernel object | File |
//! | --- | --- | --- |
//! | A pod's request comes to the agent (capture `route`) | one policy rule per family, one `local` route in a table of its own; a listener with `IP_TRANSPARENT` | [`route`] |
//! | The same (capture `iptables`) | chain `ROLEGATE-PREROUTING` in `nat`, a jump to it at the head of `PREROUTING` | [`iptables`] |
//! | What that lets past is dropped | chain `ROLEGATE-FORWARD` in `filter`, a jump to it at the head of `FORWARD` | [`iptables`] |
//! | Nothing is routed to the metadata addresses but the host's own | three policy rules per family: guard 1 | [`guard`] (`rules`) |
//! | Nothing is forwarded to or from them | table `inet rolegate`, chain `forward`: guard 2 | [`guard`] (`table`) |
//! | No source wears an address that is not behind its interface | the same table, chain `prerouting` | [`guard`] (`table`) |
//! | No other service of the host is reached at them | the same table, chain `input` | [`guard`] (`table`) |
//! | On a bridge each port has its pod's address and no other | table `bridge rolegate` | [`pins`] (`table`) |
//! | What a port claimed first is not forgotten | table `bridge rolegate_first`: two maps and a set | [`pins::first`] |
//! | Connections older than the capture end | entries of the connection table, deleted | [`conntrack`] |
//!
//! What is asked of the kernel and leaves nothing there:
//!
//! | Question | File |
//! | --- | --- |
//! | Which interfaces, uplinks and routes are there, and what changes | [`links`], [`interfaces`] |
//! | Would a pod's packet come here | [`selftest`] |
//! | Who may forward it without asking anybody | [`dataplane`] |
//! | Where did a connection come in | [`arrival`] |
//! | What is behind an address | [`behind`] |
//!
//! Shared by the above: policy rules (`rules`), tables of nftables (`nftables`), their socket (`nfnetlink`). Everything is
//! compared first and written only where it differs; nothing is taken away but by `cleanup`.
//!
//! Knows neither Kubernetes nor AWS. Starts no task: every future belongs to its caller.

mod addresses;
pub mod arrival;
pub mod behind;
pub mod conntrack;
pub mod dataplane;
pub mod family;
pub mod guard;
pub mod interfaces;
pub mod iptables;
pub mod links;
mod nfnetlink;
mod nftables;
pub mod pins;
pub mod route;
mod rules;
pub mod selftest;

pub use addresses::{AddressesError, follow_addresses};
pub use family::{Family, IMDS_PORT, IMDS_V4, IMDS_V6};
pub use interfaces::{InterfaceSpec, InterfaceSpecError};
pub use links::{LinkReport, LinkWatch, Links};
