use std::time::Duration;

use proptest::prelude::*;
use rolegate_iptables::behind::HardwareAddress;

use super::*;

/// A look at one of few pods, addresses, interfaces and cards, so that they meet.
#[derive(Clone, Debug)]
struct Look {
    pod: u8,
    ip: u8,
    incoming: Option<u32>,
    behind: Option<Behind>,
    fresh: bool,
    /// It is looked at ahead, and does not ask.
    ahead: bool,
    /// When its sandbox was made, relative to now.
    sandbox_age: Option<u64>,
    alive: u8,
}

fn behind(interface: u32, card: Option<u8>) -> Behind {
    Behind {
        interface,
        hardware: card.map(|last| HardwareAddress::new(&[2, 0, 0, 0, 0, last])),
        shared: shared(interface),
        port: (shared(interface) == Shared::Bridge).then_some(20),
    }
}

/// On the first interface, a bridge, pods have cards; the second is nobody's own; others are one pod's.
fn shared(interface: u32) -> Shared {
    match interface {
        1 => Shared::Bridge,
        2 => Shared::Others,
        _ => Shared::Own,
    }
}

fn looks() -> impl Strategy<Value = Vec<Look>> {
    let seen = (
        proptest::option::weighted(0.95, 1..4u32),
        proptest::option::weighted(0.95, (1..4u32, proptest::option::weighted(0.9, 0..2u8))),
    );
    let look = (0..3u8, 0..2u8, seen, 0..4u8, proptest::option::weighted(0.2, 0..20u64), any::<u8>());
    let look = look.prop_map(|(pod, ip, (incoming, at), news, sandbox_age, alive)| Look {
        pod,
        ip,
        incoming,
        behind: at.map(|(interface, card)| behind(interface, card)),
        fresh: news > 1,
        ahead: news == 3,
        sandbox_age,
        // Mostly all are alive.
        alive: if alive < 32 { alive | 1 << pod } else { u8::MAX },
    });
    proptest::collection::vec(look, 1..60)
}

fn uid(pod: u8) -> PodUid {
    PodUid::new(&format!("u{pod}"))
}

fn ip(last: u8) -> PodIp {
    format!("10.1.0.{last}").parse().unwrap()
}

fn at(seconds: u64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(seconds + 1_000)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1_000))]

    /// P17: by what was served so far: whoever is served came in where the address is; who is served
    /// under a UID is who was served under it before, or its sandbox is newer; and without news of the API server nobody
    /// else is served but who was seen while there were some.
    #[test]
    fn nobody_is_served_in_the_place_of_another(looks in looks()) {
        let mut memory = Memory::default();
        // What was served last, and when, by pod and address; only of pods that have not gone.
        let mut served: HashMap<(u8, u8), (Behind, u64)> = HashMap::new();
        // What was seen first, ahead.
        let mut glimpsed: HashMap<(u8, u8), Behind> = HashMap::new();
        for (now, look) in (0u64..).zip(&looks) {
            let seen = Seen { incoming: look.incoming, behind: look.behind.clone() };
            let sandbox = look.sandbox_age.map(|age| at(now) - Duration::from_secs(age));
            let alive = |uid: &PodUid| (0..3).any(|pod| *uid == self::uid(pod) && look.alive & 1 << pod != 0);
            let who = (&uid(look.pod), ip(look.ip));
            if look.ahead {
                if let Some(behind) = &look.behind {
                    memory.glimpse(who.0, who.1, behind.clone());
                    glimpsed.entry((look.pod, look.ip)).or_insert_with(|| behind.clone());
                }
                continue;
            }
            let outcome = memory.settle(who, &seen, look.fresh, at(now), sandbox, alive);
            let before = served.get(&(look.pod, look.ip)).cloned();
            let same = before.as_ref().zip(look.behind.as_ref()).is_some_and(|((was, _), is)| {
                let own = is.shared == Shared::Own && is.hardware.is_none();
                was == is || own && was.interface == is.interface
            });
            let in_place = look.behind.as_ref().is_some_and(|now| Some(now.interface) == look.incoming);
            match outcome {
                Ok(()) => {
                    prop_assert!(in_place);
                    let is = look.behind.clone().unwrap();
                    let newer = before.as_ref().zip(sandbox).is_some_and(|((_, since), made)| made > at(*since));
                    match &before {
                        Some((was, _)) => {
                            let completed = was.interface == is.interface && was.hardware.is_none();
                            prop_assert!(same || newer || completed && look.fresh, "{was:?} {is:?}");
                        }
                        None => {
                            let first = glimpsed.get(&(look.pod, look.ip));
                            let known = first.is_some_and(|first| {
                                let card = is.shared == Shared::Own || first.hardware == is.hardware;
                                first.interface == is.interface && card && is.shared != Shared::Others
                            });
                            prop_assert!(look.fresh || known);
                        }
                    }
                    if !same {
                        served.retain(|(pod, _), _| look.alive & 1 << *pod != 0);
                        glimpsed.retain(|(pod, _), _| look.alive & 1 << *pod != 0);
                        served.insert((look.pod, look.ip), (is, now));
                    }
                }
                // The honest: they are where they were, or nobody was there before them.
                Err(doubt) => prop_assert!(!(in_place && (same || before.is_none() && look.fresh)), "{doubt:?}"),
            }
            prop_assert!(memory.len() <= 3);
        }
    }
}

#[test]
fn each_doubt_has_its_reason() {
    let mut memory = Memory::default();
    let (a, address) = (uid(0), ip(1));
    let seen = |incoming, at| Seen { incoming, behind: at };
    let veth = || Some(behind(7, Some(1)));
    let judge = |memory: &Memory, seen: &Seen, fresh| memory.judge(&a, address, seen, fresh);
    let here = seen(Some(7), veth());
    assert_eq!(judge(&memory, &here, false), Judgement::Doubted(Doubt::Stale));
    assert_eq!(judge(&memory, &here, true), Judgement::First);
    for (odd, doubt) in [
        (seen(None, veth()), Doubt::Unseen),
        (seen(Some(2), veth()), Doubt::WrongInterface),
        (seen(Some(7), None), Doubt::WrongInterface),
    ] {
        assert_eq!(judge(&memory, &odd, true), Judgement::Doubted(doubt));
    }
    memory.settle((&a, address), &here, true, at(10), None, |_| true).unwrap();
    for fresh in [true, false] {
        assert_eq!(judge(&memory, &here, fresh), Judgement::Same);
        assert_eq!(judge(&memory, &seen(Some(7), Some(behind(7, None))), fresh), Judgement::Same);
        for other in [behind(8, Some(1)), behind(7, Some(2))] {
            let other = seen(Some(other.interface), Some(other));
            let mut settle = |sandbox| memory.settle((&a, address), &other, fresh, at(20), sandbox, |_| true);
            assert_eq!(settle(None), Err(Doubt::Changed), "{other:?}");
            assert_eq!(settle(Some(at(10))), Err(Doubt::Changed), "a sandbox that was there then");
        }
    }
    // The other address of the pod, and another pod at the same address, are not the same witness.
    assert_eq!(memory.judge(&a, ip(2), &here, false), Judgement::Doubted(Doubt::Stale));
    assert_eq!(memory.judge(&uid(1), address, &here, false), Judgement::Doubted(Doubt::Stale));
    let again = seen(Some(8), Some(behind(8, Some(2))));
    memory.settle((&a, address), &again, false, at(20), Some(at(11)), |_| true).unwrap();
    assert_eq!(judge(&memory, &again, false), Judgement::Same);
    assert_eq!(judge(&memory, &here, true), Judgement::Other, "the sandbox of before is over");
}

#[test]
fn a_glimpse_lets_in_who_was_there_and_keeps_nobody_out() {
    let (a, address) = (uid(0), ip(1));
    let glimpsed = |at: &Behind| {
        let mut memory = Memory::default();
        memory.glimpse(&a, address, at.clone());
        memory
    };
    let (own, bridge) = (|card| behind(7, card), |card| behind(1, card));
    for (then, now, known) in [
        (own(None), own(Some(1)), true),
        (own(Some(1)), own(Some(2)), true),
        (own(None), behind(8, None), false),
        (behind(2, Some(1)), behind(2, Some(1)), false),
        (bridge(Some(1)), bridge(Some(1)), true),
        (bridge(Some(1)), bridge(Some(2)), false),
        (bridge(None), bridge(Some(1)), false),
        (bridge(None), bridge(None), false),
    ] {
        let memory = glimpsed(&then);
        let seen = Seen { incoming: Some(now.interface), behind: Some(now.clone()) };
        let stale = if known { Judgement::First } else { Judgement::Doubted(Doubt::Stale) };
        assert_eq!(memory.judge(&a, address, &seen, false), stale, "{then:?} {now:?}");
        assert_eq!(memory.judge(&a, address, &seen, true), Judgement::First, "{then:?} {now:?}");
    }
}

/// Some plugins make cards' addresses of pods' own: the port that is held to the address tells them apart.
#[test]
fn another_port_of_a_bridge_is_another_pod_whatever_its_card() {
    let (a, address) = (uid(0), ip(1));
    let behind_port = |port| {
        let behind = Behind { port, ..behind(1, Some(1)) };
        Seen { incoming: Some(1), behind: Some(behind) }
    };
    let (here, elsewhere, unknown) = (behind_port(Some(20)), behind_port(Some(21)), behind_port(None));
    let mut memory = Memory::default();
    memory.settle((&a, address), &here, true, at(10), None, |_| true).unwrap();
    assert_eq!(memory.judge(&a, address, &here, false), Judgement::Same);
    for other in [&elsewhere, &unknown] {
        let settled = memory.settle((&a, address), other, true, at(20), None, |_| true);
        assert_eq!(settled, Err(Doubt::Changed), "{other:?}");
    }
    // What was glimpsed before the port was pinned says nothing, and is looked at again.
    let mut memory = Memory::default();
    for seen in [&unknown, &here] {
        assert!(memory.is_new(&a, address));
        memory.glimpse(&a, address, seen.behind.clone().unwrap());
    }
    assert!(!memory.is_new(&a, address));
    assert_eq!(memory.judge(&a, address, &elsewhere, false), Judgement::Doubted(Doubt::Stale));
    assert_eq!(memory.judge(&a, address, &here, false), Judgement::First);
}

#[test]
fn pods_that_have_gone_are_forgotten() {
    let mut memory = Memory::default();
    for pod in 0..200 {
        let seen = Seen { incoming: Some(7), behind: Some(behind(7, Some(pod))) };
        let alive =
            |uid: &PodUid| *uid == self::uid(pod) || Some(uid) == pod.checked_sub(1).map(self::uid).as_ref();
        memory.settle((&uid(pod), ip(pod)), &seen, true, at(0), None, alive).unwrap();
        assert!(memory.len() <= 2);
    }
}
