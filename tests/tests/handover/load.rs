//! Pods that ask all the time, over both families, and forgive nothing.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use parking_lot::{Condvar, Mutex};
use rolegate_tests::agent::Agent;
use rolegate_tests::http::Client;
use rolegate_tests::world::RunningPod;

/// Between two requests of a client: two cores run agents beside it.
const PAUSE: Duration = Duration::from_millis(4);

/// Running clients.
pub(crate) struct Load {
    stop: AtomicBool,
    /// Clients that have not stopped yet.
    asking: Mutex<usize>,
    stopped: Condvar,
    /// How many answers each client has had.
    served: Mutex<Vec<usize>>,
    changed: Condvar,
    answered: Mutex<BTreeSet<(String, String)>>,
    failed: Mutex<Vec<String>>,
}

// === impl Load ===

impl Load {
    /// Each pod asks for the credentials of its role while `test` runs, by a client of each family. Returns the access
    /// keys that were answered, by role.
    ///
    /// # Panics
    /// When a connection was refused or lost, or an answer was anything but credentials.
    pub(crate) fn around(
        pods: &[(&RunningPod, &str)],
        test: impl FnOnce(&Self),
    ) -> BTreeSet<(String, String)> {
        struct Stop<'l>(&'l Load);
        impl Drop for Stop<'_> {
            fn drop(&mut self) {
                self.0.stop.store(true, Ordering::Relaxed);
            }
        }
        let load = Self {
            stop: AtomicBool::new(false),
            asking: Mutex::new(2 * pods.len()),
            stopped: Condvar::new(),
            served: Mutex::new(vec![0; 2 * pods.len()]),
            changed: Condvar::new(),
            answered: Mutex::default(),
            failed: Mutex::default(),
        };
        std::thread::scope(|scope| {
            // Also when the test fails: the scope waits for them.
            let _stop = Stop(&load);
            let clients = pods.iter().flat_map(|(pod, role)| [(pod.imds(), *role), (pod.imds_v6(), *role)]);
            for (number, (client, role)) in clients.enumerate() {
                let load = &load;
                scope.spawn(move || load.ask(number, client, role));
            }
            test(&load);
        });
        let failed = load.failed.into_inner();
        let served: usize = load.served.into_inner().iter().sum();
        assert!(failed.is_empty(), "{} failed, {served} were served: {failed:#?}", failed.len());
        load.answered.into_inner()
    }

    fn ask(&self, number: usize, client: Client<'_>, role: &str) {
        let path = format!("/latest/meta-data/iam/security-credentials/{role}");
        while !self.stop.load(Ordering::Relaxed) {
            match credentials(client, &path) {
                Ok(access_key_id) => {
                    self.answered.lock().insert((role.to_owned(), access_key_id));
                    self.served.lock()[number] += 1;
                }
                Err(why) => self.failed.lock().push(format!("client {number}: {why}")),
            }
            self.changed.notify_all();
            std::thread::sleep(PAUSE);
        }
        *self.asking.lock() -= 1;
        self.stopped.notify_all();
    }

    /// Stops the clients, so that their agent may end.
    pub(crate) fn finish(&self) {
        self.stop.store(true, Ordering::Relaxed);
        let mut asking = self.asking.lock();
        self.stopped.wait_while(&mut asking, |asking| *asking > 0);
    }

    /// Waits until each client has had `n` more answers.
    pub(crate) fn served_more(&self, n: usize, agent: &Agent) {
        let mut served = self.served.lock();
        let wanted: Vec<usize> = served.iter().map(|had| had + n).collect();
        let waited = self.changed.wait_while_for(
            &mut served,
            |served| served.iter().zip(&wanted).any(|(had, wanted)| had < wanted),
            Duration::from_secs(30),
        );
        let (timed_out, served) = (waited.timed_out(), served.clone());
        assert!(!timed_out, "{served:?} of {wanted:?}, {:?}\n{}", self.failed.lock(), agent.log());
    }
}

/// The access key of the answer, which is the only good one.
fn credentials(client: Client<'_>, path: &str) -> Result<String, String> {
    let mut open = client.connect().map_err(|error| format!("not connected: {error}"))?;
    let answer = open.exchange(&client.bytes("GET", path, &[])).map_err(|error| format!("lost: {error}"))?;
    let document = answer.json().map_err(|error| format!("{error:#}"))?;
    let key = (document["Code"] == "Success").then(|| document["AccessKeyId"].as_str()).flatten();
    key.map(str::to_owned).ok_or_else(|| format!("{} {document}", answer.status))
}
