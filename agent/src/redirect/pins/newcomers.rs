//! Pods that are new on links of their own are believed at once: a look asks about everybody, and comes later.
//!
//! Whoever is new is asked about alone, and believed if behind its link is nobody else: what the next look would say. Of
//! bridges, and of whatever it cannot tell, a look alone decides.

use std::collections::HashMap;
use std::io;
use std::net::IpAddr;
use std::sync::Arc;

use parking_lot::Mutex;
use rolegate_iptables::behind::{Behind, Questions, Shared};
use tokio::sync::{Notify, watch};
use tokio::task::spawn_blocking;
use tracing::warn;

use super::super::notices::routed_addresses;
use crate::cluster::snapshot::Snapshot;
use crate::identity::{Standing, Standings};
use crate::types::PodIp;

/// Where everybody stands, as looks and newcomers say.
pub(super) struct Board {
    standings: watch::Sender<Arc<Standings>>,
    links: Mutex<Links>,
    /// A look is over: who came back while it asked about everybody else is new.
    over: Notify,
}

/// The link of each pod's address.
#[derive(Debug, Default)]
struct Links {
    /// As the last look saw them; before the first nobody is new.
    looked: Option<HashMap<IpAddr, u32>>,
    /// Those who came after the present look, or the last one, began.
    new: HashMap<IpAddr, u32>,
}

// === impl Board ===

impl Board {
    /// Nobody is believed yet, unless all are.
    pub(super) fn new(others_believed: bool) -> Self {
        let standings = Standings { others_believed, ..Standings::default() };
        Self {
            standings: watch::channel(Arc::new(standings)).0,
            links: Mutex::default(),
            over: Notify::new(),
        }
    }

    pub(super) fn subscribe(&self) -> watch::Receiver<Arc<Standings>> {
        self.standings.subscribe()
    }

    pub(super) fn standings(&self) -> Arc<Standings> {
        Arc::clone(&self.standings.borrow())
    }

    /// A look begins that knows all who have come.
    pub(super) fn look_begins(&self) {
        self.links.lock().new.clear();
    }

    /// What a look saw of links: newcomers are compared with it.
    pub(super) fn looked(&self, routed: &HashMap<IpAddr, u32>) {
        let mut links = self.links.lock();
        links.looked = Some(routed.clone());
        links.new.retain(|address, link| {
            !routed.contains_key(address) && behind_too(routed, *address, *link).next().is_none()
        });
    }

    /// Links could not be read: nobody is new until they are.
    pub(super) fn blind(&self) {
        *self.links.lock() = Links::default();
        self.publish(HashMap::new());
    }

    /// What a look says, and who came meanwhile.
    pub(super) fn publish(&self, mut of: HashMap<PodIp, Standing>) {
        for address in self.links.lock().new.keys() {
            of.entry(PodIp::new(*address)).or_insert(Standing::Believed);
        }
        self.standings.send_if_modified(|standings| {
            let new = Standings { others_believed: standings.others_believed, of };
            let differ = **standings != new;
            *standings = Arc::new(new);
            differ
        });
    }

    /// A look is over, and everything that it says is published.
    pub(super) fn look_ends(&self) {
        self.over.notify_one();
    }

    /// Believes pods that are new, for as long as it is polled.
    ///
    /// # Errors
    /// When the kernel cannot be talked to.
    pub(super) async fn welcome(&self, mut pods: watch::Receiver<Arc<Snapshot>>) -> io::Result<()> {
        let questions = Arc::new(Mutex::new(Questions::new()?));
        loop {
            tokio::select! {
                changed = pods.changed() => if changed.is_err() { return Ok(()) },
                () = self.over.notified() => {}
            }
            let addresses = routed_addresses(&pods.borrow_and_update());
            let known = self.standings();
            for address in
                addresses.into_iter().filter(|address| !known.of.contains_key(&PodIp::new(*address)))
            {
                let questions = Arc::clone(&questions);
                // Whoever changes links may have it wait.
                let behind = spawn_blocking(move || questions.lock().behind(address)).await;
                match behind.map_err(io::Error::other).flatten() {
                    Ok(Some(known)) => self.meet(address, known.behind()),
                    Ok(None) => {}
                    Err(error) => {
                        warn!(%error, %address, "the kernel does not say what is behind a new address")
                    }
                }
            }
        }
    }

    /// Who shares a link with a newcomer is doubted with it, until a look has said where both stand.
    fn meet(&self, address: IpAddr, behind: &Behind) {
        if behind.shared != Shared::Own {
            return;
        }
        let Some(others) = self.links.lock().admit(address, behind.interface) else { return };
        let mut of = self.standings().of.clone();
        of.retain(|ip, _| !others.contains(&ip.addr()));
        self.publish(of);
    }
}

// === impl Links ===

impl Links {
    /// Whom else the address shares its link with, and nobody of them is new any more; if nobody, it is. `None` before the
    /// first look.
    fn admit(&mut self, address: IpAddr, link: u32) -> Option<Vec<IpAddr>> {
        let others: Vec<_> = behind_too(self.looked.as_ref()?, address, link)
            .chain(behind_too(&self.new, address, link))
            .collect();
        self.new.retain(|other, _| !others.contains(other));
        if others.is_empty() {
            self.new.insert(address, link);
        }
        Some(others)
    }
}

/// The other addresses of the same family behind the link.
fn behind_too(
    routed: &HashMap<IpAddr, u32>,
    address: IpAddr,
    link: u32,
) -> impl Iterator<Item = IpAddr> + '_ {
    let others = routed.iter().filter(move |(other, at)| **at == link && **other != address);
    others.map(|(other, _)| *other).filter(move |other| other.is_ipv4() == address.is_ipv4())
}

#[cfg(test)]
mod tests {
    use super::*;

    const LINK: u32 = 7;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn behind(interface: u32, shared: Shared) -> Behind {
        Behind { interface, hardware: None, shared, port: None }
    }

    fn after_a_look(routed: &[(&str, u32)]) -> Board {
        let board = Board::new(false);
        let routed: HashMap<_, _> = routed.iter().map(|(address, link)| (ip(address), *link)).collect();
        board.look_begins();
        board.looked(&routed);
        board.publish(routed.keys().map(|address| (PodIp::new(*address), Standing::Believed)).collect());
        board
    }

    fn believed(board: &Board, address: &str) -> bool {
        board.standings().of.get(&PodIp::new(ip(address))) == Some(&Standing::Believed)
    }

    #[test]
    fn a_newcomer_on_a_link_of_its_own_is_believed_with_both_its_addresses() {
        let board = after_a_look(&[("10.1.0.1", 3)]);
        board.meet(ip("10.1.0.2"), &behind(LINK, Shared::Own));
        board.meet(ip("fd00::2"), &behind(LINK, Shared::Own));
        assert!(believed(&board, "10.1.0.2") && believed(&board, "fd00::2") && believed(&board, "10.1.0.1"));
    }

    #[test]
    fn a_newcomer_whose_link_is_anothers_too_or_not_a_pods_is_not() {
        let board = after_a_look(&[("10.1.0.1", 3)]);
        board.meet(ip("10.1.0.2"), &behind(3, Shared::Own));
        board.meet(ip("10.1.0.3"), &behind(LINK, Shared::Bridge));
        board.meet(ip("10.1.0.4"), &behind(LINK, Shared::Others));
        board.meet(ip("10.1.0.5"), &behind(LINK, Shared::Own));
        board.meet(ip("10.1.0.6"), &behind(LINK, Shared::Own));
        for address in ["10.1.0.2", "10.1.0.3", "10.1.0.4", "10.1.0.5", "10.1.0.6"] {
            assert!(!believed(&board, address), "{address}");
        }
        assert!(!believed(&board, "10.1.0.1"), "a newcomer is behind its link, too");
    }

    #[test]
    fn nobody_is_new_before_the_first_look() {
        let board = Board::new(false);
        board.meet(ip("10.1.0.2"), &behind(LINK, Shared::Own));
        assert!(!believed(&board, "10.1.0.2"));
    }

    #[test]
    fn who_comes_during_a_look_is_kept_unless_the_look_saw_otherwise() {
        let board = after_a_look(&[]);
        board.look_begins();
        board.meet(ip("10.1.0.2"), &behind(LINK, Shared::Own));
        board.meet(ip("10.1.0.3"), &behind(8, Shared::Own));
        board.looked(&[(ip("10.1.0.9"), 8)].into());
        board.publish(HashMap::new());
        assert!(believed(&board, "10.1.0.2"));
        assert!(!believed(&board, "10.1.0.3"), "the look saw another on its link");

        // The next look knows of it, and says that it has gone.
        board.look_begins();
        board.looked(&HashMap::new());
        board.publish(HashMap::new());
        assert!(!believed(&board, "10.1.0.2"));
    }

    #[test]
    fn nobody_is_believed_where_links_cannot_be_read() {
        let board = after_a_look(&[("10.1.0.1", 3)]);
        board.meet(ip("10.1.0.2"), &behind(LINK, Shared::Own));
        board.blind();
        board.meet(ip("10.1.0.3"), &behind(8, Shared::Own));
        assert!(board.standings().of.is_empty());
    }
}
