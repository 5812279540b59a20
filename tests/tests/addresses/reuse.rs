//! Addresses in time: known after the pod, and another pod's at once after its end.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use parking_lot::Mutex;
use rolegate_tests::http::Client;
use rolegate_tests::world::{TRUST, arn};

use crate::scene::{Is, LIST, Scene, listed, texts, v4, v6};

#[test]
fn pod_is_served_once_its_address_is_known_also_to_a_request_that_waits() {
    let Some(mut scene) =
        Scene::set("pod_is_served_once_its_address_is_known_also_to_a_request_that_waits", &[])
    else {
        return;
    };
    let held = "rolegate_identity_held_total{outcome=\"answered\"}";
    // Several attempts, since a loaded machine may bring the event after the agent has given up.
    let answered = (0..10).any(|attempt| {
        let net = scene.net();
        let name = format!("early{attempt}");
        scene.apply(&name, Is::Pending, "MyPodRole", &[]);
        scene.settle();
        std::thread::scope(|scope| {
            let asked = scope.spawn(|| listed(v4(&net)));
            let open = || Ok(asked.is_finished() || scene.agent.metric("rolegate_connections_open")? >= 1.0);
            scene.agent.poll("the request is open", open).unwrap();
            scene.apply(&name, Is::Live, "MyPodRole", &texts(&net.ips()));
            let list = asked.join().unwrap();
            assert!(matches!(list.as_deref(), Ok("MyPodRole") | Err(500)), "{list:?}");
        });
        scene.settle();
        scene.expect("its address is known", v4(&net), Some("MyPodRole"));
        scene.agent.metric(held).unwrap() >= 1.0
    });
    assert!(answered, "no request was held and answered: {}", scene.agent.log());
}

/// How often the address changes hands.
const GENERATIONS: usize = 40;

/// What was seen of the pods that had one address, each with a role of its own: `Gen0`, `Gen1`, ...
#[derive(Default)]
struct Seen {
    /// The address is this one's or a later one's.
    least: AtomicUsize,
    /// Credentials of so many have been seen.
    issued: Mutex<BTreeSet<usize>>,
    requests: AtomicUsize,
    ended: AtomicBool,
}

/// Ends what watches, also where a test fails.
struct Ending<'a>(&'a AtomicBool);

impl Drop for Ending<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

impl Seen {
    /// Asks for list and document until the end; nothing that was seen to be over comes back.
    fn watch(&self, scene: &Scene, client: Client<'_>) {
        while !self.ended.load(Ordering::SeqCst) {
            let least = self.least.load(Ordering::SeqCst);
            let list = listed(client);
            self.requests.fetch_add(1, Ordering::SeqCst);
            let generation: usize = match list.as_deref() {
                Ok(name) => name.strip_prefix("Gen").unwrap_or_else(|| panic!("{name}")).parse().unwrap(),
                Err(status) => {
                    assert_eq!(*status, 500);
                    continue;
                }
            };
            assert!(generation >= least, "{generation} is back after {least}: {}", scene.agent.log());
            self.least.fetch_max(generation, Ordering::SeqCst);
            let least = self.least.load(Ordering::SeqCst);
            let document = client.get(&format!("{LIST}Gen{generation}")).unwrap();
            // 404: the address is another pod's already. 500: it is nobody's, or the session was not there in time.
            assert!([200, 404, 500].contains(&document.status), "{document:?}");
            if document.status == 200 {
                assert!(
                    generation >= least,
                    "credentials of {generation} after {least}: {}",
                    scene.agent.log()
                );
                assert_eq!(scene.role_of(&document), Some(arn(&format!("Gen{generation}"))));
                self.issued.lock().insert(generation);
            }
        }
    }
}

/// Requests over both families all the while, and another pod's beside them, as the address goes from pod to pod without
/// a pause: by deletion, and with both there for a moment.
#[test]
fn address_reused_at_once_never_gives_an_earlier_pods_role() {
    let test = "address_reused_at_once_never_gives_an_earlier_pods_role";
    let Some(mut scene) = Scene::set(test, &[]) else { return };
    for generation in 0..GENERATIONS {
        scene.world.role(&format!("Gen{generation}"), TRUST).unwrap();
    }
    let net = scene.net();
    scene.settle();
    let (scene, seen) = (&scene, &Seen::default());
    let ips = texts(&net.ips());
    let apply = |generation: usize, is| {
        scene.apply(&format!("gen{generation}"), is, &format!("Gen{generation}"), &ips);
    };
    apply(0, Is::Live);
    std::thread::scope(|scope| {
        let _end = Ending(&seen.ended);
        let watching =
            [v4(&net), v6(&net), v4(&net)].map(|client| scope.spawn(move || seen.watch(scene, client)));
        let until = |what: &str, wanted: &dyn Fn() -> bool| {
            let failed = || watching.iter().any(std::thread::ScopedJoinHandle::is_finished);
            scene.agent.poll(what, || Ok(wanted() || failed())).unwrap();
        };
        for generation in 1..GENERATIONS {
            let before = generation - 1;
            until("the one before is seen", &|| seen.least.load(Ordering::SeqCst) >= before);
            if generation % 4 == 0 {
                // As it is mostly: credentials were used.
                until("its session is used", &|| seen.issued.lock().contains(&before));
            }
            let old = format!("gen{before}");
            match generation % 3 {
                0 => {
                    scene.delete(&old);
                    apply(generation, Is::Live);
                }
                1 => {
                    apply(before, Is::Terminating);
                    apply(generation, Is::Live);
                    scene.delete(&old);
                }
                _ => {
                    apply(generation, Is::Live);
                    scene.delete(&old);
                }
            }
        }
        until("the last is served", &|| seen.issued.lock().contains(&(GENERATIONS - 1)));
        seen.ended.store(true, Ordering::SeqCst);
        for thread in watching {
            thread.join().unwrap();
        }
    });
    assert!(seen.requests.load(Ordering::SeqCst) > GENERATIONS, "requests went on all the while");
    assert!(seen.issued.lock().len() >= GENERATIONS / 4, "{:?}", seen.issued.lock());
}
