//! Which capture is in force, decided once, at the start.

use std::ffi::OsStr;
use std::io;

use rolegate_iptables::Links;
use rolegate_iptables::dataplane::Dataplane;
use rolegate_iptables::guard::{DEFAULT_PREFERENCE, Guard};
use rolegate_iptables::iptables;
use rolegate_iptables::route::{DEFAULT_TABLE, Route};
use rolegate_iptables::selftest::{detours, routed_addresses};
use tracing::{info, warn};

use super::RedirectError;
use super::detour::sentence;
use crate::config::{self, RedirectMode};

/// What to do where nothing can be proved.
pub(super) const CHOOSE: &str = "choose --redirect=route or --redirect=iptables if they pass the kernel's routing, else --redirect=none with a CiliumLocalRedirectPolicy (deploy/cilium)";

/// The ways pods' requests can take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Translation by iptables.
    Iptables,
    /// Policy routing.
    Route,
    /// The operator's own means.
    Operators,
    /// None: the operator has to choose one.
    Undecided,
}

/// One of them, and whose decision it was.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Choice {
    /// The decision.
    pub mode: Mode,
    /// It was `--redirect=auto`'s, and this is the reason.
    pub why: Option<String>,
}

// === impl Mode ===

impl Mode {
    /// All of them.
    pub(super) const ALL: [Self; 4] = [Self::Iptables, Self::Route, Self::Operators, Self::Undecided];

    /// A word for logs and metrics; where it can be asked for, that of the flag.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Iptables => "iptables",
            Self::Route => "route",
            Self::Operators => "none",
            Self::Undecided => "undecided",
        }
    }

    /// Takes away what an earlier run by the other capture left, now that this one stands; the guards stand
    /// meanwhile. `true`: there was something.
    pub(super) async fn remove_other(self, search: &OsStr) -> Result<bool, RedirectError> {
        match self {
            // Whatever its numbers were: they are not looked at.
            Self::Iptables => {
                let route = Route::new(DEFAULT_PREFERENCE, DEFAULT_TABLE);
                route.cleanup().await.map_err(RedirectError::Routing)
            }
            Self::Route => Ok(!iptables::remove_leftovers(search).await?.is_empty()),
            Self::Operators | Self::Undecided => Ok(false),
        }
    }
}

// === impl Choice ===

impl Choice {
    /// What the operator asked for; `None`: it is to be found out ([`Choice::find`]).
    #[must_use]
    pub fn told(mode: RedirectMode) -> Option<Self> {
        let mode = match mode {
            RedirectMode::Auto => return None,
            RedirectMode::Iptables => Mode::Iptables,
            RedirectMode::Route => Mode::Route,
            RedirectMode::None => Mode::Operators,
        };
        Some(Self { mode, why: None })
    }

    /// The strongest capture that passes its test: `route`, if `listen_at_imds` succeeds and the kernel brings pods'
    /// packets there, else `iptables`; none where others may forward packets past either. The guards and, for the
    /// test, the policy routing stand from here on. With `route` the listener is returned.
    ///
    /// # Errors
    /// When neither can be had, and when the kernel cannot be asked.
    pub async fn find<L>(
        config: &config::Redirect,
        listen_at_imds: impl FnOnce() -> io::Result<L>,
    ) -> Result<(Self, Option<L>), RedirectError> {
        let guards = Guard::new(config.preference).reconcile(&|_| {}).await;
        for cause in guards.drift {
            info!(%cause, "installed");
        }
        for error in guards.errors {
            warn!(%error, "a guard does not stand yet; it is tried again");
        }
        let links = Links::read().await?;
        let others = Dataplane::read(&links).await?;
        if !others.is_plain() {
            let why = format!("{others}: packets may be forwarded past any redirect; {CHOOSE}");
            warn!(why, "no redirect is chosen: the guards stand alone");
            return Ok((Self { mode: Mode::Undecided, why: Some(why) }, None));
        }
        let why_not = match listen_at_imds() {
            Err(error) => error.to_string(),
            Ok(listener) => match prove(config, &links).await {
                Ok(None) => {
                    let why = "port 80 of the metadata addresses is free and packets are brought there";
                    info!(redirect = Mode::Route.as_str(), why, "redirect chosen");
                    return Ok((Self { mode: Mode::Route, why: Some(why.to_owned()) }, Some(listener)));
                }
                Ok(Some(why_not)) => why_not,
                Err(error) => error.to_string(),
            },
        };
        if config.host_ips.is_empty() {
            return Err(RedirectError::Neither(why_not));
        }
        let why = format!("route cannot be had: {why_not}");
        warn!(redirect = Mode::Iptables.as_str(), why, "redirect chosen");
        Ok((Self { mode: Mode::Iptables, why: Some(why) }, None))
    }
}

/// Sets the policy routing up and looks up what becomes of packets that come in by the interfaces there are. Returns why
/// it does not do, and leaves nothing of it then.
async fn prove(config: &config::Redirect, links: &Links) -> Result<Option<String>, RedirectError> {
    let route = Route::new(config.preference, config.table);
    let proved = async {
        route.reconcile(&|| {}).await.map_err(RedirectError::Routing)?;
        let found = detours(&routed_addresses(links).await?).await?;
        Ok(sentence(&found, links))
    }
    .await;
    if !matches!(proved, Ok(None))
        && let Err(error) = route.cleanup().await
    {
        warn!(%error, "policy routing that is not used could not be removed");
    }
    proved
}
