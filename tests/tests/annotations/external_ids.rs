//! `iam.amazonaws.com/external-id` of a pod: everything that it can hold.

use rolegate_tests::world::arn;

use crate::lab::{ALLOWED_ROLES, EXTERNAL_ID_KEY, Lab};
use crate::table::{self, Gets, Malformed, NEIGHBOUR};

/// Of an external id, in characters (STS API reference, `AssumeRole`).
const LONGEST: usize = 1_224;
const LENGTH: &str = "allowed are 2 to 1224";
const CHARACTER: &str = "allowed are letters, digits and _+=,.@:/-";

fn rows() -> Vec<(&'static str, String, Gets)> {
    let refused = |says| Gets::Refused { listed: "MyPodRole", reason: "malformed_external_id", says };
    let served = || Gets::role("MyPodRole");
    let row = |name, value: &str, says| (name, value.to_owned(), refused(says));
    vec![
        ("empty", String::new(), served()),
        ("usual", "tenant-1:a/b=c,d.e@f+g_h".into(), served()),
        ("two-characters", "ab".into(), served()),
        ("nearly-longest", "a".repeat(LONGEST - 1), served()),
        ("longest", "b".repeat(LONGEST), served()),
        ("too-long", "c".repeat(LONGEST + 1), refused(LENGTH)),
        ("sixty-four-kilobytes", "d".repeat(64 << 10), refused(LENGTH)),
        row("one-character", "a", LENGTH),
        row("space", " ", LENGTH),
        row("spaces", "    ", CHARACTER),
        row("space-within", "tenant 1", CHARACTER),
        row("newline-after", "tenant-1\n", CHARACTER),
        row("newline-within", "tenant-1\ntenant-2", CHARACTER),
        row("nul", "tenant-1\0", CHARACTER),
        row("escape-sequence", "\u{1b}[2Jtenant", CHARACTER),
        row("fullwidth", "ｔｅｎａｎｔ", CHARACTER),
        row("right-to-left", "\u{202e}tnanet", CHARACTER),
        row("combining", "tenant\u{301}", CHARACTER),
        row("star", "tenant-*", CHARACTER),
        row("percent-encoded", "tenant%201", CHARACTER),
        row("quoted", "\"tenant-1\"", CHARACTER),
        row("ampersand", "tenant&Action=GetCallerIdentity", CHARACTER),
        row("backslash", r"tenant\1", CHARACTER),
    ]
}

/// What STS is asked with is the pod's external id, byte for byte, or nothing is asked: a row that is refused has the
/// neighbour's role and session name, and never gets its session.
#[test]
fn every_malformed_external_id_is_refused_and_reported_on_its_pod_and_never_sent() {
    let test = "every_malformed_external_id_is_refused_and_reported_on_its_pod_and_never_sent";
    let Some(lab) = Lab::new(test) else { return };
    let rows = rows();
    lab.namespace("default", &[(ALLOWED_ROLES, r#"["MyPodRole"]"#)]);
    let neighbour = lab.row("default", NEIGHBOUR, |pod| pod.role("MyPodRole"));
    let pods: Vec<(_, Gets, Malformed)> = rows
        .iter()
        .map(|(name, value, gets)| {
            let row =
                lab.row("default", name, |pod| pod.role("MyPodRole").annotation(EXTERNAL_ID_KEY, value));
            (row, gets.clone(), None)
        })
        .collect();
    let agent = lab.world.agent(&[]).unwrap();
    table::run(&lab, agent, &neighbour, &pods);

    let mut sent: Vec<Option<String>> = lab
        .world
        .sts
        .calls()
        .into_iter()
        .filter(|call| call.role == arn("MyPodRole"))
        .map(|call| call.external_id)
        .collect();
    let good = rows.iter().filter(|(_, value, gets)| matches!(gets, Gets::Served(_)) && !value.is_empty());
    let mut wanted: Vec<_> = good.map(|(_, value, _)| Some(value.clone())).chain([None]).collect();
    sent.sort();
    wanted.sort();
    assert_eq!(sent, wanted, "one call for each");
}
