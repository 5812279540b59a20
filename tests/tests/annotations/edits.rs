//! Annotations edited while pods ask: each answer is right for a state that was in force during its request, and once
//! the agent has seen an edit, for no earlier one.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use rolegate_tests::agent::Agent;
use rolegate_tests::kube_api::Pod;
use rolegate_tests::sts::Fault;
use rolegate_tests::world::{TRUST, arn};
use tokio::time::Instant;

use crate::lab::{ALLOWED_ROLES, EXTERNAL_ID_KEY, Lab, REFUSED, Row, Wrong};
use crate::table;

/// Threads that ask for each pod.
const ASKERS: usize = 2;
/// How often each pod's annotations go through all of their states.
const ROUNDS: usize = 4;
/// After as many 500s something is wrong.
const TRIES: usize = 10;
/// Of STS, so that edits fall into its calls.
const STS_DELAY: Duration = Duration::from_millis(20);

/// States, each in force from the moment before it was written until the moment when its successor was seen.
struct Timeline<S>(Mutex<Vec<(S, Instant, Option<Instant>)>>);

/// What a pod is, while some state is in force.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Is {
    /// What its role list says; nothing: it has no role.
    listed: Option<&'static str>,
    served: bool,
    external_id: Option<String>,
}

/// What a request for a document got.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Got {
    /// Credentials of the role with this ARN, got with this external id.
    Session(String, Option<String>),
    Refused,
    Status(u16),
}

// === impl Timeline ===

impl<S: Clone> Timeline<S> {
    fn starting(state: S) -> Self {
        Self(Mutex::new(vec![(state, Instant::now(), None)]))
    }

    /// Has `write` write the next state, and waits until `seen` has seen it.
    fn next(&self, state: S, write: impl FnOnce(), seen: impl FnOnce()) {
        self.0.lock().push((state, Instant::now(), None));
        write();
        seen();
        let (now, mut states) = (Instant::now(), self.0.lock());
        let before = states.len() - 1;
        states[..before].iter_mut().for_each(|(_, _, until)| {
            until.get_or_insert(now);
        });
    }

    /// The states that a request which began then, and has just ended, may have met.
    fn since(&self, began: Instant) -> Vec<S> {
        let states = self.0.lock();
        states
            .iter()
            .filter(|(.., until)| until.is_none_or(|it| it >= began))
            .map(|it| it.0.clone())
            .collect()
    }
}

// === impl Is ===

impl Is {
    fn served(listed: &'static str) -> Self {
        Self { listed: Some(listed), served: true, external_id: None }
    }

    fn refused(listed: &'static str) -> Self {
        Self { served: false, ..Self::served(listed) }
    }

    fn nothing() -> Self {
        Self { listed: None, served: false, external_id: None }
    }

    /// Whether a request for the document of `asked` may get this.
    fn gives(&self, asked: &str, got: &Got) -> bool {
        match got {
            Got::Session(role, external_id) => {
                self.served
                    && self.listed == Some(asked)
                    && *role == arn(asked)
                    && *external_id == self.external_id
            }
            Got::Refused => !self.served && self.listed == Some(asked),
            Got::Status(404) => self.listed != Some(asked),
            Got::Status(_) => false,
        }
    }
}

fn ask(lab: &Lab, row: &Row, asked: &str) -> Got {
    let Ok(answer) = row.document(asked) else { return Got::Status(0) };
    let document = answer.json().unwrap_or_default();
    let issued = document["AccessKeyId"].as_str().and_then(|key| lab.world.sts.issued(key));
    match issued {
        Some(issued) if answer.status == 200 => Got::Session(issued.role, issued.external_id),
        _ if document["Code"] == REFUSED => Got::Refused,
        _ => Got::Status(answer.status),
    }
}

/// Asks in turn for the list and for these documents, until `done`; how often it was served, and refused.
fn keep_asking(
    lab: &Lab,
    row: &Row,
    names: &[&str],
    states: &Timeline<Is>,
    done: &AtomicBool,
    wrong: &Wrong,
) -> (usize, usize) {
    let (mut served, mut refused) = (0, 0);
    while !done.load(Ordering::Relaxed) {
        let began = Instant::now();
        let list = row.list();
        let met = states.since(began);
        let right = list.as_ref().is_ok_and(|list| match list.status {
            200 => met.iter().any(|state| state.listed.is_some_and(|name| name.as_bytes() == list.body)),
            404 => met.iter().any(|state| state.listed.is_none()),
            _ => false,
        });
        wrong.unless(right, (&row.name, "list", &met), &list);
        for asked in names {
            let began = Instant::now();
            let mut got = ask(lab, row, asked);
            // Nobody is edited, and STS takes longer than a request is held: this machine is busy.
            for _ in 0..TRIES {
                if got == Got::Status(500) && states.since(began).len() == 1 {
                    got = ask(lab, row, asked);
                }
            }
            let met = states.since(began);
            // What changes while STS answers is 500, and not credentials.
            let moved = got == Got::Status(500) && met.len() > 1;
            let right = moved || met.iter().any(|state| state.gives(asked, &got));
            wrong.unless(right, (&row.name, asked, &met), &got);
            served += usize::from(matches!(got, Got::Session(..)));
            refused += usize::from(got == Got::Refused);
        }
    }
    (served, refused)
}

/// Does `edits` while [`ASKERS`] threads ask for each of these pods; how often they were served, and refused.
fn while_asked(
    lab: &Lab,
    pods: &[(&Row, &Timeline<Is>)],
    names: &[&str],
    edits: impl FnOnce(),
) -> (usize, usize) {
    let (wrong, done) = (Wrong::default(), AtomicBool::new(false));
    let ask = |row, states| keep_asking(lab, row, names, states, &done, &wrong);
    let answers = std::thread::scope(|scope| {
        let asker = |(row, states)| scope.spawn(move || ask(row, states));
        let askers: Vec<_> = (0..ASKERS).flat_map(|_| pods.iter().copied().map(asker)).collect();
        edits();
        done.store(true, Ordering::Relaxed);
        let answers = askers.into_iter().map(|asker| asker.join().unwrap());
        answers.fold((0, 0), |sum, one| (sum.0 + one.0, sum.1 + one.1))
    });
    println!("served and refused: {answers:?}");
    wrong.none();
    answers
}

/// Waits until the pod's role list says what that state says.
fn lists(agent: &Agent, row: &Row, state: &Is) {
    let said = || {
        let list = row.list()?;
        Ok(state.listed.map_or(list.status == 404, |name| list.status == 200 && list.text() == name))
    };
    agent.poll(&format!("{} lists {:?}", row.name, state.listed), said).unwrap();
}

fn set_up(test: &str) -> Option<Lab> {
    let lab = Lab::new(test)?;
    lab.namespace("default", &[(ALLOWED_ROLES, r#"["MyPodRole", "OtherRole"]"#)]);
    Some(lab)
}

/// P21: a role that is written into a running pod's annotation is given at the next request, and only if its namespace's
/// list has it; never one that was not in force.
#[test]
fn role_edited_in_a_loop_is_answered_as_it_stands_and_never_past_the_list() {
    let test = "role_edited_in_a_loop_is_answered_as_it_stands_and_never_past_the_list";
    let Some(lab) = set_up(test) else { return };
    lab.world.role("Forbidden", TRUST).unwrap();
    let states = [
        ("MyPodRole", Is::served("MyPodRole")),
        ("OtherRole", Is::served("OtherRole")),
        ("Forbidden", Is::refused("Forbidden")),
        ("arn:x", Is::refused("malformed-role")),
        ("", Is::nothing()),
    ];
    let rows = ["a", "b", "c"].map(|name| lab.row("default", name, |pod| pod.role("MyPodRole")));
    let agent = lab.world.agent(&[]).unwrap();
    let timelines = [(); 3].map(|()| Timeline::starting(Is::served("MyPodRole")));
    let pods: Vec<_> = rows.iter().zip(&timelines).collect();
    let names = ["MyPodRole", "OtherRole", "Forbidden", "malformed-role"];
    let (served, refused) = while_asked(&lab, &pods, &names, || {
        for n in 1..=ROUNDS * states.len() {
            for (at, (row, timeline)) in pods.iter().enumerate() {
                // Each pod is somewhere else.
                let (role, state) = &states[(n * (at + 1)) % states.len()];
                let write = || drop(lab.edit(row, |pod| pod.role(role)));
                timeline.next(state.clone(), write, || lists(&agent, row, state));
            }
        }
    });
    assert!(served > 0 && refused > 0, "{served} {refused}");
    let asked = lab.asked_roles();
    assert!(!asked.contains(&arn("Forbidden")), "{asked:?}");
}

/// P34: what a list permits holds for the next request, in both directions, whatever is cached; a broken list permits
/// nothing while it is broken.
#[test]
fn list_narrowed_widened_broken_and_mended_in_a_loop_is_obeyed_at_once() {
    let test = "list_narrowed_widened_broken_and_mended_in_a_loop_is_obeyed_at_once";
    let Some(lab) = set_up(test) else { return };
    // In this order each differs from the one before for one of the two pods.
    let lists: [(Option<&str>, bool, bool); 7] = [
        (Some(r#"["MyPodRole"]"#), true, false),
        (Some(r#"["OtherRole"]"#), false, true),
        (Some(r#"["MyPodRole", "OtherRole", 5]"#), false, false),
        (Some(r#"["*"]"#), true, true),
        (None, false, false),
        (Some(r#"["MyPodRole", "OtherRole"]"#), true, true),
        (Some(r#"["MyPodRole", "OtherRole""#), false, false),
    ];
    lab.world.role("x/Never", TRUST).unwrap();
    let [mine, other] = ["MyPodRole", "OtherRole"].map(|role| lab.row("team", role, |pod| pod.role(role)));
    let never = lab.row("team", "never", |pod| pod.role("x/Never"));
    lab.namespace("team", &[(ALLOWED_ROLES, r#"["MyPodRole", "OtherRole"]"#)]);
    let agent = lab.world.agent(&[]).unwrap();
    let is = |name, served| if served { Is::served(name) } else { Is::refused(name) };
    let [of_mine, of_other] = ["MyPodRole", "OtherRole"].map(|name| Timeline::starting(is(name, true)));
    let of_never = Timeline::starting(is("Never", false));
    let pods = [(&mine, &of_mine), (&other, &of_other), (&never, &of_never)];
    let (served, refused) = while_asked(&lab, &pods, &["MyPodRole", "OtherRole", "Never"], || {
        for _ in 0..ROUNDS {
            for (list, serves_mine, serves_other) in lists {
                let annotations: Vec<_> = list.map(|list| (ALLOWED_ROLES, list)).into_iter().collect();
                let code = |served| if served { "Success" } else { REFUSED };
                let seen = || {
                    let as_told = || {
                        Ok(mine.code("MyPodRole")? == code(serves_mine)
                            && other.code("OtherRole")? == code(serves_other))
                    };
                    agent.poll(&format!("{list:?}"), as_told).unwrap();
                };
                let both = || {
                    of_other.next(is("OtherRole", serves_other), || lab.namespace("team", &annotations), seen)
                };
                of_mine.next(is("MyPodRole", serves_mine), || {}, both);
            }
        }
    });
    assert!(served > 0 && refused > 0, "{served} {refused}");
    let asked = lab.asked_roles();
    assert!(!asked.contains(&arn("x/Never")), "{asked:?}");
}

/// P19: role and external id of one request are of one state of the pod: no call to STS has the role of one and the
/// external id of the next.
#[test]
fn role_and_external_id_edited_together_are_read_together() {
    let Some(lab) = set_up("role_and_external_id_edited_together_are_read_together") else { return };
    let state = |n: usize| {
        let role = ["MyPodRole", "OtherRole"][n % 2];
        Is { external_id: Some(format!("{role}-{n}")), ..Is::served(role) }
    };
    let shape = |state: &Is, pod: Pod| {
        let pod = pod.role(state.listed.unwrap());
        pod.annotation(EXTERNAL_ID_KEY, state.external_id.as_deref().unwrap())
    };
    let row = lab.row("default", "edited", |pod| shape(&state(0), pod));
    let agent = lab.world.agent(&[]).unwrap();
    lab.world.sts.faults().every(Some(Fault::Delay(STS_DELAY)));
    let timeline = Timeline::starting(state(0));
    let (served, _) = while_asked(&lab, &[(&row, &timeline)], &["MyPodRole", "OtherRole"], || {
        for n in 1..=5 * ROUNDS {
            let next = state(n);
            let write = || drop(lab.edit(&row, |pod| shape(&next, pod)));
            timeline.next(next.clone(), write, || lists(&agent, &row, &next));
            // The next edit falls into the call for this one, or comes after it.
            if n % 2 == 0 {
                table::served(&agent, &row, "MyPodRole");
            }
        }
    });
    assert!(served > 0);
    for call in lab.world.sts.calls().iter().filter(|call| call.action == "AssumeRole") {
        let role = call.role.rsplit('/').next().unwrap();
        assert!(call.external_id.as_ref().is_some_and(|id| id.starts_with(role)), "{call:?}");
    }
}

/// P21: with `--pin-roles` an edit never yields another role within the pod's UID, and the role that is kept still has to
/// pass its namespace's list.
#[test]
fn pinned_role_outlives_any_edit_and_not_its_list() {
    let Some(lab) = set_up("pinned_role_outlives_any_edit_and_not_its_list") else { return };
    let rows = [
        ("edited", "MyPodRole", Is::served("MyPodRole")),
        ("forbidden", "Forbidden", Is::refused("Forbidden")),
        ("malformed", "arn:x", Is::refused("malformed-role")),
        ("none", "", Is::nothing()),
    ];
    let pods: Vec<_> = rows
        .iter()
        .map(|(name, role, state)| {
            (lab.row("default", name, |pod| pod.role(role)), Timeline::starting(state.clone()))
        })
        .collect();
    let later = lab.next_address();
    let agent = lab.world.agent(&["--pin-roles"]).unwrap();
    let asked: Vec<_> = pods.iter().map(|(row, timeline)| (row, timeline)).collect();
    let names = ["MyPodRole", "OtherRole", "Forbidden", "malformed-role"];
    let (served, refused) = while_asked(&lab, &asked, &names, || {
        for (n, role) in ["OtherRole", "Forbidden", "", "arn:y"].iter().cycle().take(4 * ROUNDS).enumerate() {
            for (row, _) in &pods {
                lab.edit(row, |pod| pod.role(role).annotation(EXTERNAL_ID_KEY, "tenant-1"));
            }
            // What was written before another pod was made has been seen when that pod has.
            let last = lab.row_at(later, "default", &format!("later-{n}"), |pod| pod.role("OtherRole"));
            lists(&agent, &last, &Is::served("OtherRole"));
            lab.delete(&last);
            for (row, timeline) in &pods {
                lists(&agent, row, &timeline.since(Instant::now())[0]);
            }
            // A list of all pods says nothing new of them either.
            if let Ok(api) = lab.world.cluster.double() {
                api.faults().expire();
            }
        }
    });
    assert!(served > 0 && refused > 0, "{served} {refused}");
    let edited = &pods[0].0;
    lab.namespace("default", &[(ALLOWED_ROLES, r#"["OtherRole"]"#)]);
    agent.poll("the kept role is not in the list", || Ok(edited.code("MyPodRole")? == REFUSED)).unwrap();

    // Made again it is another pod.
    lab.delete(edited);
    let again = lab.row_at(edited.ip(), "default", "edited", |pod| pod.role("OtherRole"));
    assert_ne!(again.uid, edited.uid);
    lists(&agent, &again, &Is::served("OtherRole"));
    table::served(&agent, &again, "OtherRole");
}
