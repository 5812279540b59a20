//! Answers of STS that are wrong, each in its own way; `tests/door/sts.rs` has the plainer ones.

use rolegate_tests::sts::{Fault, Sts};
use rolegate_tests::topology::WORLD_V4;

use crate::lab::{Lab, Wrong, document, time_of, told, wall, word};

/// A role of this name, how its calls go wrong, what a pod without a session is told, and what the log says.
struct Row {
    role: &'static str,
    fault: Fault,
    told: &'static str,
    log: &'static str,
}

/// Calls during one request that is held 900 ms: at once and after 0.1, 0.3 and 0.7 s less a quarter, one that is
/// due when it leaves; twice as many where the agent's own credentials or clock may be at fault.
const CALLS: usize = 5;

fn row(role: &'static str, told: &'static str, log: &'static str, fault: Fault) -> Row {
    Row { role, fault, told, log }
}

fn xml(rewrite: fn(&str) -> String) -> Fault {
    Fault::Rewritten { content_type: "text/xml", rewrite }
}

fn error(status: u16, code: &'static str) -> Fault {
    Fault::Error { status, code, message: "said so" }
}

/// The text with what is between the two marks replaced.
fn between(text: &str, begin: &str, end: &str, by: &str) -> String {
    let (head, rest) = text.split_once(begin).unwrap_or((text, ""));
    let (_, tail) = rest.split_once(end).unwrap_or(("", ""));
    format!("{head}{begin}{by}{end}{tail}")
}

const OTHER: &str = "was not asked for";
const NOT_OF_STS: &str = "HTTP 200 without a code or a session of STS";
const BROKEN: &str = "cut short or not STS's";
const ENDED: &str = "ended by this node's clock";
const INCOMPLETE: &str = "incomplete";

fn rows(elsewhere: &str) -> Vec<Row> {
    vec![
        row("html", "500", NOT_OF_STS, {
            let rewrite = |_: &str| "<html><body>Sign in to the network</body></html>".into();
            Fault::Rewritten { content_type: "text/html", rewrite }
        }),
        row("empty", "500", NOT_OF_STS, xml(|_| String::new())),
        row("json", "500", NOT_OF_STS, {
            let rewrite = |_: &str| r#"{"AssumeRoleResponse":{}}"#.into();
            Fault::Rewritten { content_type: "application/json", rewrite }
        }),
        row("typed-html", "Success", "", {
            Fault::Rewritten { content_type: "text/html", rewrite: str::to_owned }
        }),
        row("redirected", "500", "", Fault::Redirect(elsewhere.to_owned())),
        row(
            "other-role",
            "500",
            OTHER,
            xml(|it| it.replace("assumed-role/other-role/", "assumed-role/admin/")),
        ),
        row("other-account", "500", OTHER, xml(|it| it.replace("sts::123456789012", "sts::210987654321"))),
        row("other-partition", "500", OTHER, xml(|it| it.replace("arn:aws:sts", "arn:aws-cn:sts"))),
        row(
            "other-session",
            "500",
            OTHER,
            xml(|it| it.replace("default.default</Arn>", "kube-system.admin</Arn>")),
        ),
        row("arn-of-nothing", "500", OTHER, xml(|it| between(it, "<Arn>", "</Arn>", ""))),
        row("nobody", "500", INCOMPLETE, xml(|it| it.replace("AssumedRoleUser>", "SomebodyElse>"))),
        row("no-credentials", "500", INCOMPLETE, xml(|it| it.replace("Credentials>", "Papers>"))),
        row("no-end", "500", ENDED, xml(|it| it.replace("Expiration>", "Sometime>"))),
        row(
            "end-of-nothing",
            "500",
            NOT_OF_STS,
            xml(|it| between(it, "<Expiration>", "</Expiration>", "tomorrow")),
        ),
        row("past", "500", ENDED, {
            xml(|it| between(it, "<Expiration>", "</Expiration>", "2001-01-01T00:00:00Z"))
        }),
        row("no-token", "500", "", xml(|it| it.replace("SessionToken>", "Ticket>"))),
        row("token-of-nothing", "500", INCOMPLETE, {
            xml(|it| between(it, "<SessionToken>", "</SessionToken>", ""))
        }),
        row("odd", "Success", "", {
            xml(|it| between(it, "<SecretAccessKey>", "</SecretAccessKey>", "&quot;\\/&lt;\u{e9}&amp;\t{}"))
        }),
        row("flood", "500", BROKEN, Fault::Flood),
        row("skewed", "500", "RequestTimeTooSkewed", error(403, "RequestTimeTooSkewed")),
        row("signature", "500", "SignatureDoesNotMatch", error(403, "SignatureDoesNotMatch")),
        row("expired", "500", "ExpiredToken", error(403, "ExpiredToken")),
        row("denied", "AssumeRoleUnauthorizedAccess", "said so", error(403, "AccessDenied")),
        row("region", "Failed", "asked in eu-central-1: activate STS there", {
            error(403, "RegionDisabledException")
        }),
    ]
}

/// K14, K15, P35: whatever STS answers, a pod gets a session of its own role or none, the calls are bounded, they
/// are AssumeRole alone, and what is cached is served until its end.
#[test]
fn whatever_sts_answers_is_a_session_of_the_pods_own_role_or_none() {
    let test = "whatever_sts_answers_is_a_session_of_the_pods_own_role_or_none";
    let Some(lab) = Lab::start(test, &["--log-level=info", "--sts-burst=500"]) else { return };
    let elsewhere = Sts::start(lab.world.topology.world().listen((WORLD_V4, 4567).into()).unwrap()).unwrap();
    let (before, wrong) = (lab.world.sts.calls().len(), Wrong::default());
    let rows = rows(&elsewhere.url());
    // A few at a time: they mostly wait.
    for some in rows.chunks(6) {
        std::thread::scope(|scope| {
            for row in some {
                scope.spawn(|| check(&lab, row, &wrong));
            }
        });
    }
    wrong.unless(elsewhere.calls().is_empty(), "redirected", "followed with a signature", elsewhere.calls());
    let actions: Vec<_> =
        lab.world.sts.calls().split_off(before).into_iter().map(|call| call.action).collect();
    wrong.unless(actions.iter().all(|it| it == "AssumeRole"), "all", "nothing but AssumeRole", &actions);
    let mismatched = lab.agent.metric("rolegate_sts_calls_total{cause=\"demand\",result=\"mismatched\"}");
    wrong.unless(mismatched.as_ref().is_ok_and(|n| *n >= 5.0), "other-role", "counted", &mismatched);
    let most = peak_kib(&lab);
    wrong.unless(most < 128 * 1024, "flood", "KiB at most", most);
    wrong.none(&lab.agent.log());
}

fn check(lab: &Lab, row: &Row, wrong: &Wrong) {
    let Row { role, fault, .. } = row;
    let pod = lab.pod(role, Some(fault.clone()));
    let mut answer = document(&pod, role).unwrap();
    let calls = lab.calls_of(role);
    wrong.unless(calls <= 2 * CALLS, role, "calls of one request", calls);
    // A machine that is slow answers 500 before STS has said anything: what it says is for the next request.
    let as_told = || {
        answer = if word(&answer) == row.told { answer.clone() } else { document(&pod, role)? };
        Ok(word(&answer) == row.told && lab.calls_of(role) > 0)
    };
    let as_told = lab.agent.poll(row.told, as_told).is_ok();
    wrong.unless(as_told, role, "without a session", word(&answer));
    let said =
        || Ok(lab.agent.lines().iter().any(|line| line.text.contains(role) && line.text.contains(row.log)));
    wrong.unless(lab.agent.poll(row.log, said).is_ok(), role, "log", row.log);
    if *role == "odd" {
        let document = told(&answer);
        wrong.unless(document["SecretAccessKey"] == "\"\\/<\u{e9}&\t{}", role, "as it is", &document);
    }
    if row.told == "Success" {
        return;
    }

    lab.world.sts.faults().of_role(role, None);
    // What STS refused is remembered for those who were told; a pod made again is served at its first request.
    let again = (row.told != "500").then(|| lab.another_pod(&format!("{role}-again"), role));
    let pod = again.unwrap_or(pod);
    let session = lab.served(&pod, role);
    lab.world.sts.faults().of_role(role, Some(fault.clone()));
    let calls = lab.calls_of(role);
    for _ in 0..3 {
        let cached = told(&document(&pod, role).unwrap());
        wrong.unless(cached == session, role, "with a session", &cached);
    }
    wrong.unless(time_of(&session, "Expiration") > wall(), role, "unexpired", &session);
    wrong.unless(lab.calls_of(role) == calls, role, "calls with a session", lab.calls_of(role));
}

/// The most memory that the agent has had.
fn peak_kib(lab: &Lab) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", lab.agent.pid())).unwrap();
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    peak.trim().trim_end_matches("kB").trim().parse().unwrap()
}
