//! How a table is run: all rows at once beside a neighbour that must be served all the time, then what was written
//! of each of them.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, Ordering};

use regex::Regex;
use rolegate_tests::agent::{Agent, Line};
use rolegate_tests::world::{NODE_ROLE, arn};

use crate::lab::{Lab, REFUSED, Row, Wrong};

/// Longest line of a log that an annotation may cause, in bytes: a message of 1024 and the fields around it.
const LONGEST_LINE_BYTES: usize = 4_096;
/// Every row is asked so often; its refusal is written once.
const TIMES: usize = 2;
/// Of the pod that is served all the time, in a namespace that a row's pod may share.
pub(crate) const NEIGHBOUR: &str = "neighbour";

/// What a pod gets.
#[derive(Clone, Debug)]
pub(crate) enum Gets {
    /// 404: it has no role.
    NoRole,
    /// A document that says why not.
    Refused {
        /// What its role list says.
        listed: &'static str,
        /// The word for metrics and logs.
        reason: &'static str,
        /// Part of the document's message.
        says: &'static str,
    },
    /// Credentials of the role with this whole ARN.
    Served(String),
    /// 401 to a request without a token.
    TokenRequired,
}

/// An annotation of a namespace that is reported as malformed: which, and part of what is said of it.
pub(crate) type Malformed = Option<(&'static str, &'static str)>;

// === impl Gets ===

impl Gets {
    pub(crate) fn role(name: &str) -> Self {
        Self::Served(arn(name))
    }

    fn reason(&self) -> Option<&'static str> {
        match self {
            Self::Refused { reason, .. } => Some(reason),
            Self::NoRole | Self::Served(_) | Self::TokenRequired => None,
        }
    }
}

/// Asks for every row, while the neighbour (a pod of `MyPodRole`) is served; then reads what was reported.
pub(crate) fn run(lab: &Lab, agent: Agent, neighbour: &Row, rows: &[(Row, Gets, Malformed)]) {
    println!("{} rows", rows.len());
    let wrong = Wrong::default();
    served(&agent, neighbour, "MyPodRole");
    for (row, gets, _) in rows {
        if let Gets::Served(arn) = gets {
            served(&agent, row, arn.rsplit('/').next().unwrap_or_default());
        }
    }
    beside(neighbour, &wrong, || {
        for (row, gets, _) in rows {
            for _ in 0..TIMES {
                ask(lab, row, gets, &wrong);
            }
        }
    });
    metrics(&agent, rows, &wrong);
    let asked: BTreeSet<String> = lab.asked_roles().into_iter().collect();
    let mut may: BTreeSet<String> = BTreeSet::from([arn("MyPodRole")]);
    may.extend(rows.iter().filter_map(|(_, gets, _)| match gets {
        Gets::Served(arn) => Some(arn.clone()),
        _ => None,
    }));
    wrong.unless(asked.is_subset(&may), "STS was asked for", asked.difference(&may));
    // Everything is written when it has ended.
    agent.sigterm().unwrap();
    agent.wait().unwrap();
    log(&agent.lines(), rows, &wrong);
    wrong.none();
}

/// Waits until the pod has credentials: the first call for them may take this machine longer than a request is held.
pub(crate) fn served(agent: &Agent, row: &Row, role: &str) {
    let what = format!("{}/{} is served", row.namespace, row.name);
    agent.poll(&what, || Ok(row.code(role).is_ok_and(|code| code == "Success"))).unwrap();
}

/// Does `work` while the neighbour asks in a loop: it must get credentials each time.
pub(crate) fn beside(neighbour: &Row, wrong: &Wrong, work: impl FnOnce()) {
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                let code = neighbour.code("MyPodRole");
                wrong.unless(code.as_ref().is_ok_and(|code| code == "Success"), NEIGHBOUR, &code);
                // A pod that asks without a pause tells no more, and has no more of two cores.
                std::thread::sleep(std::time::Duration::from_millis(5));
            }
        });
        work();
        done.store(true, Ordering::Relaxed);
    });
}

fn ask(lab: &Lab, row: &Row, gets: &Gets, wrong: &Wrong) {
    let name = &row.name;
    let list = row.list();
    let is = |status: u16, body: &str| {
        list.as_ref().is_ok_and(|list| list.status == status && list.body == body.as_bytes())
    };
    match gets {
        Gets::NoRole => {
            wrong.unless(is(404, ""), (name, "list"), &list);
            for asked in ["MyPodRole", "malformed-role"] {
                let document = row.document(asked);
                wrong.unless(document.as_ref().is_ok_and(|it| it.status == 404), (name, asked), &document);
            }
        }
        Gets::TokenRequired => wrong.unless(is(401, ""), (name, "list"), &list),
        Gets::Served(arn) => {
            let listed = arn.rsplit('/').next().unwrap_or_default();
            wrong.unless(is(200, listed), (name, "list"), &list);
            let document =
                row.document(listed).ok().and_then(|answer| answer.json().ok()).unwrap_or_default();
            let issued = document["AccessKeyId"].as_str().and_then(|key| lab.world.sts.issued(key));
            wrong.unless(issued.as_ref().is_some_and(|it| it.role == *arn), (name, arn), &document);
        }
        Gets::Refused { listed, says, .. } => {
            wrong.unless(is(200, listed), (name, "list"), &list);
            refused(row, listed, says, wrong);
        }
    }
}

fn refused(row: &Row, listed: &str, says: &str, wrong: &Wrong) {
    let name = &row.name;
    let document = row.document(listed).ok().and_then(|answer| answer.json().ok()).unwrap_or_default();
    wrong.unless(document["Code"] == REFUSED, (name, "Code"), &document);
    wrong.unless(document.get("AccessKeyId").is_none(), (name, "keys"), &document);
    let message = document["Message"].as_str().unwrap_or_default();
    wrong.unless(message.contains(says), (name, says), message);
    wrong.unless(message.contains(&*row.namespace), (name, "namespace"), message);
    wrong.unless(is_tame(message, 1_024), (name, "Message"), message);
    for other in ["OtherRole", NODE_ROLE].into_iter().filter(|other| *other != listed) {
        let answer = row.document(other);
        wrong.unless(answer.as_ref().is_ok_and(|it| it.status == 404), (name, other), &answer);
    }
    let info = row.get("/latest/meta-data/iam/info");
    wrong.unless(info.as_ref().is_ok_and(|info| info.status == 404), (name, "info"), &info);
}

/// Short, and without a character that does something to a terminal.
fn is_tame(text: &str, longest: usize) -> bool {
    text.len() <= longest && text.bytes().all(|b| b == b' ' || b.is_ascii_graphic())
}

fn metrics(agent: &Agent, rows: &[(Row, Gets, Malformed)], wrong: &Wrong) {
    let mut reasons: BTreeMap<&str, usize> = BTreeMap::new();
    for reason in rows.iter().filter_map(|(_, gets, _)| gets.reason()) {
        *reasons.entry(reason).or_default() += 1;
    }
    let mut annotations: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for (row, _, malformed) in rows {
        if let Some((annotation, _)) = malformed {
            annotations.entry(annotation).or_default().insert(&row.namespace);
        }
    }
    let is = |sample: String, wanted: usize| {
        let wanted = f64::from(u32::try_from(wanted).unwrap());
        let counted = || Ok((agent.metric(&sample)? - wanted).abs() < f64::EPSILON);
        let in_time = agent.poll(&sample, counted);
        wrong.unless(in_time.is_ok(), (&sample, wanted), agent.metric(&sample));
    };
    for (reason, pods) in reasons {
        is(format!("rolegate_pods_refused{{reason=\"{reason}\"}}"), pods);
        is(format!("rolegate_credentials_denied_total{{reason=\"{reason}\"}}"), TIMES * pods);
    }
    for (annotation, namespaces) in annotations {
        let sample = format!("rolegate_namespace_annotations_malformed{{annotation=\"{annotation}\"}}");
        is(sample, namespaces.len());
    }
}

/// Of each refused pod one line when it was seen and one when it asked; of each malformed namespace one; each with
/// the name of what it is about, none long or with a control character.
fn log(lines: &[Line], rows: &[(Row, Gets, Malformed)], wrong: &Wrong) {
    for line in lines {
        let tame = line.text.len() <= LONGEST_LINE_BYTES && !line.text.chars().any(char::is_control);
        wrong.unless(tame, "line", &line.text);
    }
    let of = |message: &str, key: &str, name: &str| -> Vec<&Line> {
        lines
            .iter()
            .filter(|line| line.text_of("message").as_deref() == Some(message))
            .filter(|line| line.text_of(key).as_deref() == Some(name))
            .collect()
    };
    for (row, gets, malformed) in rows {
        for message in ["pod is refused its role", "refused"] {
            let mut said = of(message, "uid", &row.uid);
            // A call to STS that takes this machine longer than a request is held is not the annotation's doing.
            said.retain(|line| line.text_of("reason").as_deref() != Some("timeout"));
            let Gets::Refused { reason, says, .. } = gets else {
                wrong.unless(said.is_empty(), (&row.name, message), &said);
                continue;
            };
            let right = |line: &Line| {
                line.text_of("level").as_deref() == Some("WARN")
                    && line.text_of("pod").as_ref() == Some(&row.name)
                    && line.text_of("namespace").as_ref() == Some(&row.namespace)
                    && line.text_of("reason").as_deref() == Some(reason)
                    && line
                        .text_of("detail")
                        .is_some_and(|detail| detail.contains(says) && is_tame(&detail, 1_024))
            };
            wrong.unless(said.len() == 1 && right(said[0]), (&row.name, message), &said);
        }
        let said = of("annotation of the namespace is malformed", "namespace", &row.namespace);
        let right = malformed.map_or(said.is_empty(), |(annotation, says)| {
            said.iter().filter(|line| line.text_of("annotation").as_deref() == Some(annotation)).count() == 1
                && said.iter().any(|line| {
                    let detail = line.text_of("detail").unwrap_or_default();
                    detail.contains(says) && detail.contains("iam.amazonaws.com/") && is_tame(&detail, 1_024)
                })
        });
        wrong.unless(right, (&row.name, "of the namespace", malformed), &said);
    }
}

/// The samples of a page of metrics: names with their labels.
pub(crate) fn series(agent: &Agent) -> BTreeSet<String> {
    let sample = Regex::new(r"(?m)^([a-z][^ ]*|[a-z_]+\{[^}]*\}) ").unwrap();
    let page = agent.admin("/metrics").unwrap().text();
    sample.captures_iter(&page).map(|line| line[1].to_owned()).collect()
}
